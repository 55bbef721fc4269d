"""MeDSLIP: two streams of image patches, each queried with a fixed list of texts (Fan et al., arXiv 2403.10635, figure 2).

Shapes: B batch, A 51 anatomies, P 75 pathologies, N patches, D width, T text width, F free-text queries.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medslip.errors import InputError, check_at_least
from medslip.model.image_encoder import ImageEncoder, Streams
from medslip.model.query_decoder import QueryDecoder
from medslip.model.trunk import Trunk, TrunkName, check_trunk

Similarity = Literal["dot", "cosine"]


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and initialisation.

    Attributes:
        trunk: Backbone of the image encoder.
        trunk_weights: None for random initialisation, as in the paper; otherwise torchvision's name of the weights
            (IMAGENET1K_V1) or a file with a torchvision state dict.
        residual_gamma: Initial scale, above 0 and at most 1, of the last normalisation in each residual block of a randomly
            initialised ResNet; 1 in the paper. Below 1, patches initially see little more than themselves, and queries learn
            to attend to the patch that shows a finding instead of a neighbour that also sees it.
        width: D, width of patches and queries.
        decoder_layers: Layers of each query decoder.
        decoder_heads: Attention heads per layer.
        feed_forward: Hidden width of the decoders' feed-forward part.
        dropout: Dropout probability in decoders and heads.
        add_zero_attn: Whether queries can also attend to a zero key and value, when there is nothing to see; not in the paper.
        similarity: Similarity in the contrastive losses: "dot" as in the paper's code, or "cosine" with a learnt temperature;
            ProtoCL's cosine is between prototypes and text embeddings centred on their mean.
        initialisation: Initialisation of everything but the trunk: "authors" draws every linear weight from N(0, 0.02), as the
            paper's code does; "scaled" preserves the variance of activations, and learns sooner.
    """

    trunk: TrunkName = "resnet50"
    trunk_weights: str | None = None
    residual_gamma: float = 1.0
    width: int = 256
    decoder_layers: int = 4
    decoder_heads: int = 4
    feed_forward: int = 1024
    dropout: float = 0.1
    add_zero_attn: bool = False
    similarity: Similarity = "cosine"
    initialisation: Literal["scaled", "authors"] = "scaled"

    def __post_init__(self) -> None:
        check_trunk(self.trunk, self.residual_gamma)
        check_at_least(self, "model.", width=1, decoder_layers=1, decoder_heads=1, feed_forward=1)
        if self.width % self.decoder_heads:
            raise InputError(
                f"model.width: {self.width} is not a multiple of model.decoder_heads, {self.decoder_heads}"
            )
        if not 0 < self.residual_gamma <= 1:
            raise InputError(f"model.residual_gamma: {self.residual_gamma} is not above 0 and at most 1")
        if self.residual_gamma != 1 and self.trunk_weights is not None:
            raise InputError(
                f"model.residual_gamma: {self.residual_gamma} is for random initialisation, but model.trunk_weights is "
                f"{self.trunk_weights}; leave one of them out"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.dropout: {self.dropout} is outside 0..1")


@dataclass(frozen=True)
class Pairs:
    """Which anatomy goes with which pathology. Reports mention few of the cells, so that ICL computes only those.

    Attributes:
        anatomy: B x A x D, decoder features.
        pathology: B x P x D.
        scale: Of the cosine similarity; None where the similarity is the dot product.
        bias: Added to the scaled cosine.
    """

    anatomy: Tensor
    pathology: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None

    def of(self, image: Tensor, anatomy: Tensor, pathology: Tensor) -> Tensor:
        """The logits of M cells, given by three vectors of M indices, int64."""
        f_a = self.anatomy.flatten(0, 1).index_select(0, image * self.anatomy.shape[1] + anatomy)
        f_p = self.pathology.flatten(0, 1).index_select(0, image * self.pathology.shape[1] + pathology)
        return self._logits(f_a, f_p, lambda a, p: (a * p).sum(dim=-1))

    def all(self) -> Tensor:
        """B x A x P logits."""
        return self._logits(self.anatomy, self.pathology, lambda a, p: a @ p.transpose(1, 2))

    def _logits(self, f_a: Tensor, f_p: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        with _mode_of(self.anatomy):
            if self.scale is None or self.bias is None:
                return product(f_a, f_p)
            return self.scale * product(F.normalize(f_a, dim=-1), F.normalize(f_p, dim=-1)) + self.bias


@dataclass(frozen=True)
class Prototypes:
    """Where the queries of one stream point in text space. ProtoCL needs those of few queries, so they are computed on demand.

    Attributes:
        features: B x Q x D, decoder features after dropout.
        head: D -> T.
    """

    features: Tensor
    head: nn.Module

    def of(self, queries: Tensor) -> Tensor:
        """M x T, the prototypes of M queries, given as image x Q + query, int64."""
        return self._compute(self.features.flatten(0, 1).index_select(0, queries))

    def all(self) -> Tensor:
        """B x Q x T."""
        return self._compute(self.features)

    def _compute(self, features: Tensor) -> Tensor:
        with _mode_of(features):
            prototypes: Tensor = self.head(features)
        return prototypes


def _mode_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Inference mode for an output that was computed in it, and may be used after it has ended."""
    return torch.inference_mode() if tensor.is_inference() else nullcontext()


@dataclass(frozen=True)
class MeDSLIPOutput:
    """The model's output for a batch, with all that the losses need.

    Attributes:
        pathology_logits: B x P x 2, existence (absent, present).
        anatomy_logits: B x A x 2, existence (absent, present).
        pairs: Which anatomy goes with which pathology in this image (ICL).
        prototypes: Where the queries of each stream point in text space (ProtoCL).
        patches: Patch features of each stream, B x N x D.
        maps: Cross-attention of each stream, B x layers x heads x P x N and B x layers x heads x A x N; None unless requested.
        prompts: Text embeddings of the pathologies, P x T, and of the anatomies, A x T.
        protocl_scale: Inverse temperature of ProtoCL's cosine similarity; None where the similarity is the dot product.
    """

    pathology_logits: Tensor
    anatomy_logits: Tensor
    pairs: Pairs
    prototypes: Streams[Prototypes]
    patches: Streams[Tensor]
    maps: Streams[Tensor | None]
    prompts: Streams[Tensor]
    protocl_scale: Tensor | None

    @property
    def icl_logits(self) -> Tensor:
        """B x A x P, whether this anatomy goes with this pathology in this image, computed here."""
        return self.pairs.all()

    @property
    def pathology_prototypes(self) -> Tensor:
        """B x P x T, the prototypes of all pathologies, computed here."""
        return self.prototypes.pathology.all()

    @property
    def anatomy_prototypes(self) -> Tensor:
        """B x A x T, the prototypes of all anatomies, computed here."""
        return self.prototypes.anatomy.all()

    @property
    def pathology_attention(self) -> Tensor | None:
        """B x P x N, mean over heads and layers; each query's map sums to 1, or to less with ``add_zero_attn``."""
        return None if self.maps.pathology is None else self.maps.pathology.mean(dim=(1, 2))

    @property
    def anatomy_attention(self) -> Tensor | None:
        """B x A x N, mean over heads and layers."""
        return None if self.maps.anatomy is None else self.maps.anatomy.mean(dim=(1, 2))


class MeDSLIP(nn.Module):
    """The dual-stream model.

    Args:
        config: Architecture and initialisation.
        pathology_prompts: P x T, the frozen text encoder's embeddings of the pathology prompts; stored with the weights,
            so that inference needs no text encoder.
        anatomy_prompts: A x T.

    Raises:
        InputError: ``trunk_weights`` cannot be used.
    """

    pathology_prompts: Tensor
    anatomy_prompts: Tensor

    def __init__(self, config: ModelConfig, pathology_prompts: Tensor, anatomy_prompts: Tensor) -> None:
        super().__init__()
        width, text_width = config.width, pathology_prompts.shape[1]
        shape = (
            width,
            config.decoder_layers,
            config.decoder_heads,
            config.feed_forward,
            config.dropout,
            config.add_zero_attn,
        )
        self.register_buffer("pathology_prompts", pathology_prompts.detach().clone().float())
        self.register_buffer("anatomy_prompts", anatomy_prompts.detach().clone().float())
        self.image_encoder = ImageEncoder(Trunk(config.trunk, config.trunk_weights, config.residual_gamma), width)
        self.query_projection = nn.Linear(text_width, width)
        self.pathology_decoder = QueryDecoder(*shape)
        self.anatomy_decoder = QueryDecoder(*shape)
        self.query_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        self.pathology_existence = nn.Linear(width, 2)
        self.anatomy_existence = nn.Linear(width, 2)
        self.pathology_prototype = nn.Linear(width, text_width)
        self.anatomy_prototype = nn.Linear(width, text_width)
        self.similarity = config.similarity
        if config.similarity == "cosine":
            # exp(.) of the first two is the inverse temperature; ICL, a sigmoid, learns its threshold too.
            self.protocl_log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
            self.icl_log_scale = nn.Parameter(torch.tensor(10.0).log())
            self.icl_bias = nn.Parameter(torch.tensor(0.0))
        _initialise(self, config.initialisation)

    def forward(self, images: Tensor, with_attention: bool = False) -> MeDSLIPOutput:
        """Query a batch of images with the whole vocabulary.

        Args:
            images: B x 3 x S x S, normalised with the mean and standard deviation stored with the checkpoint.
            with_attention: Whether to return the cross-attention maps.
        """
        patches = self.image_encoder(images)
        f_p, maps_p = self._query(self.pathology_decoder, self.pathology_prompts, patches.pathology, with_attention)
        f_a, maps_a = self._query(self.anatomy_decoder, self.anatomy_prompts, patches.anatomy, with_attention)
        return MeDSLIPOutput(
            pathology_logits=self.pathology_existence(self.dropout(f_p)),
            anatomy_logits=self.anatomy_existence(self.dropout(f_a)),
            pairs=self._pairs(f_p, f_a),
            prototypes=self._prototypes(f_p, f_a),
            patches=patches,
            maps=Streams(maps_p, maps_a),
            prompts=Streams(self.pathology_prompts, self.anatomy_prompts),
            protocl_scale=self.protocl_log_scale.exp() if self.similarity == "cosine" else None,
        )

    def predict(self, images: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Query the pathology stream alone, for classification; the same logits as those of ``forward``.

        Args:
            images: As for ``forward``.
            prompts: F x T, text embeddings of free-text queries.

        Returns:
            B x (P + F) x 2 existence logits (absent, present).
        """
        patches = self.image_encoder.pathology(images)
        f_p, _ = self._query(self.pathology_decoder, self.pathology_prompts, patches, False)
        logits = self.pathology_existence(self.dropout(f_p))
        return logits if prompts is None else torch.cat([logits, self.predict_text(patches, prompts)[0]], dim=1)

    def predict_text(
        self, patches: Tensor, prompts: Tensor, with_attention: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Query the pathology stream with free text.

        A free-text query is one more query of the pathology decoder, next to the P of the vocabulary, as in training; free-text
        queries do not see one another, so that none depends on which others are given.

        Args:
            patches: B x N x D, the pathology stream; see ``MeDSLIPOutput.patches``.
            prompts: F x T, text embeddings of the queries.
            with_attention: Whether to return the cross-attention maps.

        Returns:
            B x F x 2 existence logits (absent, present), and B x layers x heads x F x N cross-attention, or None.
        """
        known = len(self.pathology_prompts)
        queries = torch.cat([self.pathology_prompts, prompts])
        blocked = torch.zeros(len(queries), len(queries), dtype=torch.bool, device=queries.device)
        blocked[:, known:] = True
        blocked.fill_diagonal_(False)  # each free-text query is seen by itself alone
        f, maps = self._query(self.pathology_decoder, queries, patches, with_attention, blocked)
        logits = self.pathology_existence(self.dropout(f[:, known:]))
        return logits, None if maps is None else maps[..., known:, :]

    def _query(
        self,
        decoder: QueryDecoder,
        prompts: Tensor,
        patches: Tensor,
        with_attention: bool,
        blocked: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        queries = self.query_projection(prompts).expand(len(patches), -1, -1)  # B x Q x D
        f, maps = decoder(queries, patches, blocked, with_attention)
        return self.query_norm(f), maps

    def _pairs(self, f_pathology: Tensor, f_anatomy: Tensor) -> Pairs:
        learnt = () if self.similarity == "dot" else (self.icl_log_scale.exp(), self.icl_bias)
        return Pairs(f_anatomy, f_pathology, *learnt)

    def _prototypes(self, f_pathology: Tensor, f_anatomy: Tensor) -> Streams[Prototypes]:
        return Streams(
            Prototypes(self.dropout(f_pathology), self.pathology_prototype),
            Prototypes(self.dropout(f_anatomy), self.anatomy_prototype),
        )


def _initialise(model: MeDSLIP, initialisation: str) -> None:
    """Initialise everything but the trunk.

    With N(0, 0.02) ("authors") the streams have about a hundredth of the trunk's scale, and queries see next to nothing for a
    long time. With "scaled" the image passes through from the first step on: layers preserve the variance of their input
    (Glorot), the gate starts at an even split, and queries start with unit variance around the mean of the prompts: the [CLS]
    states of a BERT have most of their length in common, which does not distinguish the queries.
    """
    draw = partial(nn.init.normal_, std=0.02) if initialisation == "authors" else nn.init.xavier_uniform_
    trunk = set(model.image_encoder.trunk.modules())
    for module in model.modules():
        if isinstance(module, nn.Linear) and module not in trunk:
            draw(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            draw(module.in_proj_weight)
    if initialisation == "authors":
        return
    encoder = model.image_encoder
    for stream in (encoder.pathology_stream, encoder.anatomy_stream):
        nn.init.kaiming_uniform_(stream.hidden.weight, nonlinearity="relu")
    nn.init.normal_(encoder.gate.weight, std=0.02)
    nn.init.constant_(encoder.gate.bias, 0.5)
    for head in (model.pathology_existence, model.anatomy_existence):
        nn.init.normal_(head.weight, std=0.02)
    prompts = torch.cat([model.pathology_prompts, model.anatomy_prompts])
    projection, centre = model.query_projection, prompts.mean(dim=0)
    with torch.no_grad():
        projection.weight /= ((prompts - centre) @ projection.weight.T).std().clamp(min=1e-6)
        projection.bias.copy_(-projection.weight @ centre)
