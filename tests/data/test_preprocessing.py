"""Squash, equalisation and normalisation."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.exposure import equalize_hist

from medslip.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, equalise, squash_mask
from medslip.errors import InputError


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_any_shape_becomes_the_square(height, width):
    image = Preprocessing(64)(np.full((height, width), 77, np.uint8))
    assert image.shape == (1, 64, 64)
    assert image.dtype == torch.uint8
    assert (image == 77).all()


def test_the_whole_image_is_squashed_each_axis_by_its_own_factor():
    """Boxes are scaled that way: a crop or a kept aspect ratio would move them off their finding."""
    image = np.zeros((480, 320), np.uint8)
    image[120:240, 160:320] = 255
    expected = torch.zeros(1, 160, 160, dtype=torch.uint8)
    expected[:, 40:80, 80:] = 255
    difference = (Preprocessing(160)(image).int() - expected.int()).abs()
    assert (difference > 0).float().mean() < 0.03


def test_shrinking_is_antialiased():
    """Without antialiasing, a fine grid gives stripes instead of its mean."""
    grid = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (400, 400))
    assert (Preprocessing(64)(grid).int() - 127).abs().max() <= 3


def test_normalise_is_the_trunk_s_input():
    images = torch.arange(256, dtype=torch.uint8).view(2, 1, 8, 16)
    normalised = Preprocessing(16).normalise(images)
    assert normalised.shape == (2, 3, 8, 16)
    assert normalised.dtype == torch.float32
    for channel in range(3):
        expected = (images[:, 0].double() / 255 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]
        torch.testing.assert_close(normalised[:, channel].double(), expected, atol=1e-6, rtol=1e-5)


def test_transform_survives_json():
    """It is stored with a checkpoint: what comes back must be the same."""
    transform = Preprocessing(96, (0.5, 0.4, 0.3), (0.2, 0.1, 0.3))
    assert Preprocessing.from_dict(json.loads(json.dumps(transform.to_dict()))) == transform


@pytest.mark.parametrize("values", [{}, {"side": 64}, {"side": 64, "mean": [0] * 3, "std": [1] * 3, "crop": 1}])
def test_stored_transform_with_other_keys_is_refused(values):
    with pytest.raises(InputError, match="image transform"):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize("side", [0, -16, 100])
def test_side_that_the_trunk_cannot_divide_is_refused(side):
    with pytest.raises(InputError, match="multiple of 16"):
        Preprocessing(side)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equalisation_agrees_with_scikit_image(data):
    """To within rounding."""
    top = data.draw(st.sampled_from([1, 2, 100, 256]))
    seed = data.draw(st.integers(0, 1000))
    random = np.random.default_rng(seed)
    image = (random.random((20, 30)) ** random.uniform(0.3, 4) * top).astype(np.uint8)
    reference = equalize_hist(image, nbins=256) * 255
    assert np.abs(equalise(image) - reference).max() <= 0.5


def test_a_small_finding_does_not_vanish():
    mask = np.zeros((512, 256), bool)
    mask[100:103, 100:101] = True
    assert 1 <= int(squash_mask(mask, 32).sum()) <= 4
    assert int(squash_mask(np.zeros_like(mask), 32).sum()) == 0


def test_squashing_keeps_the_fraction_of_the_area():
    mask = np.zeros((300, 400), bool)
    mask[60:180, 100:300] = True
    assert abs(float(squash_mask(mask, 64).float().mean()) - mask.mean()) < 0.01
