"""Estimates with 95 % intervals, by the bootstrap over patients.

A resample draws as many patients as there are, with replacement; an image counts as often as its patient was drawn. Images of
one patient resemble each other, so resampling images would make the intervals too narrow. Nothing is copied: a resample is one
integer weight per patient, and scores are computed under these weights.

A score rests on the patients whose images it counts: a sensitivity on those with a positive image. Where it rests on fewer than
two patients it has no interval, as every resample would give the same value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int32]
"""Resamples x patients: how often each patient was drawn."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; NaN where the number, or the interval, is not defined.

    It prints as "0.971 [0.965, 0.976]", as "0.971" without an interval, and as "-" where it is not defined. A format applies to
    each number: ``f"{estimate:+.3f}"``.

    Attributes:
        value: The number.
        low: Lower end of the interval.
        high: Upper end of the interval.
        resamples: Number of bootstrap resamples behind the interval; 0 for an interval by formula.
        left_out: Number of further resamples in which the number is not defined.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    resamples: int = 0
    left_out: int = 0

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies above or below 0."""
        return self.low > 0 or self.high < 0

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        if math.isnan(self.value):
            return "-"
        spec = spec or ".3f"
        interval = f" [{self.low:{spec}}, {self.high:{spec}}]" if self.has_interval else ""
        return f"{self.value:{spec}}{interval}"

    def __str__(self) -> str:
        return format(self)

    def to_dict(self) -> dict[str, Any]:
        """The form of metrics.json: ``value``, ``low``, ``high``, ``resamples`` and ``left_out``."""
        return asdict(self)


@dataclass(frozen=True)
class Resampled:
    """Scores of any shape S, on all patients and in each resample; NaN where not defined.

    Attributes:
        values: S.
        drawn: Resamples x S.
        carriers: S, int: number of patients that each score rests on.
    """

    values: Floats
    drawn: Floats
    carriers: npt.NDArray[np.intp]

    def __getitem__(self, index: Any) -> Resampled:
        """A part of the scores, by an index of S."""
        place = index if isinstance(index, tuple) else (index,)
        return Resampled(self.values[place], self.drawn[(slice(None), *place)], self.carriers[place])

    def __sub__(self, other: Resampled) -> Resampled:
        """Differences, resample by resample. They rest on as many patients as the side that has fewer."""
        carriers = np.minimum(self.carriers, other.carriers)
        return Resampled(self.values - other.values, self.drawn - other.drawn, carriers)

    @staticmethod
    def stack(parts: Sequence[Resampled]) -> Resampled:
        """Scores of the same shape along a new first axis."""
        drawn = np.stack([part.drawn for part in parts], axis=1)
        return Resampled(np.stack([part.values for part in parts]), drawn, np.stack([part.carriers for part in parts]))

    def mean(self, axis: int = 0) -> Resampled:
        """Means along an axis of S; a mean rests on as many patients as its part that has fewest."""
        if not self.values.shape[axis]:
            shape = np.delete(self.values.shape, axis)
            return Resampled(
                np.full(shape, np.nan), np.full((len(self.drawn), *shape), np.nan), np.zeros(shape, np.intp)
            )
        return Resampled(self.values.mean(axis), self.drawn.mean(axis + 1), self.carriers.min(axis))

    def estimates(self) -> npt.NDArray[np.object_]:
        """S, of Estimate."""
        found = np.empty(self.values.shape, object)
        for place in np.ndindex(found.shape):
            found[place] = estimate(
                float(self.values[place]), self.drawn[(slice(None), *place)], int(self.carriers[place])
            )
        return found


def estimate(value: float, drawn: Floats, carriers: int) -> Estimate:
    """A number with its 95 % percentile interval.

    Args:
        value: The number.
        drawn: Its value in each resample; NaN where it is not defined.
        carriers: Number of patients that it rests on; fewer than two give no interval.
    """
    defined = drawn[~np.isnan(drawn)]
    if math.isnan(value) or carriers < 2 or not len(defined):
        return Estimate(value)
    low, high = np.quantile(defined, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(defined), len(drawn) - len(defined))


def patient_index(patients: Sequence[str]) -> npt.NDArray[np.intp]:
    """Number the patients 0, 1, 2, ...; an image whose patient is unknown ("") counts as a patient of its own.

    Args:
        patients: One name per image.

    Returns:
        One number per image; every number from 0 to the largest occurs.
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


