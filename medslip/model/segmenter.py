"""U-Net on the pre-trained trunk: image -> one logit a pixel (method.md, "Fine-tuning")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medslip.model.image_encoder import Trunk

BRIDGE = 1024
"""Channels of the bridge, as published; each of the four up-blocks has half as many as what it grows from."""


FIRST_LOGIT = -4.0
"""Of every pixel before training, about 1 in 50: a mask's usual share of an image. From an even chance, small learning rates
spend hundreds of steps on the empty background, and often end in predicting nothing at all."""


class Segmenter(nn.Module):
    """The trunk going down, four up-blocks going up, with skips from the input, the stem, and stages 1 and 2.

    Args:
        trunk: Residual trunk; the skips are as wide as its stages.
        bridge: Channels of the bridge, a multiple of 16. Published: 1024, so up-blocks of 512, 256, 128, 64.
    """

    def __init__(self, trunk: Trunk, bridge: int = BRIDGE) -> None:
        super().__init__()
        self.trunk = trunk
        skips = (trunk.channels // 2, trunk.channels // 4, trunk.conv1.out_channels, trunk.conv1.in_channels)
        widths = [bridge >> level for level in range(5)]  # 1024, 512, 256, 128, 64
        self.bridge = DoubleConvolution(trunk.channels, bridge)
        self.up = nn.ModuleList(
            UpBlock(below, skip, width) for below, skip, width in zip(widths, skips, widths[1:], strict=False)
        )
        self.head = nn.Conv2d(widths[-1], 1, kernel_size=1)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias, FIRST_LOGIT)

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x S x S, normalised, S a multiple of 16 -> B x 1 x S x S logits."""
        assert images.shape[1:2] == (3,), f"images of shape {tuple(images.shape)}, not B x 3 x S x S"
        trunk = self.trunk
        stem = trunk.relu(trunk.bn1(trunk.conv1(images)))  # S/2
        stage1 = trunk.layer1(trunk.maxpool(stem))  # S/4
        stage2 = trunk.layer2(stage1)  # S/8
        x = self.bridge(trunk.layer3(stage2))  # S/16
        for block, skip in zip(self.up, (stage2, stage1, stem, images), strict=True):
            x = block(x, skip)
        return self.head(x)


class UpBlock(nn.Module):
    """Twice the side by a transposed convolution, joined with what the way down had there.

    Args:
        below: Channels that come from below.
        skip: Channels of the skip.
        width: Channels that go on.
    """

    def __init__(self, below: int, skip: int, width: int) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(below, width, kernel_size=2, stride=2)
        self.join = DoubleConvolution(width + skip, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """B x below x s x s and B x skip x 2s x 2s -> B x width x 2s x 2s."""
        return self.join(torch.cat([self.grow(x), skip], dim=1))


class DoubleConvolution(nn.Sequential):
    """Twice: 3 x 3 convolution, batch norm, ReLU."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
