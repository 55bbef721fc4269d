"""U-Net on the pre-trained trunk: image -> one logit per pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medslip.model.trunk import Trunk

BRIDGE = 1024
"""Channels of the bridge in the paper's code; each of the four up-blocks has half as many as the one below."""

FIRST_LOGIT = -4.0
"""Logit of every pixel before training, about 1 in 50: a mask's usual fraction of the image. Starting from even odds, small
learning rates spend hundreds of steps on the empty background, and often end in predicting nothing at all."""


class Segmenter(nn.Module):
    """The trunk down to stride 16 and four up-blocks back to the image, with a skip from each stage and from the image.

    Args:
        trunk: The encoder. Where it has no stage of some stride, the up-block of that stride has no skip.
        bridge: Channels of the bridge, a multiple of 16.
    """

    def __init__(self, trunk: Trunk, bridge: int = BRIDGE) -> None:
        super().__init__()
        self.trunk = trunk
        self.bridge = DoubleConvolution(trunk.channels[-1], bridge)
        skips = {1: 3, **dict(zip(trunk.strides, trunk.channels, strict=True))}
        self._strides = [trunk.strides[-1] >> level for level in range(1, 5)]  # 8, 4, 2, 1
        widths = [bridge >> level for level in range(5)]  # 1024, 512, 256, 128, 64
        self.up = nn.ModuleList(
            UpBlock(below, skips.get(stride, 0), width)
            for below, stride, width in zip(widths, self._strides, widths[1:], strict=False)
        )
        self.head = nn.Conv2d(widths[-1], 1, kernel_size=1)
        assert self.head.bias is not None
        nn.init.constant_(self.head.bias, FIRST_LOGIT)

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x S x S, normalised, S a multiple of 16 -> B x 1 x S x S logits."""
        assert images.shape[1:2] == (3,), f"images have shape {tuple(images.shape)}, not B x 3 x S x S"
        *stages, last = self.trunk.stages(images)
        skips = {1: images, **dict(zip(self.trunk.strides, stages, strict=False))}
        x = self.bridge(last)
        for stride, block in zip(self._strides, self.up, strict=True):
            x = block(x, skips.get(stride))
        return self.head(x)


class UpBlock(nn.Module):
    """Doubles the side with a transposed convolution and joins the skip, if there is one.

    Args:
        below: Input channels.
        skip: Channels of the skip, 0 for none.
        width: Output channels.
    """

    def __init__(self, below: int, skip: int, width: int) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(below, width, kernel_size=2, stride=2)
        self.join = DoubleConvolution(width + skip, width)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """B x below x s x s and B x skip x 2s x 2s -> B x width x 2s x 2s."""
        x = self.grow(x)
        return self.join(x if skip is None else torch.cat([x, skip], dim=1))


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
