"""Calibration of probabilities: arrays in, numbers out.

Per class, over its images with a known label, in bins of about as many images each. In a bin, the mean probability is
compared with the share of images in which the class is present:

- ECE, expected calibration error: the mean over images of their bin's absolute difference (Naeini et al. 2015).
- Maximum calibration error: the largest absolute difference of a bin.
- Brier score: the mean squared difference of probability and label; it needs no bins.

The ECE of a finite sample is biased upwards: a perfectly calibrated model has one above 0, as the frequencies of bins
scatter. What it would have with these probabilities and this many images is simulated and stands beside it as the
chance level. A resample scatters once more, so the interval of the ECE lies high too; it can even lie above the ECE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from medslip.evaluation.bootstrap import (
    Interval,
    count_carriers,
    count_patients,
    named_intervals,
    patient_index,
    resampled_sums,
)
from medslip.evaluation.classification import Floats, why_undefined

BINS = 10
"""Bins of equal mass; fewer where probabilities are the same, as equal probabilities share a bin."""

SIMULATIONS = 200
"""Draws of labels for the chance level."""

CALIBRATION_SCORES = ("ece", "max_error", "brier")
"""The scores that have an interval."""

_WILSON_Z = 1.959963984540054  # of a 95 % interval
_SMALLEST = 1e-7  # a probability nearer to 0 or 1 is moved here before its logit is taken


@dataclass(frozen=True)
class Bin:
    """One bin of the reliability diagram.

    Attributes:
        images: How many.
        probability: Their mean probability.
        frequency: The share in which the class is present.
        low: Lower end of the frequency's 95 % interval, by Wilson; images count as independent here.
        high: Upper end.
    """

    images: int
    probability: float
    frequency: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassCalibration:
    """The calibration of one class; None where it has no positives or no negatives.

    Attributes:
        name: The class.
        positives: Images labelled 1.
        negatives: Images labelled 0.
        undefined: Why the class has no scores, in words; None where it has them.
        ece: Expected calibration error, 0..1.
        max_error: Maximum calibration error, 0..1.
        brier: Brier score, 0..1.
        chance_ece: The mean ECE of a perfectly calibrated model with these probabilities.
        chance_limit: What 95 % of such models stay below.
        intervals: Score (of CALIBRATION_SCORES) -> its 95 % interval over resampled patients, the bins kept.
        bins: Those that hold images, by rising probability.
    """

    name: str
    positives: int
    negatives: int
    undefined: str | None
    ece: float | None = None
    max_error: float | None = None
    brier: float | None = None
    chance_ece: float | None = None
    chance_limit: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    bins: tuple[Bin, ...] = ()


@dataclass(frozen=True)
class Platt:
    """A recalibration: the new log odds are slope x log odds + intercept.

    Attributes:
        slope: 1 changes nothing; below 1, the model was too sure; negative, it was the wrong way round.
        intercept: 0 changes nothing; below 0, the model saw the class too often.
    """

    slope: float
    intercept: float

    def __call__(self, probabilities: npt.NDArray[np.floating]) -> Floats:
        """The recalibrated probabilities, of the same shape."""
        recalibrated: Floats = expit(self.slope * _log_odds(probabilities) + self.intercept)
        return recalibrated


def calibration(
    classes: Sequence[str],
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.floating],
    patients: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[ClassCalibration, ...]:
    """How far the probabilities can be believed, with 95 % intervals.

    Args:
        classes: Names of the columns.
        labels: Images x classes: 1 present, 0 absent, -1 unknown (that image is left out of that class).
        probabilities: Images x classes, 0..1.
        patients: One name an image, "" where unknown.
        resamples: Bootstrap resamples of patients; 0 for no intervals.
        seed: Of the resamples, and of the simulated chance level.

    Raises:
        ValueError: A probability is outside 0..1.
    """
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a probability is outside 0..1")
    owner = patient_index(patients)
    binned = [_Binned(labels[:, k], probabilities[:, k], owner) for k in range(len(classes))]
    sums = resampled_sums(np.concatenate([each.totals for each in binned], axis=1), resamples, seed)
    ends = np.cumsum([each.totals.shape[1] for each in binned])[:-1]
    parts = np.split(sums, ends, axis=1)
    return tuple(
        each.scored(name, part, np.random.default_rng((seed, k)))
        for k, (name, each, part) in enumerate(zip(classes, binned, parts, strict=True))
    )


def fit_platt(label: npt.NDArray[np.int8], probability: npt.NDArray[np.floating]) -> Platt | None:
    """Fit a recalibration to one class (Platt 1999).

    The labels are smoothed as Platt proposes, so that the fit stays finite where they can be told apart perfectly.

    Args:
        label: n: 1, 0, -1 unknown (left out).
        probability: n, 0..1.

    Returns:
        The recalibration; None without positives or without negatives.
    """
    known = label >= 0
    label, log_odds = label[known], _log_odds(probability[known])
    positives = int(label.sum())
    negatives = len(label) - positives
    if why_undefined(positives, negatives):
        return None
    target = np.where(label == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    # Each image counts as present with its target's weight, and as absent with the rest.
    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
        np.tile(log_odds, 2)[:, None],
        np.repeat([1, 0], len(label)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return Platt(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]))


class _Binned:
    """One class's images in bins, as sums that a resample can weigh.

    Attributes:
        totals: Patients x (2 bins + 1): images of each bin; probability less label, summed over each bin; squared
            difference, summed over all.
    """

    def __init__(
        self, label: npt.NDArray[np.int8], probability: npt.NDArray[np.floating], owner: npt.NDArray[np.intp]
    ) -> None:
        known = label >= 0
        self._label, self._probability = label[known], probability[known].astype(np.float64)
        patients, owner = count_patients(owner), owner[known]
        edges = np.unique(np.quantile(self._probability, np.arange(1, BINS) / BINS)) if len(owner) else np.empty(0)
        self._bin = np.searchsorted(edges, self._probability, side="left")
        self._bins = len(edges) + 1
        place, excess = owner * self._bins + self._bin, self._probability - self._label
        shape = (patients, self._bins)
        self.totals = np.concatenate(
            [
                np.bincount(place, minlength=patients * self._bins).reshape(shape).astype(np.float64),
                np.bincount(place, excess, minlength=patients * self._bins).reshape(shape),
                np.bincount(owner, excess**2, minlength=patients)[:, None],
            ],
            axis=1,
        )

    def scored(self, name: str, resampled: Floats, random: np.random.Generator) -> ClassCalibration:
        positives = int(self._label.sum())
        negatives = len(self._label) - positives
        undefined = why_undefined(positives, negatives)
        if undefined:
            return ClassCalibration(name, positives, negatives, undefined)
        values = self._scores(self.totals.sum(axis=0, keepdims=True))[0].tolist()
        chance = self._chance(random)
        carriers = count_carriers(self.totals[:, : self._bins].sum(axis=1, keepdims=True))
        return ClassCalibration(
            name,
            positives,
            negatives,
            None,
            **dict(zip(CALIBRATION_SCORES, values, strict=True)),
            chance_ece=float(chance.mean()),
            chance_limit=float(np.quantile(chance, 0.95)),
            intervals=named_intervals(
                self._scores(resampled), CALIBRATION_SCORES, carriers.repeat(len(CALIBRATION_SCORES))
            ),
            bins=self._reliability(),
        )

    def _scores(self, sums: Floats) -> Floats:
        """R x CALIBRATION_SCORES of R x the columns of ``totals``; NaN in rows without an image."""
        images, excess, squared = np.split(sums, [self._bins, 2 * self._bins], axis=1)
        everything = images.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            ece = np.abs(excess).sum(axis=1) / everything
            largest = np.where(images > 0, np.abs(excess) / images, 0).max(axis=1)
            scores = np.stack([ece, largest, squared[:, 0] / everything], axis=1)
        scores[everything == 0] = np.nan
        return scores

    def _chance(self, random: np.random.Generator) -> Floats:
        """ECEs of labels that are drawn with these very probabilities."""
        probability = self._probability.astype(np.float32)
        expected = np.bincount(self._bin, probability, minlength=self._bins)
        errors = np.empty(SIMULATIONS)
        for k in range(SIMULATIONS):
            drawn = random.random(len(probability), np.float32) < probability
            present = np.bincount(self._bin[drawn], minlength=self._bins)
            errors[k] = np.abs(expected - present).sum() / len(probability)
        return errors

    def _reliability(self) -> tuple[Bin, ...]:
        images = np.bincount(self._bin, minlength=self._bins)
        probability = np.bincount(self._bin, self._probability, minlength=self._bins)
        present = np.bincount(self._bin, self._label, minlength=self._bins)
        filled = images > 0
        images, probability, present = images[filled], probability[filled], present[filled]
        low, high = wilson_interval(present, images)
        columns = (images, probability / images, present / images, low, high)
        return tuple(Bin(int(n), *map(float, rest)) for n, *rest in zip(*columns, strict=True))


def wilson_interval(present: npt.NDArray[np.number], images: npt.NDArray[np.integer]) -> tuple[Floats, Floats]:
    """The 95 % score interval of shares (Wilson 1927).

    Args:
        present: n counts.
        images: n, out of how many, each at least 1.

    Returns:
        Lower and upper ends, n each.
    """
    share, z2 = present / images, _WILSON_Z**2
    centre = (share + z2 / (2 * images)) / (1 + z2 / images)
    half = _WILSON_Z / (1 + z2 / images) * np.sqrt(share * (1 - share) / images + z2 / (4 * images**2))
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def _log_odds(probabilities: npt.NDArray[np.floating]) -> Floats:
    log_odds: Floats = logit(np.clip(probabilities.astype(np.float64), _SMALLEST, 1 - _SMALLEST))
    return log_odds
