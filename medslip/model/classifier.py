"""Classifiers on the pre-trained trunk: fine-tuned with the fourth stage, or a linear probe of its features."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from medslip.model.image_encoder import Trunk, TrunkName, load_torchvision_weights


class Classifier(nn.Module):
    """Trunk, fourth residual stage, mean over patches, linear head.

    Args:
        trunk: Residual trunk.
        fourth_stage: What follows it; see ``fourth_stage``. No pre-training of ours has one.
        classes: C.
    """

    def __init__(self, trunk: Trunk, fourth_stage: nn.Module, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.fourth_stage = fourth_stage
        self.head = nn.Linear(2 * trunk.channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x S x S, normalised -> B x C logits."""
        return self.head(self.fourth_stage(self.trunk(images)).mean(dim=(2, 3)))


class LinearProbe(nn.Module):
    """One linear layer on the frozen trunk's features, averaged over patches (stage 3).

    The trunk stays in eval mode, so its batch statistics are those of the pre-training.

    Args:
        trunk: Residual trunk; it is frozen.
        classes: C.
    """

    def __init__(self, trunk: Trunk, classes: int) -> None:
        super().__init__()
        self.trunk = trunk.requires_grad_(False)
        self.head = nn.Linear(trunk.channels, classes)

    def train(self, mode: bool = True) -> LinearProbe:
        """Training mode for the head alone."""
        super().train(mode)
        self.trunk.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x S x S, normalised -> B x C logits."""
        with torch.no_grad():
            features = self.trunk(images).mean(dim=(2, 3))
        return self.head(features)


def fourth_stage(name: TrunkName, weights: str | None = None) -> nn.Module:
    """The fourth residual stage of a ResNet, twice the channels at half the side.

    Args:
        name: Which ResNet.
        weights: As in Trunk: None starts from scratch.

    Raises:
        InputError: The weights are unknown, cannot be had, or do not fit.
    """
    resnet = getattr(torchvision.models, name)(weights=None)
    if weights is not None:
        load_torchvision_weights(resnet, name, weights)
    stage: nn.Module = resnet.layer4
    return stage
