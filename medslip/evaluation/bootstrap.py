"""95 % intervals by the bootstrap, resampling patients.

A resample draws as many patients as there are, with replacement; an image counts as often as its patient was
drawn. Images of one patient resemble each other, so resampling images would make intervals too narrow.
Nothing is copied: a resample is one whole number per patient, and scores are computed under these weights.

A score is carried by the patients whose images it counts: a sensitivity by those with a positive. Where fewer than two carry
it there is no interval: one patient's images come out the same in every resample that has them, and the interval would be
without width, or only as wide as what stands beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int32]
"""Resamples x patients: how often each patient was drawn."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Attributes:
        low: Lower end.
        high: Upper end.
        resamples: How many resamples it rests on.
        left_out: How many resamples were left out because the score is not defined in them.
    """

    low: float
    high: float
    resamples: int
    left_out: int


def patient_index(patients: Sequence[str]) -> npt.NDArray[np.intp]:
    """Number the patients 0, 1, 2, ...; an image of an unknown patient ("") is a patient of its own.

    Args:
        patients: One name an image.

    Returns:
        One number an image, every number from 0 to the largest in use.
    """
    names = np.asarray(patients, dtype=str)
    index = np.empty(len(names), np.intp)
    named = names != ""
    distinct, index[named] = np.unique(names[named], return_inverse=True)
    index[~named] = len(distinct) + np.arange(np.count_nonzero(~named))
    return index


def count_patients(owner: npt.NDArray[np.intp]) -> int:
    """How many patients ``patient_index`` numbered."""
    return int(owner.max(initial=-1)) + 1


def resampled_unit(patients: Sequence[str]) -> str:
    """What is resampled: "patient", or "image" where no patient is known."""
    return "patient" if any(patients) else "image"


def resample_patients(patients: int, resamples: int, seed: int, block: int = 32) -> Iterator[Counts]:
    """Draw the resamples, a block at a time.

    Resample i depends on (seed, i) and the number of patients alone, not on the size of the blocks.

    Args:
        patients: How many there are.
        resamples: How many to draw.
        seed: Of the draws.
        block: Resamples in one array. Small blocks stay in the processor's cache.

    Yields:
        Arrays of at most ``block`` resamples x patients, each row summing to ``patients``.
    """
    for start in range(0, resamples, block):
        rows = [_draw(patients, seed, index) for index in range(start, min(start + block, resamples))]
        yield np.stack(rows)


def _draw(patients: int, seed: int, index: int) -> Counts:
    drawn = np.random.default_rng((seed, index)).integers(0, patients, patients)
    return np.bincount(drawn, minlength=patients).astype(np.int32)


def count_carriers(weights: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """How many patients carry each score.

    Args:
        weights: Patients x K, how much of each patient a score counts; 0 for nothing.

    Returns:
        K.
    """
    carriers: npt.NDArray[np.intp] = np.count_nonzero(weights, axis=0)
    return carriers


def percentile_interval(values: npt.NDArray[np.float64], carriers: int, level: float = 0.95) -> Interval | None:
    """The interval between the percentiles that leave out half of 1 - level on either side.

    Args:
        values: One score a resample; NaN where it is not defined.
        carriers: How many patients carry the score; a mean or a difference has those of the part that has fewest.
        level: Coverage that is aimed at.

    Returns:
        The interval over the defined values; None where there are none, or fewer than two carriers.
    """
    defined = values[~np.isnan(values)]
    if carriers < 2 or not len(defined):
        return None
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), len(defined), len(values) - len(defined))


def named_intervals(
    values: npt.NDArray[np.float64], names: Sequence[str], carriers: Sequence[int] | npt.NDArray[np.intp]
) -> dict[str, Interval]:
    """The interval of each score that has one.

    Args:
        values: Resamples x scores; NaN where a score is not defined.
        names: Of the scores.
        carriers: How many patients carry each score.
    """
    found = {
        name: percentile_interval(values[:, k], int(few))
        for k, (name, few) in enumerate(zip(names, carriers, strict=True))
    }
    return {name: interval for name, interval in found.items() if interval is not None}


def resampled_sums(totals: npt.NDArray[np.float64], resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Sums over the patients of each resample, for scores that sums over images are enough for.

    Args:
        totals: Patients x K, the sum over each patient's images. Of fewer than two patients there is no resample.
        resamples: How many.
        seed: Of the draws; the resamples are those of ``resample_patients``.

    Returns:
        Resamples x K.
    """
    patients = len(totals)
    draws = resample_patients(patients, resamples if patients > 1 else 0, seed)
    return np.concatenate([np.empty((0, totals.shape[1])), *(counts @ totals for counts in draws)])
