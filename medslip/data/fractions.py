"""A share of the labels, for learning from few: seeded, stratified by label, nested."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medslip.errors import InputError


def refuse_bad_fraction(fraction: float) -> None:
    """Refuse a share that is not above 0 and at most 1.

    Raises:
        InputError: Naming the key that fine-tuning has for it.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"data.fraction: {fraction} is not above 0 and at most 1")


def choose_fraction(strata: Sequence[str], fraction: float, seed: int) -> npt.NDArray[np.intp]:
    """Choose a share of n images in which every stratum has about its share.

    All images are put into one order, and the first fraction x n of it (rounded, at least one) are taken. So a smaller
    fraction lies inside a larger one of the same seed. In that order the members of a stratum are evenly spread: the k-th
    of m, in random order, stands at (k + u) / m, with u random for each stratum, so that small strata are not all left out.

    Args:
        strata: n, such as an image's labels as a text.
        fraction: Above 0, at most 1.
        seed: Of the order.

    Returns:
        Chosen positions, ascending.

    Raises:
        InputError: The fraction is out of range.
    """
    refuse_bad_fraction(fraction)
    _, stratum = np.unique(np.asarray(strata, dtype=str), return_inverse=True)
    place = np.empty(len(stratum))
    for index in range(int(stratum.max(initial=-1)) + 1):
        random = np.random.default_rng((seed, index))
        members = np.flatnonzero(stratum == index)
        place[members] = (random.permutation(len(members)) + random.random()) / len(members)
    number = max(1, round(fraction * len(stratum)))
    return np.sort(np.argsort(place, kind="stable")[:number])