def resample_patients(patients: int, resamples: int, seed: int, block: int = 32) -> Iterator[Counts]:
    """Draw the resamples, one block at a time.

    Resample i depends on (seed, i) and on the number of patients, not on the size of the blocks.

    Args:
        patients: Number of patients.
        resamples: Number of resamples.
        seed: Random seed.
        block: Resamples per array. Small blocks stay in the processor's cache.

    Yields:
        Arrays of at most ``block`` resamples x patients; each row sums to ``patients``.
    """
    for start in range(0, resamples, block):
        generators = [np.random.default_rng((seed, i)) for i in range(start, min(start + block, resamples))]
        drawn = [generator.integers(0, patients, patients) for generator in generators]
        yield np.stack([np.bincount(each, minlength=patients) for each in drawn]).astype(np.int32)


def resample(
    score: Callable[[Counts], Floats], carriers: npt.ArrayLike, patients: int, resamples: int, seed: int
) -> Resampled:
    """Compute scores on all patients and on each resample.

    Args:
        score: Maps weights (R x patients) to scores (R x S), NaN where not defined.
        carriers: S: number of patients that each score rests on.
        patients: Number of patients; fewer than two are not resampled.
        resamples: Number of resamples; 0 for no intervals.
        seed: Random seed.
    """
    values = score(np.ones((1, patients), np.int32))[0]
    drawn = np.empty((resamples if patients > 1 else 0, *values.shape))
    done = 0
    with tqdm(total=len(drawn), desc="bootstrap", unit="resample", delay=2, leave=False, disable=None) as bar:
        for counts in resample_patients(patients, len(drawn), seed):
            drawn[done : done + len(counts)] = score(counts)
            done += len(counts)
            bar.update(len(counts))
    return Resampled(values, drawn, np.asarray(carriers, np.intp))


def resample_each(
    scores: Sequence[Callable[[Counts], Floats]],
    carriers: Sequence[npt.ArrayLike],
    patients: int,
    resamples: int,
    seed: int,
) -> Resampled:
    """Compute the scores of several classes or groups on the same resamples, which are drawn once.

    Args:
        scores: K functions as for ``resample``, with equally many scores.
        carriers: K, as for ``resample``.
        patients: Number of patients.
        resamples: Number of resamples; 0 for no intervals.
        seed: Random seed.

    Returns:
        K x S.
    """
    return resample(
        lambda counts: np.stack([score(counts) for score in scores], axis=1),
        np.stack([np.asarray(each) for each in carriers]),
        patients,
        resamples,
        seed,
    )


def resample_means(
    cases: npt.NDArray[np.floating], owner: npt.NDArray[np.intp], resamples: int, seed: int
) -> Resampled:
    """Means over cases, such as images or findings.

    Args:
        cases: n x K values; a NaN is left out of its mean.
        owner: n, the patient number of each case.
        resamples: Number of resamples; 0 for no intervals.
        seed: Random seed.

    Returns:
        K means.
    """
    sums, weights = patient_sums(cases, owner)
    return resample(
        lambda counts: divide(counts @ sums, counts @ weights),
        np.count_nonzero(weights, axis=0),
        len(sums),
        resamples,
        seed,
    )


def patient_sums(
    cases: npt.NDArray[np.floating], owner: npt.NDArray[np.intp], patients: int | None = None
) -> tuple[Floats, Floats]:
    """Sums of values per patient, and how many values each sum has.

    Args:
        cases: n x K; NaN is left out.
        owner: n patient numbers.
        patients: Number of patients, if some of them have no case.

    Returns:
        Two arrays of patients x K.
    """
    counted = ~np.isnan(cases)
    shape = (count_patients(owner) if patients is None else patients, cases.shape[1])
    sums, weights = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, owner, np.where(counted, cases, 0.0))
    np.add.at(weights, owner, counted)
    return sums, weights


def divide(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """Part / whole, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
