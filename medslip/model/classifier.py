"""Classifiers on the pre-trained trunk: fine-tuned with the fourth stage, or a linear probe of its features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medslip.model.trunk import FourthStage, Trunk


class Classifier(nn.Module):
    """Trunk, fourth stage with the average over positions, linear head.

    Args:
        trunk: The pre-trained trunk.
        fourth_stage: The rest of the same backbone, which pre-training does not train.
        classes: C.
    """

    def __init__(self, trunk: Trunk, fourth_stage: FourthStage, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.fourth_stage = fourth_stage
        self.head = nn.Linear(fourth_stage.width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x S x S, normalised -> B x C logits."""
        return self.head(self.fourth_stage(self.trunk(images)))


class LinearProbe(nn.Module):
    """One linear layer on the frozen trunk's features (its last stage), averaged over patches.

    The trunk stays in eval mode, so its batch statistics remain those of the pre-training.

    Args:
        trunk: The pre-trained trunk; it is frozen.
        classes: C.
    """

    def __init__(self, trunk: Trunk, classes: int) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.head = nn.Linear(trunk.channels[-1], classes)

    def train(self, mode: bool = True) -> LinearProbe:
        """Put only the head into training mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x S x S, normalised -> B x C logits."""
        with torch.no_grad():
            features = self.trunk(images).mean(dim=(2, 3))
        return self.head(features)
