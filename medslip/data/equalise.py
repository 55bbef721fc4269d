"""Histogram equalisation over 256 bins, the published preprocessing of the RSNA images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def histogram_equalise(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Spread the grey values so that each is about equally frequent.

    A grey value becomes the share of pixels that are not brighter, times 255. There are at most 256 values, so one look-up
    table does it.

    Args:
        image: H x W, uint8.

    Returns:
        H x W, uint8.
    """
    not_brighter = np.cumsum(np.bincount(image.reshape(-1), minlength=256))
    return np.rint(not_brighter * (255 / image.size)).astype(np.uint8)[image]
