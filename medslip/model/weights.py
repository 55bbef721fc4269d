"""Reads and writes safetensors files, and loads tensors into a model with none missing or left over."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from medslip.errors import InputError, one_line
from medslip.files import written_whole


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], previous: Path | None = None
) -> None:
    """Write a safetensors file atomically, with a checksum.

    Args:
        path: The file.
        tensors: Name -> tensor.
        metadata: Further entries of its header.
        previous: Under which name the file that is replaced stays; None removes it.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with written_whole(path) as partial:
        try:
            save_file(whole, partial, {**metadata, "crc32": _checksum(whole, metadata)})
        except SafetensorError as error:
            raise OSError(one_line(error).split("I/O error: ")[-1]) from None
        if previous is not None and path.is_file():
            previous.unlink(missing_ok=True)
            try:
                os.link(path, previous)  # the file keeps its own name too, so that it is there at every moment
            except OSError:  # a file system without links
                shutil.copyfile(path, previous)


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32 of all that a safetensors file holds."""
    ordered = sorted(tensors.items())
    about = [sorted(metadata.items()), [(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in ordered]]
    checksum = zlib.crc32(json.dumps(about).encode())
    for _, tensor in ordered:
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        InputError: The file is missing, truncated, damaged, or not a safetensors file.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: a directory; give a file in it, such as best.safetensors")
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a complete safetensors file ({error})") from None
    written = metadata.pop("crc32", None)  # files of earlier versions, and of others, have none
    if written is not None and written != _checksum(tensors, metadata):
        raise InputError(f"{path}: is damaged: its content does not have the checksum in its header")
    return tensors, metadata


def read_torch(path: Path, source: str) -> Mapping[str, Tensor]:
    """The state dict in a file of torch.save, read with weights_only.

    Args:
        path: The file.
        source: What the user gave, for messages.

    Raises:
        InputError: The file is missing, cannot be read, or holds something else.
    """
    if not path.is_file():
        raise InputError(f"{source}: no such checkpoint")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler met
        reason = f"{type(error).__name__}: {one_line(error, 120)}"
        raise InputError(f"{source}: not a PyTorch file of tensors alone ({reason})") from None
    return state_dict(data, source)


def state_dict(data: object, source: str) -> Mapping[str, Tensor]:
    """What torch.save wrote, if it is a state dict, or the state dict in it under "model".

    Raises:
        InputError: It is something else, or not only names and tensors.
    """
    state = data.get("model", data) if isinstance(data, Mapping) else data
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise InputError(f"{source}: not a state dict, nor a dict with one under 'model'")
    return state


def load_strictly(model: torch.nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load every weight.

    Raises:
        InputError: Naming the weights that are missing, left over, or of another shape or kind; nothing is loaded then.
    """
    own = model.state_dict()
    report = [
        _names("missing", sorted(own.keys() - tensors.keys())),
        _names("left over", sorted(tensors.keys() - own.keys())),
        _names(
            "of another shape",
            [
                f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
                for name in sorted(own.keys() & tensors.keys())
                if own[name].shape != tensors[name].shape
            ],
        ),
        _names(
            "of another kind",
            [name for name in sorted(own.keys() & tensors.keys()) if not _fits(tensors[name], own[name])],
        ),
    ]
    if any(report):
        raise InputError(f"{source}: the weights do not fit the model: {'; '.join(filter(None, report))}")
    model.load_state_dict(dict(tensors))


def _fits(tensor: Tensor, own: Tensor) -> bool:
    """Whether a tensor holds numbers that can be copied into another without losing more than precision."""
    dense = tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)
    return dense and not tensor.is_complex() and (tensor.is_floating_point() or not own.is_floating_point())


def _names(what: str, names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} {what} ({', '.join(names[:shown])}{more})" if names else ""
