"""Image -> patch features of two streams: trunk, disentangling gate, one projection per stream."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from torch import Tensor, nn

from medslip.model.trunk import Trunk

T = TypeVar("T")


class Streams(NamedTuple, Generic[T]):
    """Something of both streams, such as their patch features."""

    pathology: T
    anatomy: T


class StreamProjection(nn.Module):
    """Patches of one stream, C -> D: Linear, ReLU, Linear."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, width)

    def forward(self, patches: Tensor) -> Tensor:
        """B x N x C -> B x N x D."""
        return self.out(self.hidden(patches).relu())


class ImageEncoder(nn.Module):
    """Trunk, gate and two streams.

    The gate m = Linear(patches) divides each patch between the streams: m * patches goes to the pathology stream,
    (1 - m) * patches to the anatomy stream.

    Args:
        trunk: Its last stage has C channels.
        width: D.
    """

    def __init__(self, trunk: Trunk, width: int = 256) -> None:
        super().__init__()
        channels = trunk.channels[-1]
        self.trunk = trunk
        self.gate = nn.Linear(channels, channels)
        self.pathology_stream = StreamProjection(channels, width)
        self.anatomy_stream = StreamProjection(channels, width)

    def forward(self, images: Tensor) -> Streams[Tensor]:
        """B x 3 x S x S, normalised -> two streams, each B x N x D, patches in row-major order."""
        assert images.shape[1:2] == (3,), f"images have shape {tuple(images.shape)}, not B x 3 x S x S"
        return self.split(self.trunk(images))

    def split(self, features: Tensor) -> Streams[Tensor]:
        """The trunk's features, B x C x g x g, as two streams, each B x N x D."""
        patches, m = self._gated(features)
        return Streams(self.pathology_stream(m * patches), self.anatomy_stream((1 - m) * patches))

    def pathology(self, images: Tensor) -> Tensor:
        """The pathology stream alone, B x N x D; see ``forward``."""
        patches, m = self._gated(self.trunk(images))
        return self.pathology_stream(m * patches)

    def _gated(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Patches, B x N x C, and the gate's share of each for the pathology stream."""
        patches = features.flatten(2).transpose(1, 2)
        return patches, self.gate(patches)
