"""The fine-tuning objectives: a segmenter with Dice and cross-entropy, a classifier with cross-entropy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medslip.losses import classification_loss, dice_bce_loss
from medslip.training.criterion import LabelledBatch, Normalise

SEGMENTATION_LOSSES = ("total", "dice_loss", "cross_entropy")
"""What SegmentationObjective returns, in order."""

CLASSIFICATION_LOSSES = ("total",)
"""What ClassificationObjective returns."""


class FinetuningObjective(nn.Module):
    """Model and loss as one module, so that gradients are averaged over processes as one.

    Args:
        model: Normalised images -> logits.
        normalise: Turns grey uint8 images into the model's input.
        channels_last: Memory format of the input.
    """

    def __init__(self, model: nn.Module, normalise: Normalise, channels_last: bool = True) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model: nn.Module = model.to(memory_format=self.memory_format)
        self.normalise = normalise

    def answer(self, images: Tensor) -> Tensor:
        """The model's logits for B x 1 x S x S uint8 images."""
        logits: Tensor = self.model(self.normalise(images).contiguous(memory_format=self.memory_format))
        return logits

    def counts(self, batch: LabelledBatch) -> Tensor:
        """What the losses divide by, a vector of one."""
        raise NotImplementedError

    def loss(self, logits: Tensor, labels: Tensor, count: Tensor) -> Tensor:
        """The losses, the total first, summed and divided by the count."""
        raise NotImplementedError

    def forward(self, batch: LabelledBatch, counts: Tensor, generator: torch.Generator) -> Tensor:
        """The losses, the total first, each over the given count."""
        return self.loss(self.answer(batch.images), _labels(batch), counts[0])


class SegmentationObjective(FinetuningObjective):
    """A batch's labels are B x 1 x S x S masks; the losses are SEGMENTATION_LOSSES."""

    def counts(self, batch: LabelledBatch) -> Tensor:
        """The images."""
        return torch.tensor([float(len(batch.images))], device=batch.images.device)

    def loss(self, logits: Tensor, labels: Tensor, count: Tensor) -> Tensor:
        """Three losses, as dice_bce_loss returns them."""
        return dice_bce_loss(logits, labels, count)


class ClassificationObjective(FinetuningObjective):
    """A batch's labels are B x C, 1, 0 or -1; the losses are CLASSIFICATION_LOSSES."""

    def counts(self, batch: LabelledBatch) -> Tensor:
        """The known labels."""
        return (_labels(batch) >= 0).sum().float()[None]

    def loss(self, logits: Tensor, labels: Tensor, count: Tensor) -> Tensor:
        """One loss, the mean over the known labels."""
        return classification_loss(logits, labels, count)[None]


def _labels(batch: LabelledBatch) -> Tensor:
    assert batch.labels is not None, "a batch without labels cannot be trained on"
    return batch.labels
