"""Masks as pictures and as run lengths."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from medslip.data.masks import bounding_box, decode_mask, paint_runs, read_mask, runs_of
from medslip.errors import InputError


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_painting_undoes_run_lengths(mask):
    np.testing.assert_array_equal(paint_runs(runs_of(mask), *mask.shape), mask)


def test_the_box_around_a_mask():
    mask = np.zeros((8, 9), bool)
    assert bounding_box(mask) == (0, 0, 0, 0)
    mask[2:4, 3] = mask[3, 6] = True
    assert bounding_box(mask) == (3, 2, 7, 4)


def test_masks_of_0_and_1_and_with_the_noise_of_jpeg_are_those_that_were_drawn(tmp_path):
    """Grey beside an edge would be inside, or a mask of 0 and 1 be empty for one task and whole for another."""
    drawn = np.zeros((64, 64), bool)
    drawn[16:48, 24:56] = True
    Image.fromarray(drawn.astype(np.uint8)).save(tmp_path / "ones.png")
    Image.fromarray(drawn.astype(np.uint8) * 255).save(tmp_path / "noisy.jpg", quality=75)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "empty.png")
    for name, expected in (("ones.png", drawn), ("noisy.jpg", drawn), ("empty.png", np.zeros_like(drawn))):
        assert np.array_equal(read_mask(tmp_path / name), expected), name


def test_a_mask_of_another_size_is_refused(tmp_path: Path):
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png: the mask has 9 x 8 pixels, its image 8 x 8"):
        decode_mask(tmp_path / "mask.png", 8, 8)
