"""Image and mask are squashed and augmented together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.data.joint_transforms import JointAugmentationConfig, JointTransform, squash_pair
from medslip.errors import InputError


def blob(side: int = 72) -> tuple[torch.Tensor, torch.Tensor]:
    """A bright rectangle on black, and its mask."""
    mask = torch.zeros(1, side, side, dtype=torch.uint8)
    mask[:, 20:50, 30:60] = 1
    return mask * 200, mask


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_the_mask_stays_on_what_it_marks(seed):
    """A mask that does not move with its image would teach the wrong place."""
    image, mask = JointTransform(64, JointAugmentationConfig(contrast=0.2))(*blob(), seed, 0, 0)
    assert image.shape == mask.shape == (1, 64, 64)
    assert image.dtype == mask.dtype == torch.uint8
    assert set(mask.unique().tolist()) <= {0, 1}
    bright, inside = image > 80, mask > 0
    # Interpolation blurs the rim by a pixel or so on all sides: the overlap stays large and the middle in place.
    if inside.sum() > 200:
        assert (bright & inside).sum() > 0.75 * (bright | inside).sum()
        middles = [region.nonzero().float().mean(dim=0) for region in (bright, inside)]
        assert (middles[0] - middles[1]).norm() < 2.0


def test_the_augmentation_is_a_function_of_seed_epoch_and_index():
    transform = JointTransform(64, JointAugmentationConfig())
    torch.manual_seed(1)
    one = transform(*blob(), 3, 2, 1)
    torch.manual_seed(2)
    other = transform(*blob(), 3, 2, 1)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert type(one[0]) is type(one[1]) is torch.Tensor
    for key in ((4, 2, 1), (3, 3, 1), (3, 2, 2)):
        assert not torch.equal(transform(*blob(), *key)[0], one[0])


def test_the_global_generator_is_left_alone():
    """Dropout and weights must not depend on how many images were loaded in this process."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    JointTransform(64, JointAugmentationConfig())(*blob(), 0, 0, 0)
    assert torch.equal(torch.rand(3), expected)


def test_a_small_finding_does_not_vanish():
    image, mask = np.zeros((512, 256), np.uint8), np.zeros((512, 256), bool)
    mask[100:103, 100:101] = True
    assert 1 <= int(squash_pair(image, mask, 32, "x")[1].sum()) <= 4
    assert int(squash_pair(image, np.zeros_like(mask), 32, "x")[1].sum()) == 0


def test_squashing_keeps_the_share_of_the_area():
    mask = np.zeros((300, 400), bool)
    mask[60:180, 100:300] = True
    small = squash_pair(np.zeros((300, 400), np.uint8), mask, 64, "x")[1]
    assert abs(float(small.float().mean()) - mask.mean()) < 0.01


def test_a_mask_of_another_size_is_an_error():
    with pytest.raises(InputError, match=r"a\.png: the image has 4 x 3 pixels, its mask 4 x 4"):
        squash_pair(np.zeros((3, 4), np.uint8), np.zeros((4, 4), bool), 16, "a.png")


@pytest.mark.parametrize(("key", "value"), [("scale_min", 0.0), ("flip_probability", 1.1), ("rotation", -1.0)])
def test_an_impossible_augmentation_is_an_error(key, value):
    with pytest.raises(InputError, match=f"augmentation.{key}"):
        JointAugmentationConfig(**{key: value})
