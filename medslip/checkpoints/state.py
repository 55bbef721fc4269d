"""The state of a training run: weights, optimiser, step, best score. One file, replaced atomically."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from medslip.errors import InputError, one_line
from medslip.model.weights import load_strictly, read_tensors, write_tensors

PREVIOUS = "previous.safetensors"
"""The state before the last one, in case that is damaged."""

_MOMENTS = ("exp_avg", "exp_avg_sq")


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
    """Write all that resuming needs, and keep the state before it as PREVIOUS.

    Random numbers are functions of seed and step, so they have no state to save.
    """
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    write_tensors(path, tensors, {"progress": json.dumps(asdict(progress))}, path.with_name(PREVIOUS))


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore what save_state wrote, into a model and optimiser of the same shape.

    Raises:
        InputError: The file is missing, damaged or incomplete, or belongs to another model.
    """
    tensors, metadata = read_tensors(path)
    if "progress" not in metadata:
        raise InputError(f"{path}: not the state of a run; resume from a run's last.safetensors")
    weights: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    try:
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            if part == "model":
                weights[rest] = tensor
            else:
                index, key = rest.split(".")
                state.setdefault(int(index), {})[key] = tensor
        saved = json.loads(metadata["progress"])
        # Earlier versions wrote further keys.
        progress = Progress(**{field.name: saved[field.name] for field in fields(Progress)})
        if type(progress.step) is not int or progress.step < 0:
            raise ValueError(f"its step is {progress.step!r}")
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the state cannot be read ({one_line(error)})") from None
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(trained if progress.step else ()):
        found = state.get(number, {})
        if "step" not in found or any(key not in found or found[key].shape != parameter.shape for key in _MOMENTS):
            raise InputError(f"{path}: is incomplete: no optimizer state fits parameter {number} of {len(trained)}")
    load_strictly(model, weights, str(path))
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress
