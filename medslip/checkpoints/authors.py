"""The authors' released checkpoint: a .pth with names of its own and no prompts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medslip.checkpoints.pretrained import Card, Checkpoint, sizes_of
from medslip.data.preprocessing import Preprocessing
from medslip.errors import InputError
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.model.text_encoder import TextConfig, TextEncoder
from medslip.model.trunk import TrunkName
from medslip.model.weights import load_strictly, read_torch, state_dict
from medslip.vocabulary import ANATOMIES, PATHOLOGIES, Prompts

AUTHORS_NAMES: tuple[tuple[str, str], ...] = (
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
"""Start of the authors' name (after "module." is removed and "disease" is read as "pathology") -> ours."""

LISTED_TWICE = re.compile(r"decoder_anatomy\.norm\.")
"""The final LayerNorm is one object in the authors' model, listed under both decoders; decoder_pathology's is in force."""

PromptInput = Sequence[str] | Tensor | npt.NDArray[np.floating[Any]]
"""Prompts as texts, or their embeddings, one row per prompt."""


def load_authors(
    path_or_state_dict: Path | str | Mapping[str, Any],
    pathology_prompts: PromptInput,
    anatomy_prompts: PromptInput,
    text: TextConfig | None = None,
) -> Checkpoint:
    """Read the authors' checkpoint, a {"model": state_dict} of torch.save, or its state dict.

    Args:
        path_or_state_dict: The .pth file, the result of torch.load, or the bare state dict. Read with weights_only.
        pathology_prompts: P texts, or P x T embeddings.
        anatomy_prompts: A texts, or A x T embeddings.
        text: The encoder for prompts given as texts; None takes the authors', without [SEP].

    Returns:
        The model in eval mode with a card of its own.

    Raises:
        InputError: The file is missing or unreadable, the prompts have another number or width, or weights are missing or
            left over (each is named).
    """
    if isinstance(path_or_state_dict, Mapping):
        source = "the authors' state dict"
        tensors = _our_names(state_dict(path_or_state_dict, source))
    else:
        source = str(path_or_state_dict)
        tensors = _our_names(read_torch(Path(path_or_state_dict), source))
    trunk: TrunkName = "resnet50" if "image_encoder.trunk.layer1.0.conv3.weight" in tensors else "resnet18"
    try:
        config = ModelConfig(trunk, similarity="dot", initialisation="authors", **sizes_of(tensors))
    except InputError as error:
        raise InputError(f"{source}: not the authors' MeDSLIP checkpoint: {error}") from None
    pathology, anatomy = _embeddings(pathology_prompts), _embeddings(anatomy_prompts)
    identity = prompts = None
    if pathology is None and anatomy is None:
        encoder = TextEncoder(text or TextConfig(sep=False))
        identity, prompts = encoder.identity, Prompts(tuple(pathology_prompts), tuple(anatomy_prompts))
        pathology, anatomy = encoder.encode(prompts.pathology), encoder.encode(prompts.anatomy)
    if pathology is None or anatomy is None:
        raise InputError("pathology_prompts and anatomy_prompts: give both as texts or both as embeddings")
    width = tensors["query_projection.weight"].shape[1]
    for name, embeddings, names in (
        ("pathology_prompts", pathology, PATHOLOGIES),
        ("anatomy_prompts", anatomy, ANATOMIES),
    ):
        if embeddings.shape != (len(names), width):
            raise InputError(
                f"{name}: embeddings of shape {tuple(embeddings.shape)}, this checkpoint needs {(len(names), width)}"
            )
    model = MeDSLIP(config, pathology, anatomy)
    prompt_buffers = {"pathology_prompts": model.pathology_prompts, "anatomy_prompts": model.anatomy_prompts}
    load_strictly(model, tensors | prompt_buffers, source)
    card = Card(config, Preprocessing(), identity, prompts, {"source": "authors' checkpoint"})
    return Checkpoint(model.eval(), card)


def _our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors under our names; a name that the table does not know keeps its own, to be reported."""
    tensors: dict[str, Tensor] = {}
    for authors_name, tensor in state.items():
        name = authors_name.removeprefix("module.").replace("disease", "pathology")
        if LISTED_TWICE.match(name):
            continue
        for pattern, replacement in AUTHORS_NAMES:
            name, changed = re.subn(f"^{pattern}", replacement, name)
            if changed:
                break
        tensors[name] = tensor
    return tensors


def _embeddings(prompts: PromptInput) -> Tensor | None:
    return torch.as_tensor(prompts) if isinstance(prompts, Tensor | np.ndarray) else None
