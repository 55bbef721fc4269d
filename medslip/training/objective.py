"""What is trained: a model and its losses as one module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from medslip.data.loading import Batch
from medslip.training.criterion import Criterion
from medslip.training.finetuning import FinetuningLoss


class Objective(nn.Module):
    """Model and losses as one module, so that gradients are averaged over processes as one.

    Args:
        model: The model to train.
        criterion: Its losses.
        normalise: B x 1 x S x S uint8 -> B x 3 x S x S float.
        channels_last: Memory format of the input.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Criterion | FinetuningLoss,
        normalise: Callable[[Tensor], Tensor],
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model: nn.Module = model.to(memory_format=self.memory_format)
        self.criterion, self.normalise = criterion, normalise

    def predict(self, images: Tensor) -> Any:
        """The model's output for B x 1 x S x S uint8 images."""
        return self.model(self.normalise(images).contiguous(memory_format=self.memory_format))

    def counts(self, batch: Batch) -> Tensor:
        """What the losses of a batch are divided by."""
        assert batch.labels is not None, "a batch without labels cannot be trained on"
        return self.criterion.counts(batch.labels)

    def forward(self, batch: Batch, counts: Tensor, generator: torch.Generator) -> Tensor:
        """The losses of a batch, divided by the given counts."""
        assert batch.labels is not None, "a batch without labels cannot be trained on"
        return self.criterion(self.predict(batch.images), batch.labels, counts, generator)
