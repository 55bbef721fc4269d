"""Checkpoints in and out: one safetensors file that carries its own description, and the published .pth.

A checkpoint of ours is one file, so that it can be copied, renamed and replaced atomically. Its header holds the Card as
JSON; a side-car FILE.json repeats it for people.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medslip.data.transforms import EvaluationTransform
from medslip.errors import InputError, one_line
from medslip.files import to_json, write_text
from medslip.model.classifier import Classifier, LinearProbe, fourth_stage
from medslip.model.image_encoder import Trunk
from medslip.model.medslip import MeDSLIP, ModelConfig, build_model
from medslip.model.segmenter import Segmenter
from medslip.model.text_encoder import TextConfig, TextEncoder, TextIdentity
from medslip.model.weights import load_strictly, read_tensors, write_tensors
from medslip.version import __version__
from medslip.vocabulary import ANATOMIES, PATHOLOGIES, Prompts

_FORMAT, _VERSION = "medslip-checkpoint", 1


@dataclass(frozen=True)
class Card:
    """What a checkpoint says of itself.

    Attributes:
        model: The model's shape.
        transform: How an image is prepared for it.
        text: Which text encoder made the prompts' embeddings; None where embeddings were given without one.
        prompts: The prompts' texts; None where embeddings were given.
        provenance: Where it came from: version, epoch, step, scores, data.
    """

    model: ModelConfig
    transform: EvaluationTransform
    text: TextIdentity | None = None
    prompts: Prompts | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """As one JSON object."""
        return to_json({"format": _FORMAT, "version": _VERSION, "medslip": __version__, **asdict(self)}, indent=1)

    @staticmethod
    def from_json(text: str, source: str) -> Card:
        """The inverse of to_json.

        Raises:
            InputError: The text is no card of this version.
        """
        try:
            data = json.loads(text)
            if (data["format"], data["version"]) != (_FORMAT, _VERSION):
                raise InputError(
                    f"{data['format']} of version {data['version']}; this reads {_FORMAT} of version {_VERSION}"
                )
            return Card(
                model=ModelConfig(**{**data["model"], "trunk_weights": None}),
                transform=EvaluationTransform.from_dict(data["transform"]),
                text=None if data["text"] is None else TextIdentity(**data["text"]),
                prompts=None
                if data["prompts"] is None
                else Prompts(tuple(data["prompts"]["pathology"]), tuple(data["prompts"]["anatomy"])),
                provenance=data["provenance"],
            )
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{source}: the checkpoint's description cannot be read ({error})") from None


@dataclass(frozen=True)
class Checkpoint:
    """A model, in eval mode, with its card."""

    model: MeDSLIP
    card: Card

    def encode_free_text(self, texts: Sequence[str], encoder: str | None = None) -> Tensor:
        """Embed free-text queries with the encoder that the checkpoint was trained with.

        Args:
            texts: F queries.
            encoder: Where that encoder is on this machine; None takes the name that the checkpoint recorded.

        Returns:
            F x T.

        Raises:
            InputError: The checkpoint names no encoder, or this is another.
        """
        own = self.card.text
        if own is None:
            raise InputError("free text: this checkpoint does not say which text encoder it was trained with")
        with_encoder = TextEncoder(TextConfig(encoder or own.encoder, own.sep, own.max_tokens))
        if with_encoder.identity.sha256 != own.sha256:
            raise InputError(
                f"free text: the checkpoint was trained with {own.encoder} (SHA-256 {own.sha256[:12]}...), "
                f"{with_encoder.config.encoder} has other weights ({with_encoder.identity.sha256[:12]}...)"
            )
        return with_encoder.encode(texts)


def save_checkpoint(path: Path, model: MeDSLIP, card: Card) -> None:
    """Write weights and card to ``path`` (.safetensors), and the card again beside it as JSON for people."""
    path = Path(path)
    write_tensors(path, model.state_dict(), {"card": card.to_json()})
    write_text(path.with_suffix(".json"), card.to_json() + "\n")


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint that save_checkpoint wrote; needs no text encoder.

    Raises:
        InputError: The file is missing, damaged, no checkpoint of ours, or its weights do not fit its description.
    """
    tensors, metadata = read_tensors(path)
    if "card" not in metadata:
        raise InputError(
            f"{path}: a safetensors file without a MeDSLIP description; give a checkpoint that pre-training "
            "wrote, or the published .pth"
        )
    card = Card.from_json(metadata["card"], str(path))
    shapes = [
        tuple(tensors[name].shape) if name in tensors else () for name in ("pathology_prompts", "anatomy_prompts")
    ]
    width = shapes[0][-1] if shapes[0] else 0
    if shapes != [(len(PATHOLOGIES), width), (len(ANATOMIES), width)]:
        raise InputError(
            f"{path}: pathology_prompts and anatomy_prompts have shapes {shapes[0]} and {shapes[1]}; the vocabulary needs "
            f"{len(PATHOLOGIES)} and {len(ANATOMIES)} embeddings of one width"
        )
    model = build_model(card.model, tensors["pathology_prompts"], tensors["anatomy_prompts"])
    load_strictly(model, tensors, str(path))
    return Checkpoint(model.eval(), card)


