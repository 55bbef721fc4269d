"""MeDSLIP: the image in two streams, each asked its list of text queries (Fan et al., arXiv 2403.10635, figure 2).

Shapes: B batch, A 51 anatomies, P 75 pathologies, N patches, D width, T text width, F free-text queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medslip.errors import InputError
from medslip.model.image_encoder import ImageEncoder, Trunk, TrunkName
from medslip.model.query_decoder import QueryDecoder

Similarity = Literal["dot", "cosine"]


@dataclass(frozen=True)
class ModelConfig:
    """The model's shape.

    Attributes:
        trunk: Residual trunk of the image encoder.
        trunk_weights: None trains from scratch, as published; else torchvision's name of the weights
            (IMAGENET1K_V1) or a file with a torchvision state dict.
        residual_start: Scale, above 0 and at most 1, that the last normalisation of each residual block starts from, only of a
            trunk from scratch: 1 as published; below it patches first see little more than themselves, and queries learn to
            look at the patch that holds a finding instead of a neighbour that also sees it.
        width: D, width of patches and queries.
        decoder_layers: Layers of each query decoder.
        decoder_heads: Attention heads of each layer.
        feed_forward: Hidden width of the decoders' feed-forward part.
        dropout: Dropout probability in decoders and heads.
        null_patch: Whether queries can also look at a patch of zeros, where there is nothing to see; not in the published form.
        similarity: How the contrastive losses compare: "dot" as published, or "cosine" with a learnt temperature; ProtoCL's
            cosine is that of text embeddings about their mean.
        initialisation: Of everything but the trunk: "published" draws every linear weight from N(0, 0.02); "scaled" keeps the
            variance of what passes through, and learns sooner.
    """

    trunk: TrunkName = "resnet50"
    trunk_weights: str | None = None
    residual_start: float = 1.0
    width: int = 256
    decoder_layers: int = 4
    decoder_heads: int = 4
    feed_forward: int = 1024
    dropout: float = 0.1
    null_patch: bool = False
    similarity: Similarity = "cosine"
    initialisation: Literal["scaled", "published"] = "scaled"

    def __post_init__(self) -> None:
        if self.trunk not in get_args(TrunkName):
            raise InputError(f"model.trunk: {self.trunk!r} is none of {', '.join(get_args(TrunkName))}")
        for name in ("width", "decoder_layers", "decoder_heads", "feed_forward"):
            if getattr(self, name) < 1:
                raise InputError(f"model.{name}: {getattr(self, name)} is less than 1")
        if self.width % self.decoder_heads:
            raise InputError(f"model.width: {self.width} is no multiple of model.decoder_heads, {self.decoder_heads}")
        if not 0 < self.residual_start <= 1:
            raise InputError(f"model.residual_start: {self.residual_start} is not above 0 and at most 1")
        if self.residual_start != 1 and self.trunk_weights is not None:
            raise InputError(
                f"model.residual_start: {self.residual_start} is of a trunk from scratch, but model.trunk_weights is "
                f"{self.trunk_weights}; leave one of them out"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.dropout: {self.dropout} is outside 0..1")


@dataclass(frozen=True)
class MeDSLIPOutput:
    """What the model says of a batch.

    Attributes:
        pathology_logits: B x P x 2, existence (absent, present).
        anatomy_logits: B x A x 2, existence (absent, present).
        icl_logits: B x A x P, does this anatomy go with this pathology in this image.
        pathology_prototypes: B x P x T, where each pathology query points in text space (ProtoCL).
        anatomy_prototypes: B x A x T.
        pathology_patches: B x N x D, the pathology stream.
        anatomy_patches: B x N x D.
        free_logits: B x F x 2 of the free-text queries, or None.
        pathology_maps: B x layers x heads x P x N cross-attention, or None if it was not asked for.
        anatomy_maps: B x layers x heads x A x N, or None.
        free_maps: B x layers x heads x F x N, or None.
    """

    pathology_logits: Tensor
    anatomy_logits: Tensor
    icl_logits: Tensor
    pathology_prototypes: Tensor
    anatomy_prototypes: Tensor
    pathology_patches: Tensor
    anatomy_patches: Tensor
    free_logits: Tensor | None = None
    pathology_maps: Tensor | None = None
    anatomy_maps: Tensor | None = None
    free_maps: Tensor | None = None

    @property
    def pathology_attention(self) -> Tensor | None:
        """B x P x N, mean over heads and layers; each query's map sums to 1, to less with a null patch."""
        return None if self.pathology_maps is None else self.pathology_maps.mean(dim=(1, 2))

    @property
    def anatomy_attention(self) -> Tensor | None:
        """B x A x N, mean over heads and layers."""
        return None if self.anatomy_maps is None else self.anatomy_maps.mean(dim=(1, 2))

    @property
    def free_attention(self) -> Tensor | None:
        """B x F x N, mean over heads and layers."""
        return None if self.free_maps is None else self.free_maps.mean(dim=(1, 2))


