"""Our checkpoints: one safetensors file that carries its own description.

A checkpoint is one file, so that it can be copied, renamed and replaced atomically. Its header holds the Card as JSON;
FILE.json next to it repeats the card for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from medslip.checkpoints.hub import find_checkpoint
from medslip.data.preprocessing import Preprocessing
from medslip.errors import InputError
from medslip.files import to_json, write_text
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.model.text_encoder import TextConfig, TextEncoder, TextIdentity
from medslip.model.weights import load_strictly, read_tensors, write_tensors
from medslip.version import __version__
from medslip.vocabulary import ANATOMIES, PATHOLOGIES, Prompts

_FORMAT, _VERSION = "medslip-checkpoint", 1

_RENAMED = {"null_patch": "add_zero_attn", "residual_start": "residual_gamma", "published": "authors"}
"""Keys and values of a card's model that had other names before version 1.0 -> today's."""


@dataclass(frozen=True)
class Card:
    """The description in a checkpoint.

    Attributes:
        model: The architecture.
        transform: How an image is prepared for the model.
        text: The text encoder that embedded the prompts; None where embeddings were given.
        prompts: The texts of the prompts; None where embeddings were given.
        provenance: Where the weights come from: version, step, scores, config.
    """

    model: ModelConfig
    transform: Preprocessing
    text: TextIdentity | None = None
    prompts: Prompts | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def trained_on(self) -> str:
        """The training list, or another source of the weights; "not recorded" where neither is known."""
        listed = self.provenance.get("config", {}).get("data", {}).get("train")
        return str(listed or self.provenance.get("source") or "not recorded")

    def to_json(self) -> str:
        """As one JSON object."""
        return to_json({"format": _FORMAT, "version": _VERSION, "medslip": __version__, **asdict(self)}, indent=1)

    @staticmethod
    def from_json(text: str, source: str) -> Card:
        """The inverse of to_json.

        Raises:
            InputError: The text is not a card of this version.
        """
        try:
            data = json.loads(text)
            if (data["format"], data["version"]) != (_FORMAT, _VERSION):
                raise InputError(
                    f"{data['format']} of version {data['version']}; this reads {_FORMAT} of version {_VERSION}"
                )
            model, prompts = _renamed(data["model"]), data["prompts"]
            return Card(
                model=_typed(ModelConfig(**{**model, "trunk_weights": None})),
                transform=Preprocessing.from_dict(data["transform"]),
                text=None if data["text"] is None else TextIdentity(**data["text"]),
                prompts=None if prompts is None else Prompts(tuple(prompts["pathology"]), tuple(prompts["anatomy"])),
                provenance=data["provenance"],
            )
        except (InputError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise InputError(f"{source}: the checkpoint's description cannot be read ({error})") from None


def sizes_of(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The sizes of a ModelConfig, read off the weights.

    Raises:
        InputError: The weights that show them are missing, or are no matrices.
    """
    try:
        width, _ = tensors["query_projection.weight"].shape
        feed_forward, _ = tensors["pathology_decoder.layers.0.linear1.weight"].shape
    except KeyError as error:
        raise InputError(f"{error} is missing") from None
    except ValueError:
        raise InputError("a linear weight is not a matrix") from None
    layers = {name.split(".")[2] for name in tensors if name.startswith("pathology_decoder.layers.")}
    return {"width": width, "decoder_layers": len(layers), "feed_forward": feed_forward}


def _typed(model: ModelConfig) -> ModelConfig:
    """The same, if every value has its type; a dataclass does not check."""
    for key, hint in get_type_hints(ModelConfig).items():
        value = getattr(model, key)
        fits = (
            value in get_args(hint)
            if get_origin(hint) is Literal
            else isinstance(value, hint | int if hint is float else hint)
        )
        if not fits:
            raise InputError(f"model.{key} cannot be {value!r}")
    return model


def _renamed(model: Mapping[str, Any]) -> dict[str, Any]:
    return {
        _RENAMED.get(key, key): _RENAMED.get(value, value) if isinstance(value, str) else value
        for key, value in model.items()
    }


@dataclass(frozen=True)
class Checkpoint:
    """A model, in eval mode, with its card."""

    model: MeDSLIP
    card: Card

    def text_encoder(self, encoder: str | None = None) -> TextEncoder:
        """Open the encoder of the checkpoint's training, for free-text queries.

        Args:
            encoder: Where that encoder is on this machine; None takes the name that the checkpoint recorded.

        Raises:
            InputError: The checkpoint does not name its encoder, or this is a different one.
        """
        own = self.card.text
        if own is None:
            raise InputError("free text: this checkpoint does not record which text encoder it was trained with")
        found = TextEncoder(TextConfig(encoder or own.encoder, own.sep, own.max_tokens))
        if found.identity.sha256 != own.sha256:
            raise InputError(
                f"free text: the checkpoint was trained with {own.encoder} (SHA-256 {own.sha256[:12]}...), "
                f"{found.config.encoder} has other weights ({found.identity.sha256[:12]}...)"
            )
        if own.tokenizer not in ("", found.identity.tokenizer):
            raise InputError(
                f"free text: the checkpoint was trained with {own.encoder}; the tokenizer of {found.config.encoder} "
                "has another vocabulary or other settings"
            )
        return found


def save_checkpoint(path: Path, model: MeDSLIP, card: Card, description: Path | None = None) -> None:
    """Write weights and card to ``path`` (.safetensors), and the card also to ``description``, by default FILE.json."""
    path = Path(path)
    write_tensors(path, model.state_dict(), {"card": card.to_json()})
    write_text(description or path.with_suffix(".json"), card.to_json() + "\n")


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint written by save_checkpoint; needs no text encoder.

    Args:
        path: A file, a folder or a repository on the Hub, see ``find_checkpoint``.

    Raises:
        InputError: The file is missing, damaged, not one of our checkpoints, or its weights do not fit its card.
    """
    path = find_checkpoint(path)
    tensors, metadata = read_tensors(path)
    if "card" not in metadata:
        raise InputError(
            f"{path}: a safetensors file without a MeDSLIP description; give a checkpoint written by pre-training, "
            "or the authors' .pth"
        )
    card = Card.from_json(metadata["card"], str(path))
    pathology, anatomy = (tensors.get(f"{stream}_prompts", Tensor()) for stream in ("pathology", "anatomy"))
    width = pathology.shape[-1:]
    if (pathology.shape, anatomy.shape) != ((len(PATHOLOGIES), *width), (len(ANATOMIES), *width)):
        raise InputError(
            f"{path}: pathology_prompts and anatomy_prompts have shapes {tuple(pathology.shape)} and "
            f"{tuple(anatomy.shape)}; the vocabulary needs {len(PATHOLOGIES)} and {len(ANATOMIES)} embeddings of one width"
        )
    try:
        # Before a model of the described sizes is built, which might not fit into memory.
        for key, size in sizes_of(tensors).items():
            if (described := getattr(card.model, key)) != size:
                raise InputError(f"{key} is {described} there, {size} here")
    except InputError as error:
        raise InputError(f"{path}: the weights are not those of the checkpoint's description: {error}") from None
    model = MeDSLIP(card.model, pathology, anatomy)
    load_strictly(model, tensors, str(path))
    return Checkpoint(model.eval(), card)
