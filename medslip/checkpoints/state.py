"""The state of a training run: weights, optimiser, step, best score. One file, replaced atomically."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from medslip.errors import InputError
from medslip.model.weights import load_strictly, read_tensors, write_tensors


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: Optimiser steps done.
        best_score: Best validation score so far, None before the first.
        steps_per_epoch: Detects that a run is resumed with other data or another batch size.
    """

    step: int = 0
    best_score: float | None = None
    steps_per_epoch: int = 0


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write all that resuming needs. Random numbers are functions of seed and step, so they have no state to save."""
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    write_tensors(path, tensors, {"progress": json.dumps(asdict(progress))})


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore what save_state wrote, into a model and optimiser of the same shape.

    Raises:
        InputError: The file is missing, damaged, or belongs to another model.
    """
    tensors, metadata = read_tensors(path)
    if "progress" not in metadata:
        raise InputError(f"{path}: not the state of a run; resume from a run's last.safetensors")
    weights: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        if part == "model":
            weights[rest] = tensor
        else:
            index, key = rest.split(".")
            state.setdefault(int(index), {})[key] = tensor
    load_strictly(model, weights, str(path))
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    saved = json.loads(metadata["progress"])
    # Earlier versions wrote further keys.
    return Progress(**{field.name: saved[field.name] for field in fields(Progress)})
