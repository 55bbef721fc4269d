"""Image -> two streams of patch features: residual trunk, disentangling gate, one projection a stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from medslip.errors import InputError
from medslip.model.weights import load_strictly

TrunkName = Literal["resnet18", "resnet50"]


PATCH = 16
"""Pixels along each side of a patch: the trunk's stride."""

PATCH_CENTRE = 0.5 / PATCH
"""The point of a patch that its features are centred on, as a share of its side: the middle of its first pixel.

Every step of the trunk that halves the resolution pads on both sides, so its output i is centred on its input 2 i, and patch i
on pixel 16 i. A map laid over the image as if patches saw their own middle lies half a patch too far down and to the right.
"""


class Streams(NamedTuple):
    """Patch features of both streams, each B x N x D."""

    pathology: Tensor
    anatomy: Tensor


class Trunk(nn.Module):
    """A ResNet up to and including its third residual stage.

    Its stride is 16: one patch covers 16 x 16 pixels, and N = (side / 16) squared.

    Args:
        name: Which ResNet.
        weights: None starts from scratch. Else what torchvision calls the weights ("IMAGENET1K_V1", downloaded or
            from torchvision's own cache), or a file holding a torchvision state dict.
        residual_start: Of a trunk from scratch, the scale that the last normalisation of each residual block starts from.
            Below 1 a patch first sees little more than itself.

    Attributes:
        channels: C, 1024 for ResNet-50 and 256 for ResNet-18.

    Raises:
        InputError: The weights are unknown, cannot be had, or do not fit the trunk.
    """

    def __init__(self, name: TrunkName = "resnet50", weights: str | None = None, residual_start: float = 1.0) -> None:
        super().__init__()
        resnet = getattr(torchvision.models, name)(weights=None)
        if weights is None:
            _start_residuals(resnet, residual_start)
        else:
            load_torchvision_weights(resnet, name, weights)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3 = resnet.layer1, resnet.layer2, resnet.layer3
        self.channels: int = resnet.layer4[0].conv1.in_channels

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x S x S, normalised -> B x C x S/16 x S/16."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer3(self.layer2(self.layer1(x)))


def _start_residuals(resnet: nn.Module, scale: float) -> None:
    """Set the last normalisation of every residual block to one scale."""
    for block in resnet.modules():
        if isinstance(block, BasicBlock):
            nn.init.constant_(block.bn2.weight, scale)
        elif isinstance(block, Bottleneck):
            nn.init.constant_(block.bn3.weight, scale)


def load_torchvision_weights(resnet: nn.Module, name: TrunkName, weights: str) -> None:
    """Fill a torchvision ResNet; name, weights and errors are those of Trunk."""
    if Path(weights).is_file():
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises whatever its unpickler met
            raise InputError(
                f"model.trunk_weights: {weights} cannot be read with weights_only ({type(error).__name__})"
            ) from None
    else:
        try:
            state = torchvision.models.get_model_weights(name)[weights].get_state_dict(progress=True)
        except KeyError:
            known = ", ".join(entry.name for entry in torchvision.models.get_model_weights(name))
            raise InputError(
                f"model.trunk_weights: {weights!r} is neither a file nor one of torchvision's weights of {name} ({known})"
            ) from None
        except OSError as error:
            raise InputError(
                f"model.trunk_weights: {weights} of {name} could not be downloaded ({error}); name a state-dict file"
            ) from None
    if not isinstance(state, Mapping):
        raise InputError(f"model.trunk_weights: {weights} holds a {type(state).__name__}, not a state dict")
    load_strictly(resnet, state, f"model.trunk_weights: {weights}")


class StreamProjection(nn.Module):
    """One stream's patches, C -> D: Linear, ReLU, Linear."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, width)

    def forward(self, patches: Tensor) -> Tensor:
        """B x N x C -> B x N x D."""
        return self.out(self.hidden(patches).relu())


class ImageEncoder(nn.Module):
    """Trunk, gate and two streams.

    The gate m = Linear(patches) splits every patch between the streams: m * patches speaks of pathology,
    (1 - m) * patches of anatomy.

    Args:
        trunk: Residual trunk with C channels.
        width: D.
    """

    def __init__(self, trunk: Trunk, width: int = 256) -> None:
        super().__init__()
        self.trunk = trunk
        self.gate = nn.Linear(trunk.channels, trunk.channels)
        self.pathology_stream = StreamProjection(trunk.channels, width)
        self.anatomy_stream = StreamProjection(trunk.channels, width)

    def forward(self, images: Tensor) -> Streams:
        """B x 3 x S x S, normalised -> two streams, each B x N x D, patches in row-major order."""
        assert images.shape[1:2] == (3,), f"images of shape {tuple(images.shape)}, not B x 3 x S x S"
        patches = self.trunk(images).flatten(2).transpose(1, 2)  # B x N x C
        m = self.gate(patches)
        return Streams(self.pathology_stream(m * patches), self.anatomy_stream((1 - m) * patches))
