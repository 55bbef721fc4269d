"""What a run needs to go on as if it had never stopped: weights, optimiser, step, best score. One file, replaced atomically."""

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
        steps_per_epoch: To notice that a run is resumed with other data or batch size.
    """

    step: int = 0
    best_score: float | None = None
    steps_per_epoch: int = 0


def save_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write everything that resuming needs. Random numbers are functions of seed and step: there is no state of theirs."""
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    state = optimizer.state_dict()["state"]
    for index, values in state.items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    write_tensors(path, tensors, {"progress": json.dumps(asdict(progress))})


def load_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Restore what save_state wrote, into a model and optimiser of the same shape.

    Raises:
        InputError: The file is missing, damaged, or of another model.
    """
    tensors, metadata = read_tensors(path)
    if "progress" not in metadata:
        raise InputError(f"{path}: not the state of a run; resume from a run's last.safetensors")
    load_strictly(
        model,
        {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")},
        str(path),
    )
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    saved = json.loads(metadata["progress"])
    # Earlier versions also wrote what nothing reads any more.
    return Progress(**{field.name: saved[field.name] for field in fields(Progress)})
