"""Random variation of training images, and of their masks or label matrices.

Every random number follows from (seed, epoch, index): an augmented image is a function of these three, whatever the number of
worker processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from medslip.data.images import Grey
from medslip.data.preprocessing import check_side
from medslip.errors import InputError
from medslip.labels import UNKNOWN, Matrix
from medslip.vocabulary import MIRRORED_ANATOMY

Augment = Callable[[Tensor, Tensor, int, int, int], tuple[Tensor, Tensor]]
"""Image (1 x H x W, uint8), target, seed, epoch, index -> augmented image (1 x S x S, uint8) and target. Picklable."""


@dataclass(frozen=True)
class AugmentationConfig:
    """How training images are varied.

    Attributes:
        scale_min: Smallest fraction of the image's area that a random crop keeps.
        scale_max: Largest fraction of the image's area that a random crop keeps.
        flip_probability: How often an image is mirrored. A mirrored image has its left and right labels
            exchanged.
        operations: How many operations of RandAugment are applied to each image; 0 for none.
        magnitude: Strength of these operations, 0 (no change) to 10.
    """

    scale_min: float = 0.2
    scale_max: float = 1.0
    flip_probability: float = 0.0
    operations: int = 2
    magnitude: float = 7.0

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= self.scale_max <= 1:
            raise InputError(
                f"augmentation: scale_min {self.scale_min} and scale_max {self.scale_max} must satisfy "
                "0 < scale_min <= scale_max <= 1"
            )
        if not 0 <= self.flip_probability <= 1:
            raise InputError(f"augmentation: flip_probability {self.flip_probability} must lie in 0 to 1")
        if self.operations < 0 or not 0 <= self.magnitude <= 10:
            raise InputError("augmentation: operations must be 0 or more, and magnitude lie in 0 to 10")


@dataclass(frozen=True)
class TrainingTransform:
    """Random resized crop (bicubic), mirror and RandAugment.

    The crop's aspect ratio, 3/4 to 4/3, is that of the squashed image, which is what the model sees: an image
    is cropped alike whether it comes from the publisher's file or squashed from a cache.

    Attributes:
        side: Side of the square in pixels, a multiple of 16.
        config: How images are varied.
    """

    side: int
    config: AugmentationConfig

    def __post_init__(self) -> None:
        check_side(self.side)

    @property
    def source_side(self) -> int:
        """Side that the source needs so that the smallest crop is not magnified."""
        return math.ceil(self.side / math.sqrt(self.config.scale_min * 3 / 4))

    def __call__(self, image: Grey, random: np.random.Generator) -> tuple[Tensor, bool]:
        """Vary one image.

        Args:
            image: H x W, uint8.
            random: See ``generator_for``.

        Returns:
            1 x side x side uint8, and whether it was mirrored.
        """
        height, width = image.shape
        top, left, height, width = _random_crop(height, width, self.config, random)
        crop = torch.from_numpy(image)[None, top : top + height, left : left + width]
        varied = F.resize(crop, [self.side, self.side], interpolation=InterpolationMode.BICUBIC, antialias=True)
        mirrored = bool(random.random() < self.config.flip_probability)
        if mirrored:
            varied = F.horizontal_flip(varied)
        for _ in range(self.config.operations):
            varied = _OPERATIONS[int(random.integers(len(_OPERATIONS)))](
                varied, self.config.magnitude / 10 * (1 if random.random() < 0.5 else -1)
            )
        return varied, mirrored


def generator_for(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The random numbers of one sample in one epoch; independent of those of every other."""
    return np.random.default_rng((seed, epoch, index))


def mirror_labels(matrix: Matrix) -> Matrix:
    """The label matrix of the mirrored image.

    Left and right anatomies are exchanged. A one-sided anatomy without a partner becomes unknown, as the vocabulary has no
    such anatomy on the other side.

    Args:
        matrix: ... x A x P cells, 1 present, 0 absent, -1 unknown.

    Returns:
        A new matrix of the same shape.
    """
    mirrored = matrix[..., _MIRROR_SOURCE, :]
    mirrored[..., _NO_PARTNER, :] = UNKNOWN
    return mirrored


# An exchange is its own inverse, so where a row goes is also where it comes from.
_NO_PARTNER = np.flatnonzero(np.array(MIRRORED_ANATOMY) < 0)
_MIRROR_SOURCE = np.maximum(MIRRORED_ANATOMY, 0)


