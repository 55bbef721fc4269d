"""Operating points: thresholds chosen on validation images, and what they do on test images. Arrays in, numbers out.

A score that equals the threshold is positive. Two rules choose a class's threshold:

- "specificity": the highest sensitivity on validation whose specificity there is at least the one asked for; of equally
  sensitive thresholds the highest.
- "max_f1": the largest F1 on validation. (The maximum F1 that papers in this field publish is chosen on the test images
  themselves, and so are ``max_f1`` and ``threshold`` of ``classification``: those are higher than what a user would get.)

On test images: sensitivity TP / (TP + FN), specificity TN / (TN + FP), PPV TP / (TP + FP), NPV TN / (TN + FN). PPV and NPV
hold for the share of positives among these images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from medslip.evaluation.bootstrap import (
    Interval,
    count_carriers,
    count_patients,
    named_intervals,
    patient_index,
    resampled_sums,
)
from medslip.evaluation.classification import Floats, score, why_undefined

RULES = ("specificity", "max_f1")
"""How a threshold is chosen."""

POINT_SCORES = ("sensitivity", "specificity", "ppv", "npv")
"""The scores at a threshold."""


@dataclass(frozen=True)
class Threshold:
    """A threshold and where it comes from; None where the rule finds none.

    Attributes:
        threshold: Scores of at least this are positive.
        validation_sensitivity: What it reaches on validation.
        validation_specificity: What it reaches on validation.
    """

    threshold: float | None
    validation_sensitivity: float | None = None
    validation_specificity: float | None = None


@dataclass(frozen=True)
class OperatingPoint:
    """One threshold of one class at work; None where not defined, such as the PPV of a threshold that nothing reaches.

    Attributes:
        chosen: The threshold.
        sensitivity: On test images, 0..1.
        specificity: On test images, 0..1.
        ppv: Positive predictive value on test images, 0..1.
        npv: Negative predictive value on test images, 0..1.
        intervals: Score (of POINT_SCORES) -> its 95 % interval over resampled patients, the threshold kept.
    """

    chosen: Threshold
    sensitivity: float | None = None
    specificity: float | None = None
    ppv: float | None = None
    npv: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class ClassPoints:
    """The operating points of one class.

    Attributes:
        name: The class.
        undefined: Why it has no scores on test images, in words; None where it has them.
        at_specificity: By the rule "specificity".
        at_max_f1: By the rule "max_f1".
    """

    name: str
    undefined: str | None
    at_specificity: OperatingPoint
    at_max_f1: OperatingPoint


Thresholds = tuple[tuple[Threshold, Threshold], ...]
"""For each class, one of each of RULES."""


def choose_thresholds(
    labels: npt.NDArray[np.int8], probabilities: npt.NDArray[np.floating], specificity: float
) -> Thresholds:
    """Choose each class's thresholds on validation images.

    Args:
        labels: Images x classes: 1 present, 0 absent, -1 unknown (that image is left out of that class).
        probabilities: Images x classes.
        specificity: At least this much, 0..1.

    Returns:
        For each class one threshold a rule. None in a class without positives or negatives; also where no positive
        scores higher than enough negatives.
    """
    numbers = [str(k) for k in range(labels.shape[1])]
    best_f1 = score(numbers, labels, probabilities, resamples=0).classes
    return tuple(
        (
            _described(
                at_specificity(labels[:, k], probabilities[:, k], specificity), labels[:, k], probabilities[:, k]
            ),
            _described(best_f1[k].threshold, labels[:, k], probabilities[:, k]),
        )
        for k in range(labels.shape[1])
    )


def at_specificity(
    label: npt.NDArray[np.int8], probability: npt.NDArray[np.floating], specificity: float
) -> float | None:
    """The threshold of the highest sensitivity at a specificity.

    Args:
        label: n: 1, 0, -1 unknown.
        probability: n.
        specificity: At least this much, 0..1.

    Returns:
        The score of a positive; None where the sensitivity would be 0, or without positives or negatives.
    """
    positives, negatives = np.unique(probability[label == 1]), np.sort(probability[label == 0])
    if why_undefined(len(positives), len(negatives)):
        return None
    true_negatives = np.searchsorted(negatives, positives, side="left")
    # The hair's breadth keeps 0.9 of 10 at 9, which it is not in floating point.
    allowed = positives[true_negatives >= specificity * len(negatives) - 1e-9]
    return float(allowed[0]) if len(allowed) else None


def _described(
    threshold: float | None, label: npt.NDArray[np.int8], probability: npt.NDArray[np.floating]
) -> Threshold:
    if threshold is None:
        return Threshold(None)
    reached = probability >= threshold
    sensitivity, specificity = reached[label == 1].mean(), (~reached[label == 0]).mean()
    return Threshold(threshold, float(sensitivity), float(specificity))


def operating_points(
    classes: Sequence[str],
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.floating],
    patients: Sequence[str],
    thresholds: Thresholds,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[ClassPoints, ...]:
    """Score the thresholds on test images, with 95 % intervals.

    Args:
        classes: Names of the columns.
        labels: Images x classes: 1, 0, -1 unknown.
        probabilities: Images x classes.
        patients: One name an image, "" where unknown.
        thresholds: What ``choose_thresholds`` returned.
        resamples: Bootstrap resamples of patients; 0 for no intervals.
        seed: Of the resamples.
    """
    owner = patient_index(patients)
    totals = [
        _confusion(labels[:, k], probabilities[:, k], owner, rule.threshold)
        for k in range(len(classes))
        for rule in thresholds[k]
    ]
    sums = resampled_sums(np.concatenate(totals, axis=1), resamples, seed).reshape(-1, len(classes), len(RULES), 4)
    points = []
    for k, name in enumerate(classes):
        undefined = why_undefined(int((labels[:, k] == 1).sum()), int((labels[:, k] == 0).sum()))
        rules = [
            OperatingPoint(chosen)
            if undefined or chosen.threshold is None
            else _point(chosen, totals[k * len(RULES) + j], sums[:, k, j])
            for j, chosen in enumerate(thresholds[k])
        ]
        points.append(ClassPoints(name, undefined, *rules))
    return tuple(points)


def _confusion(
    label: npt.NDArray[np.int8],
    probability: npt.NDArray[np.floating],
    owner: npt.NDArray[np.intp],
    threshold: float | None,
) -> Floats:
    """Patients x (true positives, false negatives, false positives, true negatives)."""
    patients, known = count_patients(owner), label >= 0
    missed = probability[known] < (np.inf if threshold is None else threshold)
    place = owner[known] * 4 + 2 * (label[known] == 0) + missed
    return np.bincount(place, minlength=patients * 4).reshape(patients, 4).astype(np.float64)


def _point(chosen: Threshold, totals: Floats, resampled: Floats) -> OperatingPoint:
    """Of the confusion of each patient (patients x 4) and of each resample (resamples x 4)."""
    values = [None if np.isnan(value) else float(value) for value in _rates(totals.sum(axis=0, keepdims=True))[0]]
    return OperatingPoint(
        chosen,
        **dict(zip(POINT_SCORES, values, strict=True)),
        intervals=named_intervals(_rates(resampled), POINT_SCORES, count_carriers(_bases(totals))),
    )


def _rates(counts: Floats) -> Floats:
    """R x POINT_SCORES of R x 4 counts; NaN where not defined."""
    tp, _, _, tn = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        rates: Floats = np.stack([tp, tn, tp, tn], axis=1) / _bases(counts)
    return rates


def _bases(counts: Floats) -> Floats:
    """R x POINT_SCORES of R x 4 counts: the images that each rate is a share of."""
    tp, fn, fp, tn = counts.T
    return np.stack([tp + fn, tn + fp, tp + fp, tn + fn], axis=1)
