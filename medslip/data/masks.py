"""Masks of findings: picture files, or run lengths that are decoded when they are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from medslip.data.images import read_image
from medslip.errors import InputError

Mask = npt.NDArray[np.bool_]
"""H x W, True inside the finding."""

Runs = npt.NDArray[np.int32]
"""Lengths of alternating runs outside and inside, beginning outside, down the columns from the upper left corner."""

MaskSource = Path | Runs
"""A picture file, or run lengths."""


def decode_mask(mask: MaskSource, height: int, width: int) -> Mask:
    """A mask as pixels.

    Raises:
        InputError: A picture cannot be read, or has another size.
    """
    if not isinstance(mask, Path):
        return paint_runs(mask, height, width)
    pixels = read_mask(mask)
    check_mask_size(mask, pixels.shape, "its image", (height, width))
    return pixels


def read_mask(path: Path) -> Mask:
    """A mask from a picture: pixels brighter than half of the brightest are inside; an all-black picture is empty.

    So masks of 0 and 1 and of 0 and 255 are the same, and JPEG noise next to an edge is outside.

    Raises:
        InputError: It cannot be read.
    """
    grey = read_image(path)
    mask: Mask = grey > grey.max() / 2
    return mask


def check_mask_size(mask: Path, size: tuple[int, ...], image: Path | str, expected: tuple[int, int]) -> None:
    """Check that a mask is as large as its image; sizes are height, width.

    Raises:
        InputError: Naming both files and sizes.
    """
    if size != expected:
        named = f"its image {image}" if isinstance(image, Path) else image
        raise InputError(
            f"{mask}: the mask has {size[1]} x {size[0]} pixels, {named} {expected[1]} x {expected[0]}; make them the same "
            "size"
        )


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """The smallest box around a mask: left, top, right, bottom; all 0 if it is empty."""
    if not mask.any():
        return 0, 0, 0, 0
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def paint_runs(runs: Runs, height: int, width: int) -> Mask:
    """Run lengths -> H x W; pixels after the last run are outside."""
    flat = np.zeros(height * width, bool)
    flat[: runs.sum()] = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def runs_of(mask: Mask) -> Runs:
    """Run lengths of a mask, without a last run outside; the inverse of paint_runs."""
    changes = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=False))
    return np.diff(changes, prepend=0).astype(np.int32)