@dataclass(frozen=True)
class LabelAugment:
    """Augments images that have class labels or a label matrix. See Augment.

    Class labels have no side and stay as they are; of a mirrored image, the left and right rows of the matrix are exchanged.
    """

    transform: TrainingTransform

    def __call__(self, image: Tensor, labels: Tensor, seed: int, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """The labels are C, or A x P."""
        augmented, mirrored = self.transform(image[0].numpy(), generator_for(seed, epoch, index))
        if mirrored and labels.dim() == 2:
            labels = torch.from_numpy(mirror_labels(labels.numpy()))
        return augmented, labels


@dataclass(frozen=True)
class JointAugmentationConfig:
    """Augmentation of training images and their masks.

    Attributes:
        scale_min: Smallest fraction of the image's area that a random crop keeps.
        flip_probability: Probability of mirroring image and mask.
        rotation: Largest rotation in either direction, in degrees.
        contrast: Largest relative change of the image's brightness and contrast, 0 to 1.
    """

    scale_min: float = 0.7
    flip_probability: float = 0.5
    rotation: float = 10.0
    contrast: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.scale_min <= 1:
            raise InputError(f"augmentation.scale_min: {self.scale_min} must be above 0 and at most 1")
        for name, largest in (("flip_probability", 1), ("contrast", 1), ("rotation", 180)):
            if not 0 <= getattr(self, name) <= largest:
                raise InputError(f"augmentation.{name}: {getattr(self, name)} must lie in 0 to {largest}")


class JointTransform:
    """Random crop, mirror, rotation, brightness and contrast by torchvision's v2 transforms.

    Args:
        side: Side of the square in pixels.
        config: The augmentation.
    """

    def __init__(self, side: int, config: JointAugmentationConfig) -> None:
        self._augment = v2.Compose(
            [
                v2.RandomRotation(config.rotation, interpolation=InterpolationMode.BILINEAR),
                v2.RandomResizedCrop(side, scale=(config.scale_min, 1.0), antialias=True),
                v2.RandomHorizontalFlip(config.flip_probability),
                v2.ColorJitter(brightness=config.contrast, contrast=config.contrast),
            ]
        )

    def __call__(self, image: Tensor, mask: Tensor, seed: int, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Augment an image with its mask; the same arguments always give the same result.

        Args:
            image: 1 x H x W, uint8.
            mask: 1 x H x W, uint8, 1 inside and 0 outside.
            seed: Seed of the augmentation.
            epoch: Which epoch.
            index: Which image.

        Returns:
            Both at 1 x side x side, uint8.
        """
        # These transforms draw from torch's global generator, which is seeded for this sample and restored.
        with torch.random.fork_rng(devices=[]):
            state = np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0]
            torch.default_generator.manual_seed(int(state >> np.uint64(1)))
            image, mask = self._augment(tv_tensors.Image(image), tv_tensors.Mask(mask))
        return image.as_subclass(Tensor), mask.as_subclass(Tensor)


def _random_crop(
    height: int, width: int, config: AugmentationConfig, random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height, width of a crop with a random fraction of the area and a random aspect ratio."""
    area = random.uniform(config.scale_min, config.scale_max)
    # Wider than 1 / area, or narrower than area, would not fit into the image.
    bound = min(math.log(4 / 3), abs(math.log(area)))
    ratio = math.exp(random.uniform(-bound, bound))
    crop_height = max(1, round(height * math.sqrt(area / ratio)))
    crop_width = max(1, round(width * math.sqrt(area * ratio)))
    top = int(random.integers(height - crop_height + 1))
    left = int(random.integers(width - crop_width + 1))
    return top, left, crop_height, crop_width


# torchvision has all of these operations. The forms below give the same bytes in a third of the time.


def _equalise(image: Tensor) -> Tensor:
    return torch.from_numpy(np.array(ImageOps.equalize(Image.fromarray(image[0].numpy()))))[None]


def _sharpen(image: Tensor, factor: float) -> Tensor:
    """0 smooths by 3 x 3 pixels, 1 changes nothing, 2 sharpens as much as 0 smooths. The outermost pixels stay."""
    sharpened = image.float()
    inner = sharpened[:, 1:-1, 1:-1]
    rows = sharpened[:, :-2] + sharpened[:, 1:-1] + sharpened[:, 2:]
    smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]).add_(inner, alpha=4).div_(13).round_()
    inner.add_(smooth.sub_(inner), alpha=1 - factor)
    return sharpened.clamp_(0, 255).to(torch.uint8)


def _shift(image: Tensor, x: int, y: int) -> Tensor:
    """Move right and down by whole pixels."""
    height, width = image.shape[-2:]
    shifted = torch.zeros_like(image)
    shifted[:, max(y, 0) : height + y, max(x, 0) : width + x] = image[
        :, max(-y, 0) : height - y, max(-x, 0) : width - x
    ]
    return shifted


def _warp(image: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Bilinear; the matrix takes a pixel's x and y, from the centre, to where its grey value comes from."""
    height, width = image.shape[-2:]
    scaled = torch.tensor(matrix, dtype=torch.float32) / torch.tensor([[0.5 * width], [0.5 * height]])
    grid = (scaled @ _from_centre(height, width)).view(1, 2, height, width).permute(0, 2, 3, 1)
    return grid_sample(image[None].float(), grid, align_corners=False)[0].round_().to(torch.uint8)


@cache
def _from_centre(height: int, width: int) -> Tensor:
    """The x and y of every pixel, 2 x (height * width)."""
    y, x = (torch.linspace((1 - side) * 0.5, (side - 1) * 0.5, side) for side in (height, width))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).flatten(1)


def _rotate(image: Tensor, degrees: float) -> Tensor:
    """Anticlockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return _warp(image, [[cos, -sin], [sin, cos]])


# RandAugment (Cubuk et al., arXiv 1909.13719). An operation takes a 1 x H x W image and a strength, -1 to 1, whose sign
# is random. At strength 1: brightness and sharpness change by half, a shear moves by 0.3 of the distance, a translation
# by 1/20 of the side, a rotation turns by 30 degrees. Pixels from outside the image are black.
_OPERATIONS: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda image, strength: image,
    lambda image, strength: F.autocontrast(image),
    lambda image, strength: _equalise(image),
    lambda image, strength: F.adjust_brightness(image, 1 + 0.5 * strength),
    lambda image, strength: _sharpen(image, 1 + 0.5 * strength),
    lambda image, strength: _warp(image, [[1, 0.3 * strength], [0, 1]]),
    lambda image, strength: _warp(image, [[1, 0], [0.3 * strength, 1]]),
    lambda image, strength: _shift(image, round(strength * image.shape[-1] / 20), 0),
    lambda image, strength: _shift(image, 0, round(strength * image.shape[-2] / 20)),
    lambda image, strength: _rotate(image, 30 * strength),
)
