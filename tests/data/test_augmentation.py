"""Augmentation of images, of images with masks, and mirrored labels."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchvision.transforms import InterpolationMode

from medslip.data.augmentation import (
    _OPERATIONS,
    AugmentationConfig,
    JointAugmentationConfig,
    JointTransform,
    TrainingTransform,
    generator_for,
    mirror_labels,
)
from medslip.errors import InputError
from medslip.labels import A, P
from medslip.vocabulary import ANATOMIES, NO_PARTNER

NOISE = np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8)
LONE = [ANATOMIES.index(name) for name in sorted(NO_PARTNER)]
matrices = hnp.arrays(
    np.int8, st.sampled_from([(A, P), (2, A, P)]), elements=st.sampled_from([-1, 0, 1]), fill=st.just(-1)
)


# Augmentation


@pytest.mark.parametrize(
    ("config", "values"),
    [(AugmentationConfig, {"scale_min": 0}), (AugmentationConfig, {"scale_max": 1.5}),
     (AugmentationConfig, {"scale_min": 0.9, "scale_max": 0.5}), (AugmentationConfig, {"flip_probability": 2}),
     (AugmentationConfig, {"operations": -1}), (AugmentationConfig, {"magnitude": 11}),
     (JointAugmentationConfig, {"scale_min": 0.0}), (JointAugmentationConfig, {"flip_probability": 1.1}),
     (JointAugmentationConfig, {"rotation": -1.0})],
)  # fmt: skip
def test_impossible_augmentation_is_refused(config, values):
    with pytest.raises(InputError, match=f"augmentation.*{next(iter(values))}"):
        config(**values)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    seed=st.integers(0, 2**63),
    config=st.builds(
        AugmentationConfig,
        scale_min=st.floats(0.01, 0.5),
        scale_max=st.floats(0.5, 1),
        flip_probability=st.floats(0, 1),
        operations=st.integers(0, 4),
        magnitude=st.floats(0, 10),
    ),
)
def test_augmentation_takes_any_image(shape, seed, config):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    varied, mirrored = TrainingTransform(32, config)(image, generator_for(seed, 0, 0))
    assert varied.shape == (1, 32, 32)
    assert varied.dtype == torch.uint8
    assert isinstance(mirrored, bool)


def varied_image(key):
    return TrainingTransform(64, AugmentationConfig(flip_probability=0.5))(NOISE, generator_for(*key))


def varied_pair(key):
    return JointTransform(64, JointAugmentationConfig())(*blob(), *key)


@pytest.mark.parametrize("vary", [varied_image, varied_pair])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), epoch=st.integers(0, 100), index=st.integers(0, 10**6))
def test_augmentation_is_a_function_of_seed_epoch_and_index(vary, seed, epoch, index):
    """Else a run cannot be repeated, or resumed as if it had not stopped."""
    torch.manual_seed(seed)
    first = vary((seed, epoch, index))
    torch.manual_seed(seed + 1)
    np.random.seed(seed + 1)  # noqa: NPY002
    again = vary((seed, epoch, index))
    assert torch.equal(first[0], again[0])
    assert torch.equal(torch.as_tensor(first[1]), torch.as_tensor(again[1]))
    for other in ((seed + 1, epoch, index), (seed, epoch + 1, index), (seed, epoch, index + 1)):
        assert not torch.equal(first[0], vary(other)[0])


def test_augmentation_leaves_its_input_and_the_global_generators_alone():
    """Dropout and weights must not depend on how many images were loaded in this process."""
    image, torch_state = NOISE.copy(), torch.get_rng_state()
    for index in range(30):
        TrainingTransform(64, AugmentationConfig(flip_probability=0.5))(image, generator_for(0, 0, index))
    JointTransform(64, JointAugmentationConfig())(*blob(), 0, 0, 0)
    assert (image == NOISE).all()
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_flip_alone_mirrors_the_whole_image_and_says_so():
    config = AugmentationConfig(scale_min=1.0, scale_max=1.0, flip_probability=0.5, operations=0)
    ramp = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
    seen = set()
    for index in range(40):
        varied, mirrored = TrainingTransform(96, config)(ramp, generator_for(0, 0, index))
        assert (varied[0].numpy() == (ramp[:, ::-1] if mirrored else ramp)).all()
        seen.add(mirrored)
    assert seen == {True, False}


def test_crops_keep_the_share_and_ratio_that_they_should():
    """Read off an image whose grey values are the coordinates."""
    side = 240
    rows = np.repeat(np.arange(side, dtype=np.uint8)[:, None], side, 1)
    transform = TrainingTransform(96, AugmentationConfig(scale_min=0.25, scale_max=0.75, operations=0))
    shares, ratios, centres = [], [], []
    for index in range(300):
        tall, _ = transform(rows, generator_for(0, 0, index))
        wide, _ = transform(rows.T.copy(), generator_for(0, 0, index))
        height = (tall.max() - tall.min()).item() + 1
        width = (wide.max() - wide.min()).item() + 1
        shares.append(height * width / side**2)
        ratios.append(width / height)
        centres.append(tall.float().mean().item() / side)
    assert 0.23 < min(shares) < 0.3
    assert 0.7 < max(shares) < 0.78
    assert 0.72 < min(ratios) < 0.8
    assert 1.25 < max(ratios) < 1.38
    assert abs(np.mean(centres) - 0.5) < 0.03


def test_source_side_is_enough_for_the_smallest_crop():
    assert TrainingTransform(224, AugmentationConfig()).source_side == 579
    assert TrainingTransform(224, AugmentationConfig(scale_min=1.0)).source_side >= 224


def test_magnitude_zero_moves_nothing():
    """Only auto-contrast and equalise, which have no strength, may change the image."""
    config = AugmentationConfig(scale_min=1.0, scale_max=1.0, operations=1, magnitude=0)
    full_range = np.tile(np.arange(256, dtype=np.uint8)[:, None], (1, 256))
    for index in range(40):
        varied, _ = TrainingTransform(256, config)(full_range, generator_for(0, 0, index))
        assert np.abs(varied[0].numpy().astype(int) - full_range).max() <= 1


def sheared(image, x, y):
    shear = [math.degrees(math.atan(part)) for part in (x, y)]
    return F.affine(image, 0.0, [0, 0], 1.0, shear, InterpolationMode.BILINEAR)


TORCHVISION = (
    lambda image, strength: image,
    lambda image, strength: F.autocontrast(image),
    lambda image, strength: F.equalize(image),
    lambda image, strength: F.adjust_brightness(image, 1 + 0.5 * strength),
    lambda image, strength: F.adjust_sharpness(image, 1 + 0.5 * strength),
    lambda image, strength: sheared(image, 0.3 * strength, 0.0),
    lambda image, strength: sheared(image, 0.0, 0.3 * strength),
    lambda image, strength: F.affine(image, 0.0, [round(strength * image.shape[-1] / 20), 0], 1.0, [0.0, 0.0]),
    lambda image, strength: F.affine(image, 0.0, [0, round(strength * image.shape[-2] / 20)], 1.0, [0.0, 0.0]),
    lambda image, strength: F.rotate(image, 30 * strength, InterpolationMode.BILINEAR),
)


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(0, len(TORCHVISION) - 1),
    image=hnp.arrays(np.uint8, st.tuples(st.just(1), st.sampled_from([16, 96]), st.sampled_from([16, 96]))),
    strength=st.floats(-1, 1),
    noisy=st.booleans(),
)
def test_an_operation_is_that_of_torchvision(number, image, strength, noisy):
    """The fast forms would train on other images. On this kind of CPU they give the same bytes; another one may round a
    sum of two products differently, and so a grey value."""
    image = torch.from_numpy(np.resize(NOISE, image.shape) if noisy else image)
    ours, theirs = (form[number](image, strength).int() for form in (_OPERATIONS, TORCHVISION))
    assert (ours - theirs).abs().max() <= (1 if number in (5, 6, 9) else 0)
    assert (ours != theirs).float().mean() < 0.001


# Mirrored labels


@settings(max_examples=30, deadline=None)
@given(matrices)
def test_mirroring_twice_gives_the_labels_back(matrix):
    before = matrix.copy()
    twice = mirror_labels(mirror_labels(matrix))
    assert (np.delete(twice, LONE, axis=-2) == np.delete(matrix, LONE, axis=-2)).all()
    assert (mirror_labels(matrix)[..., LONE, :] == -1).all()
    assert (matrix == before).all()
    assert twice.dtype == np.int8


@pytest.mark.parametrize(
    ("name", "mirrored"),
    [("left_pleural", "right_pleural"), ("lower_right_lobe", "lower_left_lobe"), ("heart_size", "heart_size"),
     ("left_lung_unspec", "right_lung_unspec"), ("spine", "spine")],
)  # fmt: skip
def test_a_finding_goes_to_the_other_side(name, mirrored):
    """The published code leaves "left" on what is then the right side."""
    matrix = np.full((A, P), -1, np.int8)
    matrix[ANATOMIES.index(name), 8] = 1
    expected = np.full((A, P), -1, np.int8)
    expected[ANATOMIES.index(mirrored), 8] = 1
    assert (mirror_labels(matrix) == expected).all()


# Images with masks


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
