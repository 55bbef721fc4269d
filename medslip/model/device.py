"""Which device to compute on."""

from __future__ import annotations

import torch

from medslip.errors import InputError


def choose_device(name: str) -> torch.device:
    """The device that a user asked for.

    Args:
        name: "auto" takes a GPU where there is one; else "cpu", "cuda", or another name that torch knows.

    Raises:
        InputError: "cuda" was asked for and there is none, or torch knows no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device: torch knows no {name!r}; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device: {name} was asked for, but torch sees no GPU here; use --device cpu")
    return device
