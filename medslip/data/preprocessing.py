"""Grey images -> what the model sees: the same squash and normalisation for training, evaluation and users' images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode

from medslip.data.dicom import MAX_PIXELS, count_values, look_up
from medslip.data.images import Grey
from medslip.data.masks import Mask
from medslip.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_STRIDE = 16
"""Of the trunk: a side is a multiple of it."""


@dataclass(frozen=True)
class Preprocessing:
    """Side and normalisation of the model's images.

    The whole image is squashed to a square, so boxes and masks scale along each axis.

    Attributes:
        side: Side of the square in pixels, a multiple of 16.
        mean: Mean of the red, green and blue channels that is subtracted, on the scale 0 to 1.
        std: Standard deviation of the channels that is divided by, on the scale 0 to 1.
    """

    side: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        check_side(self.side)
        if not len(self.mean) == len(self.std) == 3 or not all(0 < each < math.inf for each in self.std):
            raise InputError("image transform: mean and std must have three numbers each, those of std above 0")

    def __call__(self, image: Grey) -> Tensor:
        """H x W uint8 -> 1 x side x side uint8; see squash."""
        return squash(image, self.side)

    def normalise(self, images: Tensor) -> Tensor:
        """Grey images as the trunk takes them, computed on the device that they are on.

        Args:
            images: B x 1 x H x W, uint8, 0 to 255.

        Returns:
            B x 3 x H x W, float32.
        """
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)
        return torch.addcmul(-mean / std, images.float(), 1 / (255 * std))

    def to_dict(self) -> dict[str, Any]:
        """A form that JSON can hold."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of ``to_dict``.

        Raises:
            InputError: A key is missing or unknown, or a value is impossible.
        """
        if set(values) != {"side", "mean", "std"}:
            raise InputError(f"image transform: has keys {sorted(values)}, expected mean, side, std")
        try:
            numbers: Any = [tuple(map(float, values[name])) for name in ("mean", "std")]
            return cls(int(values["side"]), *numbers)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"image transform: {error}") from None


def check_side(side: int) -> None:
    """Check that a side is a multiple of the trunk's stride, and not larger than any radiograph.

    Raises:
        InputError: It is not.
    """
    largest = math.isqrt(MAX_PIXELS)
    if not _STRIDE <= side <= largest or side % _STRIDE:
        raise InputError(
            f"image side {side}: must be a multiple of {_STRIDE}, the stride of the image trunk, and at most {largest}"
        )


def roomy(side: int) -> int:
    """An eighth more than a side, up to a multiple of 16: what preloaded images are squashed to, for random crops."""
    return math.ceil(side * 9 / 8 / _STRIDE) * _STRIDE


def equalise(image: Grey) -> Grey:
    """Equalise the histogram over 256 bins, as published for the RSNA images: each grey value is about equally frequent.

    A grey value becomes the fraction of pixels that are not brighter, times 255.

    Args:
        image: H x W, uint8.

    Returns:
        H x W, uint8.
    """
    not_brighter = np.cumsum(count_values(image))
    return look_up(image, np.rint(not_brighter * (255 / image.size)).astype(np.uint8))


def squash(image: Grey, side: int) -> Tensor:
    """H x W uint8 -> 1 x side x side uint8, whatever the aspect ratio: bilinear with antialiasing."""
    return F.resize(
        torch.from_numpy(image)[None],
        [side, side],
        interpolation=InterpolationMode.BILINEAR,
        antialias=True,
    )


def squash_mask(mask: Mask, side: int) -> Tensor:
    """H x W bool -> 1 x side x side uint8, 1 inside and 0 outside.

    A pixel of the small mask is inside if at least half of its area is. A finding too small for that keeps the pixels that have
    most of it, so that no mask becomes empty.
    """
    area = F.resize(torch.from_numpy(mask)[None].float(), [side, side], antialias=True)
    inside = area >= 0.5
    if mask.any() and not inside.any():
        inside = area == area.max()
    return inside.to(torch.uint8)