class MeDSLIP(nn.Module):
    """The dual-stream model.

    Args:
        image_encoder: Images -> two streams of B x N x D.
        pathology_decoder: Pathology queries ask the pathology stream.
        anatomy_decoder: Anatomy queries ask the anatomy stream.
        pathology_prompts: P x T, the frozen text encoder's answer to the pathology prompts; stored with the weights,
            so that inference needs no text encoder.
        anatomy_prompts: A x T.
        width: D.
        dropout: In front of the heads.
        similarity: "dot" as published; "cosine" adds a learnt temperature to both contrastive losses.
    """

    pathology_prompts: Tensor
    anatomy_prompts: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoder,
        pathology_decoder: QueryDecoder,
        anatomy_decoder: QueryDecoder,
        pathology_prompts: Tensor,
        anatomy_prompts: Tensor,
        width: int = 256,
        dropout: float = 0.1,
        similarity: Similarity = "cosine",
    ) -> None:
        super().__init__()
        text_width = pathology_prompts.shape[1]
        self.register_buffer("pathology_prompts", pathology_prompts.detach().clone().float())
        self.register_buffer("anatomy_prompts", anatomy_prompts.detach().clone().float())
        self.image_encoder = image_encoder
        self.query_projection = nn.Linear(text_width, width)
        self.pathology_decoder = pathology_decoder
        self.anatomy_decoder = anatomy_decoder
        self.query_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.pathology_existence = nn.Linear(width, 2)
        self.anatomy_existence = nn.Linear(width, 2)
        self.pathology_prototype = nn.Linear(width, text_width)
        self.anatomy_prototype = nn.Linear(width, text_width)
        self.similarity: Similarity = similarity
        if similarity == "cosine":
            # exp(.) of the first two is the inverse temperature; ICL, a sigmoid, learns its threshold too.
            self.protocl_log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
            self.icl_log_scale = nn.Parameter(torch.tensor(10.0).log())
            self.icl_bias = nn.Parameter(torch.tensor(0.0))

    def forward(
        self, images: Tensor, free_prompts: Tensor | None = None, with_attention: bool = False
    ) -> MeDSLIPOutput:
        """Ask an image batch everything in the vocabulary.

        Args:
            images: B x 3 x S x S, normalised with the mean and deviation stored with the checkpoint.
            free_prompts: F x T embeddings of free-text queries on the pathology stream. The 75 do not see them, nor
                they one another: no answer depends on what else is asked.
            with_attention: Whether to keep the cross-attention maps.

        Returns:
            Logits, prototypes and, where asked for, attention.
        """
        pathology_patches, anatomy_patches = self.image_encoder(images)
        p = len(self.pathology_prompts)
        asked = self.pathology_prompts if free_prompts is None else torch.cat([self.pathology_prompts, free_prompts])
        blocked = None if free_prompts is None else _free_queries_unseen(p, len(free_prompts), asked.device)

        f_pathology, pathology_maps = self._ask(
            self.pathology_decoder, asked, pathology_patches, blocked, with_attention
        )
        f_anatomy, anatomy_maps = self._ask(
            self.anatomy_decoder, self.anatomy_prompts, anatomy_patches, None, with_attention
        )
        existence = self.pathology_existence(self.dropout(f_pathology))
        f_pathology = f_pathology[:, :p]
        return MeDSLIPOutput(
            pathology_logits=existence[:, :p],
            anatomy_logits=self.anatomy_existence(self.dropout(f_anatomy)),
            icl_logits=self._pair(f_anatomy, f_pathology),
            pathology_prototypes=self.pathology_prototype(self.dropout(f_pathology)),
            anatomy_prototypes=self.anatomy_prototype(self.dropout(f_anatomy)),
            pathology_patches=pathology_patches,
            anatomy_patches=anatomy_patches,
            free_logits=None if free_prompts is None else existence[:, p:],
            pathology_maps=None if pathology_maps is None else pathology_maps[..., :p, :],
            anatomy_maps=anatomy_maps,
            free_maps=None if pathology_maps is None or free_prompts is None else pathology_maps[..., p:, :],
        )

    def _ask(
        self, decoder: QueryDecoder, prompts: Tensor, patches: Tensor, blocked: Tensor | None, with_attention: bool
    ) -> tuple[Tensor, Tensor | None]:
        queries = self.query_projection(prompts).expand(len(patches), -1, -1)  # B x Q x D
        f, maps = decoder(queries, patches, blocked, with_attention)
        return self.query_norm(f), maps

    def _pair(self, f_anatomy: Tensor, f_pathology: Tensor) -> Tensor:
        """f_anatomy f_pathology^T, B x A x P."""
        if self.similarity == "dot":
            return f_anatomy @ f_pathology.transpose(1, 2)
        cosine = F.normalize(f_anatomy, dim=-1) @ F.normalize(f_pathology, dim=-1).transpose(1, 2)
        return self.icl_log_scale.exp() * cosine + self.icl_bias

    @property
    def protocl_scale(self) -> Tensor | None:
        """Inverse temperature of ProtoCL's cosine similarity; None where the similarity is the dot product."""
        return self.protocl_log_scale.exp() if self.similarity == "cosine" else None


