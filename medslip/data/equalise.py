"""Histogram equalisation, the published preprocessing of the RSNA images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def histogram_equalise(image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], bins: int = 256) -> npt.NDArray[np.uint8]:
    """Spread the grey values so that each is about equally frequent.

    A grey value becomes the share of pixels that are not brighter, times 255. Where the image has more grey
    values than bins, the shares are counted in equal bins from its least to its greatest value and
    interpolated linearly between their centres. One look-up table does it, as there are at most 65,536
    values.

    Args:
        image: H x W, uint8 or uint16.
        bins: Number of bins of the histogram.

    Returns:
        H x W, uint8.
    """
    counts = np.bincount(image.reshape(-1))
    low = int(np.flatnonzero(counts)[0])
    values = np.arange(low, len(counts))
    if len(values) <= bins:
        share = np.cumsum(counts[low:])
    else:
        binned, edges = np.histogram(values, bins, weights=counts[low:])
        share = np.interp(values, (edges[:-1] + edges[1:]) / 2, np.cumsum(binned))
    table = np.zeros(len(counts), np.uint8)
    table[low:] = np.rint(share * (255 / image.size))
    return table[image]
