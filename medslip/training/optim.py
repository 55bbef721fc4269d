"""AdamW without decay on biases and norms, and its learning rate: linear warm-up, then a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from medslip.errors import InputError, check_at_least


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser; the defaults are the paper's recipe, with gradient clipping.

    Attributes:
        learning_rate: Learning rate after the warm-up.
        warmup_learning_rate: Learning rate at step 0.
        final_learning_rate: Learning rate at the last step.
        warmup_steps: Optimiser steps of linear warm-up.
        weight_decay: Weight decay of weights with two or more dimensions; biases, norms and temperatures have none.
        clip_norm: Largest gradient norm; null turns clipping off.
    """

    learning_rate: float = 1e-4
    warmup_learning_rate: float = 1e-5
    final_learning_rate: float = 1e-5
    warmup_steps: int = 500
    weight_decay: float = 0.02
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        check_at_least(self, "optim.", learning_rate=0, warmup_learning_rate=0, final_learning_rate=0)
        check_at_least(self, "optim.", warmup_steps=0, weight_decay=0)
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise InputError(f"optim.clip_norm: {self.clip_norm} is not above 0; null turns clipping off")


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, in two groups: with and without decay.

    Where its attribute ``found_inf`` is a tensor of 1, a step changes neither the weights nor the state, on the device itself.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=True,
    )
    optimizer.register_load_state_dict_post_hook(_lay_out)
    return optimizer


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give loaded moments their parameters' memory format: the fused kernel pairs elements by their place in memory."""
    for parameter, state in optimizer.state.items():
        for name in state.keys() - {"step"}:
            state[name] = torch.empty_like(parameter, requires_grad=False).copy_(state[name])


def learning_rate_at(step: int, steps: int, config: OptimConfig) -> float:
    """The learning rate of an optimiser step.

    Args:
        step: 0 .. steps - 1.
        steps: Steps of the whole training. A warm-up longer than half of it is cut to half, so that a short trial trains.
        config: The schedule.
    """
    warmup = min(config.warmup_steps, steps // 2)
    if step < warmup:
        return config.warmup_learning_rate + (config.learning_rate - config.warmup_learning_rate) * step / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine
