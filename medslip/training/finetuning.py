"""The losses of fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medslip.losses import classification_loss, dice_bce_loss


@dataclass(frozen=True)
class FinetuningLoss:
    """A loss and what it is divided by.

    Attributes:
        names: What ``function`` returns, the total first.
        function: Logits, targets, count -> the losses, each summed over the batch and divided by the count.
        count: Targets -> how many terms the sum has.
    """

    names: tuple[str, ...]
    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    count: Callable[[Tensor], Tensor]

    def counts(self, targets: Tensor) -> Tensor:
        """The count as a vector of one."""
        return self.count(targets)[None]

    def __call__(
        self, logits: Tensor, targets: Tensor, counts: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The losses, the total first, divided by the given count; targets may be in main memory."""
        return self.function(logits, targets.to(logits.device, non_blocking=True), counts[0])


SEGMENTATION_LOSS = FinetuningLoss(
    ("total", "dice_loss", "cross_entropy"),
    dice_bce_loss,
    lambda masks: torch.tensor(float(len(masks)), device=masks.device),
)
"""For B x 1 x S x S logits and masks; per image."""

CLASSIFICATION_LOSS = FinetuningLoss(
    ("total",),
    lambda logits, labels, count: classification_loss(logits, labels, count)[None],
    lambda labels: (labels >= 0).sum().float(),
)
"""For B x C logits and labels (1, 0 or -1); per known label."""
