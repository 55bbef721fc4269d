"""Image and mask together: the same squash and the same augmentation for both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from medslip.data.masked import Mask
from medslip.data.transforms import Grey, squash
from medslip.errors import InputError


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


def squash_pair(image: Grey, mask: Mask, side: int, source: str) -> tuple[Tensor, Tensor]:
    """Squash image and mask to the same square.

    A pixel of the small mask is inside if at least half of its area is. A finding too small for that keeps the pixels that have
    most of it, so that no mask becomes empty.

    Args:
        image: H x W, uint8.
        mask: H x W, bool.
        side: Side of the square in pixels.
        source: The image's file, for messages.

    Returns:
        Both at 1 x side x side, uint8; the mask is 1 inside and 0 outside.

    Raises:
        InputError: The mask and the image differ in size.
    """
    if image.shape != mask.shape:
        raise InputError(
            f"{source}: the image has {image.shape[1]} x {image.shape[0]} pixels, its mask {mask.shape[1]} x {mask.shape[0]}"
        )
    area = F.resize(torch.from_numpy(mask)[None].float(), [side, side], antialias=True)
    inside = area >= 0.5
    if mask.any() and not inside.any():
        inside = area == area.max()
    return squash(image, side), inside.to(torch.uint8)
