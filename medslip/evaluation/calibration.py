"""Calibration of probabilities.

Per class, over its images with a known label, in bins of about equally many images. In each bin the mean probability is
compared with the share of images in which the class is present:

- ECE, the expected calibration error: the mean over images of the absolute difference in their bin (Naeini et al. 2015).
- Maximum calibration error: the largest absolute difference of any bin.
- Brier score: the mean squared difference between probability and label; it needs no bins.

Bins and scores are those of scikit-learn's ``calibration_curve`` (strategy "quantile") and ``brier_score_loss``, kept as sums
per patient so that a resample only has to weight them.

The ECE of a finite sample is biased upwards: even a perfectly calibrated model has one above 0, because the shares in the bins
scatter. The chance level is the ECE that such a model would have with these probabilities and this many images; it is
simulated. A resample scatters once more, so the interval of the ECE is biased upwards too and can even lie above the ECE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from medslip.evaluation.bootstrap import Estimate, Floats, count_patients, patient_index, resample_each
from medslip.evaluation.classification import why_undefined

BINS = 10
"""Bins of equal mass; fewer where probabilities are equal, because equal probabilities share a bin."""

SIMULATIONS = 200
"""Simulated sets of labels behind the chance level."""

CALIBRATION_SCORES = ("ece", "max_error", "brier")
"""The scores that have an interval."""

_SMALLEST = 1e-7  # a probability closer to 0 or 1 is moved here before its logit is taken


@dataclass(frozen=True)
class Platt:
    """A recalibration: new log odds = slope x log odds + intercept (Platt 1999).

    Attributes:
        slope: 1 changes nothing; below 1 the model was overconfident; negative, it ranked the wrong way round.
        intercept: 0 changes nothing; below 0 the model predicted the class too often.
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
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure how well probabilities are calibrated, with 95 % intervals.

    Args:
        classes: Names of the columns.
        labels: Images x classes: 1 present, 0 absent, -1 unknown (the image is left out of that class).
        probabilities: Images x classes, 0..1.
        patients: One name per image, "" where unknown.
        resamples: Bootstrap resamples of patients; 0 for no intervals.
        seed: Random seed of the resamples and of the simulated chance level.

    Returns:
        One row per class: ``class``, CALIBRATION_SCORES (Estimate, over resampled patients with the bins kept),
        ``chance_ece`` (the mean ECE of a perfectly calibrated model), ``chance_limit`` (95 % of such models are below it) and
        ``note``, which says why a class has no scores. And one row per bin, by rising probability: ``class``, ``images``,
        ``probability`` (their mean) and ``frequency`` (the share of present; its interval, by Wilson, treats images as
        independent).

    Raises:
        ValueError: A probability is outside 0..1.
    """
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("a probability is outside 0..1")
    owner = patient_index(patients)
    notes = [why_undefined(int((label == 1).sum()), int((label == 0).sum())) for label in labels.T]
    binned = {k: _Binned(labels[:, k], probabilities[:, k], owner) for k, note in enumerate(notes) if not note}
    estimates: dict[int, npt.NDArray[np.object_]] = {}
    if binned:
        scores, carriers = zip(*((each.scores, each.carriers) for each in binned.values()), strict=True)
        found = resample_each(scores, carriers, count_patients(owner), resamples, seed)
        estimates = dict(zip(binned, found.estimates(), strict=True))
    rows: list[dict[str, object]] = []
    bins: list[dict[str, object]] = []
    for k, (name, note) in enumerate(zip(classes, notes, strict=True)):
        values = dict.fromkeys(CALIBRATION_SCORES, Estimate(np.nan)) | {"chance_ece": np.nan, "chance_limit": np.nan}
        if not note:
            chance = binned[k].chance(np.random.default_rng((seed, k)))
            values = dict(zip(CALIBRATION_SCORES, estimates[k], strict=True))
            values |= {"chance_ece": float(chance.mean()), "chance_limit": float(np.quantile(chance, 0.95))}
            bins += [{"class": name, **each} for each in binned[k].reliability()]
        rows.append({"class": name, **values, "note": note})
    return pd.DataFrame(rows), pd.DataFrame(bins, columns=["class", "images", "probability", "frequency"])


def fit_platt(label: npt.NDArray[np.int8], probability: npt.NDArray[np.floating]) -> Platt | None:
    """Fit a recalibration to one class.

    The labels are smoothed as Platt proposes, so that the fit stays finite where the classes can be separated perfectly.

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
    # Each image counts as present with the weight of its target, and as absent with the rest.
    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
        np.tile(log_odds, 2)[:, None],
        np.repeat([1, 0], len(label)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return Platt(float(fitted.coef_[0, 0]), float(fitted.intercept_[0]))


class _Binned:
    """The images of one class in bins, as sums per patient that a resample can weight."""

    def __init__(
        self, label: npt.NDArray[np.int8], probability: npt.NDArray[np.floating], owner: npt.NDArray[np.intp]
    ) -> None:
        known = label >= 0
        self._label, self._probability = label[known], probability[known].astype(np.float64)
        patients, owner = count_patients(owner), owner[known]
        edges = np.unique(np.quantile(self._probability, np.arange(1, BINS) / BINS))
        self._bin = np.searchsorted(edges, self._probability, side="left")
        self._bins = len(edges) + 1
        place, excess = owner * self._bins + self._bin, self._probability - self._label
        shape = (patients, self._bins)
        images, summed = (
            np.bincount(place, weights, patients * self._bins).reshape(shape)
            for weights in (np.ones(len(place)), excess)
        )
        squared = np.bincount(owner, excess**2, minlength=patients)[:, None]
        self._totals = np.concatenate([images, summed, squared], axis=1)
        self.carriers = np.repeat(len(np.unique(owner)), len(CALIBRATION_SCORES))

    def scores(self, counts: npt.NDArray[np.int32]) -> Floats:
        """R x CALIBRATION_SCORES; NaN in rows without an image."""
        images, excess, squared = np.split(counts @ self._totals, [self._bins, 2 * self._bins], axis=1)
        everything = images.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            ece = np.abs(excess).sum(axis=1) / everything
            largest = np.where(images > 0, np.abs(excess) / images, 0).max(axis=1)
            scores = np.stack([ece, largest, squared[:, 0] / everything], axis=1)
        scores[everything == 0] = np.nan
        return scores

    def chance(self, random: np.random.Generator) -> Floats:
        """The ECE of simulated labels, drawn with these very probabilities."""
        probability = self._probability.astype(np.float32)
        expected = np.bincount(self._bin, probability, minlength=self._bins)
        errors = np.empty(SIMULATIONS)
        for k in range(SIMULATIONS):
            drawn = random.random(len(probability), np.float32) < probability
            present = np.bincount(self._bin[drawn], minlength=self._bins)
            errors[k] = np.abs(expected - present).sum() / len(probability)
        return errors

    def reliability(self) -> list[dict[str, object]]:
        """One row per bin that holds images."""
        rows = []
        for place in np.unique(self._bin):
            label, probability = self._label[self._bin == place], self._probability[self._bin == place]
            ends = binomtest(int(label.sum()), len(label)).proportion_ci(method="wilson")
            frequency = Estimate(float(label.mean()), float(ends.low), float(ends.high))
            rows.append({"images": len(label), "probability": probability.mean(), "frequency": frequency})
        return rows


def _log_odds(probabilities: npt.NDArray[np.floating]) -> Floats:
    log_odds: Floats = logit(np.clip(probabilities.astype(np.float64), _SMALLEST, 1 - _SMALLEST))
    return log_odds