# A fine-tuned model ------------------------------------------------------------------------------------------------

FINETUNED_FORMAT = "medslip-finetuned"
"""What the best.safetensors of a fine-tuning calls itself."""

FINETUNED_VERSION = 2
"""Of its card."""


@dataclass(frozen=True)
class FineTuned:
    """A segmenter or classifier, in eval mode, with what it needs to be used.

    Attributes:
        model: Normalised images, B x 3 x S x S -> logits: B x C, or B x 1 x S x S of a segmenter.
        task: "segmentation" or "fine-tuned classification".
        classes: C names; of a segmenter its one finding.
        transform: How an image is prepared for it.
        equalise: Whether its grey values are spread before that; see ``data.equalise``.
        threshold: Of a segmenter's probabilities, chosen on validation; None for a classifier.
        card: Everything that the file says of itself.
    """

    model: nn.Module
    task: str
    classes: tuple[str, ...]
    transform: EvaluationTransform
    equalise: bool
    threshold: float | None
    card: dict[str, Any]

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """B x 1 x S x S, uint8, as ``transform`` gives them -> B x C, or B x 1 x S x S of a segmenter."""
        logits: Tensor = self.model(self.transform.normalise(images))
        return logits.float().sigmoid()


def load_finetuned(path: Path | str) -> FineTuned:
    """Open the best.safetensors of finetune_seg or finetune_cls.

    Raises:
        InputError: The file is missing, damaged, no fine-tuned model, or its weights do not fit its description.
    """
    tensors, metadata = read_tensors(Path(path))
    try:
        card = json.loads(metadata.get("card", "{}"))
        if card.get("format") != FINETUNED_FORMAT or card.get("version") not in range(1, FINETUNED_VERSION + 1):
            raise InputError(f"{path}: no fine-tuned model; give the best.safetensors of finetune_seg or finetune_cls")
        init = card.get("init", card.get("start"))  # version 1 called it "start"
        name, threshold, model = init["trunk"], None, nn.Module()
        trunk, transform = Trunk(name), EvaluationTransform.from_dict(card["transform"])
        if card["task"] == "segmentation":
            classes, threshold = (card["finding"],), card["validation"]["validation_threshold"]
            model = Segmenter(trunk, card["bridge"])
        else:
            classes = tuple(card["classes"])
            model = (
                LinearProbe(trunk, len(classes))
                if card["linear_probe"]
                else Classifier(trunk, fourth_stage(name), len(classes))
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the model's description cannot be read ({one_line(error)})") from None
    load_strictly(model, tensors, str(path))
    equalise = bool(card.get("equalise", False))
    return FineTuned(model.eval(), card["task"], classes, transform, equalise, threshold, card)


# The published checkpoint ------------------------------------------------------------------------------------------

PUBLISHED_NAMES: tuple[tuple[str, str], ...] = (
    (r"pathology_embedding_layer\.", "query_projection."),
    (r"res_features\.0\.", "image_encoder.trunk.conv1."),
    (r"res_features\.1\.", "image_encoder.trunk.bn1."),
    (r"res_features\.4\.", "image_encoder.trunk.layer1."),
    (r"res_features\.5\.", "image_encoder.trunk.layer2."),
    (r"res_features\.6\.", "image_encoder.trunk.layer3."),
    (r"mask_generator\.", "image_encoder.gate."),
    (r"res_l1_(pathology|anatomy)\.", r"image_encoder.\1_stream.hidden."),
    (r"res_l2_(pathology|anatomy)\.", r"image_encoder.\1_stream.out."),
    (r"decoder_(pathology|anatomy)\.layers\.", r"\1_decoder.layers."),
    (r"decoder_pathology\.norm\.", "query_norm."),
    (r"classifier_(pathology|anatomy)\.", r"\1_existence."),
    (r"cl_fc_(pathology|anatomy)\.", r"\1_prototype."),
)
"""Published name (at the start, after "module." is taken off and "disease" is read as "pathology") -> ours."""

PUBLISHED_TWICE = re.compile(r"decoder_anatomy\.norm\.")
"""The final LayerNorm is one object there, listed under both decoders; that of decoder_pathology is in force."""


PromptInput = Sequence[str] | Tensor | npt.NDArray[np.floating[Any]]
"""Prompts as texts, or their embeddings, one row a prompt."""


def load_published(
    path_or_state_dict: Path | str | Mapping[str, Any],
    pathology_prompts: PromptInput,
    anatomy_prompts: PromptInput,
    text: TextConfig | None = None,
) -> MeDSLIP:
    """The published model, in eval mode; arguments and errors as in load_published_checkpoint."""
    return load_published_checkpoint(path_or_state_dict, pathology_prompts, anatomy_prompts, text).model


def load_published_checkpoint(
    path_or_state_dict: Path | str | Mapping[str, Any],
    pathology_prompts: PromptInput,
    anatomy_prompts: PromptInput,
    text: TextConfig | None = None,
) -> Checkpoint:
    """Read the published checkpoint, a {"model": state_dict} of torch.save, or its state dict.

    Args:
        path_or_state_dict: The .pth file, what torch.load gives of it, or the bare state dict. Read with weights_only.
        pathology_prompts: P texts, or P x T embeddings.
        anatomy_prompts: A texts, or A x T embeddings.
        text: The encoder for prompts given as texts; None takes the published one, without [SEP].

    Returns:
        The model in eval mode with a card of its own.

    Raises:
        InputError: The file is missing or unreadable, the prompts are of another number or width, or weights are missing or
            left over (each is named).
    """
    if isinstance(path_or_state_dict, Mapping):
        source, data = "published state dict", path_or_state_dict
    else:
        source, data = str(path_or_state_dict), _torch_load(Path(path_or_state_dict))
    state = data.get("model", data)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{source}: no state dict, nor a dict with one under 'model'")
    tensors = _ours(state)
    config = _published_config(tensors, source)
    pathology, anatomy, identity, prompts = _embed(pathology_prompts, anatomy_prompts, text)
    for name, embeddings, count in (
        ("pathology_prompts", pathology, len(PATHOLOGIES)),
        ("anatomy_prompts", anatomy, len(ANATOMIES)),
    ):
        expected = (count, tensors["query_projection.weight"].shape[1])
        if tuple(embeddings.shape) != expected:
            raise InputError(f"{name}: embeddings of shape {tuple(embeddings.shape)}, this checkpoint needs {expected}")
        tensors[name] = embeddings.float()
    model = build_model(config, pathology, anatomy)
    load_strictly(model, tensors, source)
    card = Card(config, EvaluationTransform(), identity, prompts, {"source": "published checkpoint"})
    return Checkpoint(model.eval(), card)


def _torch_load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler met
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: not a checkpoint that torch can read with weights_only ({reason})") from None
    if not isinstance(data, Mapping):
        raise InputError(f"{path}: holds a {type(data).__name__}, not a state dict")
    return data


def _ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published tensors under our names; a name that the table does not know keeps its own, to be reported."""
    tensors: dict[str, Tensor] = {}
    for published, tensor in state.items():
        name = published.removeprefix("module.").replace("disease", "pathology")
        if PUBLISHED_TWICE.match(name):
            continue
        for pattern, replacement in PUBLISHED_NAMES:
            name, changed = re.subn(f"^{pattern}", replacement, name)
            if changed:
                break
        tensors[name] = tensor
    return tensors


def _published_config(tensors: Mapping[str, Tensor], source: str) -> ModelConfig:
    """The shape, read off the weights."""
    try:
        width, _ = tensors["query_projection.weight"].shape
        feed_forward, _ = tensors["pathology_decoder.layers.0.linear1.weight"].shape
    except KeyError as error:
        raise InputError(f"{source}: not a published MeDSLIP checkpoint, {error} is missing") from None
    except ValueError:
        raise InputError(f"{source}: not a published MeDSLIP checkpoint, a linear weight is no matrix") from None
    layers = {name.split(".")[2] for name in tensors if name.startswith("pathology_decoder.layers.")}
    bottleneck = "image_encoder.trunk.layer1.0.conv3.weight" in tensors
    try:
        return ModelConfig(
            trunk="resnet50" if bottleneck else "resnet18",
            width=width,
            decoder_layers=len(layers),
            feed_forward=feed_forward,
            similarity="dot",
            initialisation="published",
        )
    except InputError as error:
        raise InputError(f"{source}: not a published MeDSLIP checkpoint ({error})") from None


def _embed(
    pathology: PromptInput, anatomy: PromptInput, text: TextConfig | None
) -> tuple[Tensor, Tensor, TextIdentity | None, Prompts | None]:
    if isinstance(pathology, Tensor | np.ndarray) and isinstance(anatomy, Tensor | np.ndarray):
        return torch.as_tensor(pathology), torch.as_tensor(anatomy), None, None
    if isinstance(pathology, Tensor | np.ndarray) or isinstance(anatomy, Tensor | np.ndarray):
        raise InputError("pathology_prompts and anatomy_prompts: give both as texts or both as embeddings")
    encoder = TextEncoder(text or TextConfig(sep=False))
    prompts = Prompts(tuple(pathology), tuple(anatomy))
    return encoder.encode(prompts.pathology), encoder.encode(prompts.anatomy), encoder.identity, prompts
