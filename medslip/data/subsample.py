"""Subsamples for training on few labels: seeded, stratified by label, nested."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medslip.errors import InputError
from medslip.labels import PRESENT

Indices = npt.NDArray[np.intp]
"""Positions in a data set."""


def check_fraction(fraction: float) -> None:
    """Check that a subsample's fraction is above 0 and at most 1.

    Raises:
        InputError: It is not; the message names fine-tuning's key for it.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"data.fraction: {fraction} is not above 0 and at most 1")


def choose_subsample(strata: Sequence[str], fraction: float, seed: int) -> Indices:
    """Choose a fraction of n images, and of each stratum about the same fraction.

    All images are put into one order, of which the first fraction x n (rounded, at least one) are taken, so that a smaller
    subsample is part of a larger one of the same seed. The order spreads the members of each stratum evenly: the k-th of m, in
    random order, has the place (k + u) / m, with a random u per stratum so that not all small strata are left out.

    Args:
        strata: n, such as an image's labels as text.
        fraction: Above 0, at most 1.
        seed: Seed of the order.

    Returns:
        Chosen positions, ascending.

    Raises:
        InputError: The fraction is out of range.
    """
    check_fraction(fraction)
    _, stratum = np.unique(np.asarray(strata, dtype=str), return_inverse=True)
    place = np.empty(len(stratum))
    for index in range(int(stratum.max(initial=-1)) + 1):
        random = np.random.default_rng((seed, index))
        members = np.flatnonzero(stratum == index)
        place[members] = (random.permutation(len(members)) + random.random()) / len(members)
    number = max(1, round(fraction * len(stratum)))
    return np.sort(np.argsort(place, kind="stable")[:number])


def choose_subsamples(labels: npt.NDArray[np.int8], fraction: float, seeds: Sequence[int]) -> dict[int, Indices]:
    """The training images that each seed trains on, stratified by their labels.

    Args:
        labels: n x C: 1 present, 0 absent, -1 unknown.
        fraction: Fraction of the images.
        seeds: One subsample per seed.

    Raises:
        InputError: The fraction is out of range, or leaves a seed without any positive label.
    """
    strata = [" ".join(map(str, row)) for row in labels.tolist()]
    chosen = {seed: choose_subsample(strata, fraction, seed) for seed in seeds}
    for seed, indices in chosen.items():
        if not (labels[indices] == PRESENT).any():
            raise InputError(
                f"data.fraction: {fraction} leaves seed {seed} {len(indices)} training image(s) without any finding; take more"
            )
    return chosen
