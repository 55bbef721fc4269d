"""Evaluation transform, augmentation and mirrored labels."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medslip.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AugmentationConfig,
    EvaluationTransform,
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


# Evaluation


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_any_shape_becomes_the_square(height, width):
    image = EvaluationTransform(64)(np.full((height, width), 77, np.uint8))
    assert image.shape == (1, 64, 64)
    assert image.dtype == torch.uint8
    assert (image == 77).all()


def test_the_whole_image_is_squashed_each_axis_by_its_own_factor():
    """Boxes are scaled that way: a crop or a kept aspect ratio would move them off their finding."""
    image = np.zeros((480, 320), np.uint8)
    image[120:240, 160:320] = 255
    expected = torch.zeros(1, 160, 160, dtype=torch.uint8)
    expected[:, 40:80, 80:] = 255
    difference = (EvaluationTransform(160)(image).int() - expected.int()).abs()
    assert (difference > 0).float().mean() < 0.03


def test_shrinking_is_antialiased():
    """Without antialiasing, a fine grid gives stripes instead of its mean."""
    grid = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (400, 400))
    assert (EvaluationTransform(64)(grid).int() - 127).abs().max() <= 3


def test_normalise_is_the_trunk_s_input():
    images = torch.arange(256, dtype=torch.uint8).view(2, 1, 8, 16)
    normalised = EvaluationTransform(16).normalise(images)
    assert normalised.shape == (2, 3, 8, 16)
    assert normalised.dtype == torch.float32
    for channel in range(3):
        expected = (images[:, 0].double() / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        torch.testing.assert_close(normalised[:, channel].double(), expected, atol=1e-6, rtol=1e-5)


def test_transform_survives_json():
    """It is stored with a checkpoint: what comes back must be the same."""
    transform = EvaluationTransform(96, (0.5, 0.4, 0.3), (0.2, 0.1, 0.3))
    assert EvaluationTransform.from_dict(json.loads(json.dumps(transform.to_dict()))) == transform


@pytest.mark.parametrize("values", [{}, {"side": 64}, {"side": 64, "mean": [0] * 3, "std": [1] * 3, "crop": 1}])
def test_stored_transform_with_other_keys_is_refused(values):
    with pytest.raises(InputError, match="image transform"):
        EvaluationTransform.from_dict(values)


@pytest.mark.parametrize("side", [0, -16, 100])
def test_side_that_the_trunk_cannot_divide_is_refused(side):
    with pytest.raises(InputError, match="multiple of 16"):
        EvaluationTransform(side)
    with pytest.raises(InputError, match="multiple of 16"):
        TrainingTransform(side, AugmentationConfig())


# Augmentation


@pytest.mark.parametrize(
    "values",
    [{"scale_min": 0}, {"scale_max": 1.5}, {"scale_min": 0.9, "scale_max": 0.5}, {"flip_probability": 2},
     {"operations": -1}, {"magnitude": 11}],
)  # fmt: skip
def test_impossible_augmentation_is_refused(values):
    with pytest.raises(InputError, match="augmentation"):
        AugmentationConfig(**values)


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


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), epoch=st.integers(0, 100), index=st.integers(0, 10**6))
def test_augmentation_is_a_function_of_seed_epoch_and_index(seed, epoch, index):
    """Else a run cannot be repeated, or resumed as if it had not stopped."""
    transform = TrainingTransform(64, AugmentationConfig(flip_probability=0.5))
    torch.manual_seed(seed)
    first, first_mirrored = transform(NOISE, generator_for(seed, epoch, index))
    torch.manual_seed(seed + 1)
    np.random.seed(seed + 1)  # noqa: NPY002
    again, again_mirrored = transform(NOISE, generator_for(seed, epoch, index))
    assert torch.equal(first, again)
    assert first_mirrored == again_mirrored
    for other in ((seed + 1, epoch, index), (seed, epoch + 1, index), (seed, epoch, index + 1)):
        assert not torch.equal(first, transform(NOISE, generator_for(*other))[0])


def test_augmentation_leaves_its_input_and_the_global_generators_alone():
    image, torch_state = NOISE.copy(), torch.get_rng_state()
    for index in range(30):
        TrainingTransform(64, AugmentationConfig(flip_probability=0.5))(image, generator_for(0, 0, index))
    assert (image == NOISE).all()
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_without_variation_the_training_image_is_the_whole_image():
    config = AugmentationConfig(scale_min=1.0, scale_max=1.0, operations=0)
    ramp = np.add.outer(np.arange(96), np.arange(96)).astype(np.uint8)
    varied, mirrored = TrainingTransform(96, config)(ramp, generator_for(0, 0, 0))
    assert (varied[0].numpy() == ramp).all()
    assert not mirrored


def test_flip_mirrors_the_image_and_says_so():
    config = AugmentationConfig(scale_min=1.0, scale_max=1.0, flip_probability=0.5, operations=0)
    ramp = np.tile(np.arange(96, dtype=np.uint8), (96, 1))
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
