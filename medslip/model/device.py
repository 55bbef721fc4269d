"""The device to compute on."""

from __future__ import annotations

import torch

from medslip.errors import InputError


def choose_device(name: str) -> torch.device:
    """The device that the user requested.

    Args:
        name: "auto" takes a GPU if there is one; otherwise "cpu", "cuda", or another of torch's names.

    Raises:
        InputError: "cuda" was requested and there is none, or torch has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device: torch has no device {name!r}; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device: {name} was requested, but torch finds no GPU; use --device cpu")
    return device
