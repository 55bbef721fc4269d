"""What fine-tuning trains: a model and its loss as one module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medslip.losses import classification_loss, dice_bce_loss
from medslip.training.criterion import LabelledBatch, Normalise


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


class FinetuningObjective(nn.Module):
    """Model and loss as one module, so that gradients are averaged over processes as one.

    Args:
        model: Normalised images -> logits.
        loss: Its loss.
        normalise: Turns grey uint8 images into the model's input.
        channels_last: Memory format of the input.
    """

    def __init__(
        self, model: nn.Module, loss: FinetuningLoss, normalise: Normalise, channels_last: bool = True
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model: nn.Module = model.to(memory_format=self.memory_format)
        self.loss, self.normalise = loss, normalise

    def predict(self, images: Tensor) -> Tensor:
        """The model's logits for B x 1 x S x S uint8 images."""
        logits: Tensor = self.model(self.normalise(images).contiguous(memory_format=self.memory_format))
        return logits

    def counts(self, batch: LabelledBatch) -> Tensor:
        """What the losses divide by, a vector of one."""
        return self.loss.count(_targets(batch))[None]

    def forward(self, batch: LabelledBatch, counts: Tensor, generator: torch.Generator) -> Tensor:
        """The losses, the total first, divided by the given count."""
        return self.loss.function(self.predict(batch.images), _targets(batch), counts[0])


def _targets(batch: LabelledBatch) -> Tensor:
    assert batch.labels is not None, "a batch without labels cannot be trained on"
    return batch.labels