def _free_queries_unseen(known: int, free: int, device: torch.device) -> Tensor:
    """(P + F) x (P + F), True where a query must not see another: nobody sees a free-text query but itself."""
    blocked = torch.zeros(known + free, known + free, dtype=torch.bool, device=device)
    blocked[:, known:] = True
    blocked[range(known, known + free), range(known, known + free)] = False
    return blocked


def build_model(config: ModelConfig, pathology_prompts: Tensor, anatomy_prompts: Tensor) -> MeDSLIP:
    """Compose the model and initialise it.

    Args:
        config: The model's shape.
        pathology_prompts: P x T embeddings.
        anatomy_prompts: A x T embeddings.
    """

    def decoder() -> QueryDecoder:
        return QueryDecoder(
            config.width,
            config.decoder_layers,
            config.decoder_heads,
            config.feed_forward,
            config.dropout,
            config.null_patch,
        )

    model = MeDSLIP(
        ImageEncoder(Trunk(config.trunk, config.trunk_weights, config.residual_start), config.width),
        decoder(),
        decoder(),
        pathology_prompts,
        anatomy_prompts,
        config.width,
        config.dropout,
        config.similarity,
    )
    if config.initialisation == "published":
        _initialise_as_published(model)
    else:
        _initialise_scaled(model)
    return model


def _initialise_as_published(model: MeDSLIP) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.normal_(module.in_proj_weight, std=0.02)


def _initialise_scaled(model: MeDSLIP) -> None:
    """Weights that let the image through from the first step on.

    N(0, 0.02) leaves every stream about a hundredth of the trunk's scale, so that queries see next to nothing for long.
    Here layers keep their input's variance (Glorot), the gate starts at an even split, and queries start with unit variance
    about the prompts' mean: a BERT's [CLS] states share most of their length, which tells no query from another.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            nn.init.xavier_uniform_(module.in_proj_weight)
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
