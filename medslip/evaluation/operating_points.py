"""Operating points: thresholds chosen on validation images, and their scores on test images.

A score equal to the threshold is positive. Two rules choose the thresholds of a class:

- "specificity": the highest sensitivity on validation among thresholds with at least the requested specificity there; of
  equally sensitive thresholds, the highest.
- "max_f1": the largest F1 on validation. (The maximum F1 that papers in this field publish is chosen on the test images
  themselves, as are ``max_f1`` and ``threshold`` of ``classification.score``: those are higher than a user would get.)

On test images: sensitivity TP / (TP + FN), specificity TN / (TN + FP), PPV TP / (TP + FP), NPV TN / (TN + FN). PPV and NPV
depend on the share of positives among these images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.evaluation.bootstrap import Counts, Estimate, Floats, count_patients, divide, patient_index, resample_each
from medslip.evaluation.classification import best_threshold, why_undefined

RULES = ("specificity", "max_f1")
"""How a threshold is chosen."""

POINT_SCORES = ("sensitivity", "specificity", "ppv", "npv")
"""The scores at a threshold."""


def choose_thresholds(
    classes: Sequence[str], labels: npt.NDArray[np.int8], probabilities: npt.NDArray[np.floating], specificity: float
) -> pd.DataFrame:
    """Choose the thresholds of each class on validation images.

    Args:
        classes: Names of the columns.
        labels: Images x classes: 1 present, 0 absent, -1 unknown (the image is left out of that class).
        probabilities: Images x classes.
        specificity: The requested specificity, 0..1.

    Returns:
        One row per class and rule: ``class``, ``rule`` (of RULES), ``threshold``, ``validation_sensitivity`` and
        ``validation_specificity``; NaN in a class without positives or negatives, and where no positive scores higher than
        enough negatives.
    """
    rows = []
    for k, name in enumerate(classes):
        label, probability = labels[:, k], probabilities[:, k]
        chosen = at_specificity(label, probability, specificity), best_threshold(label, probability)
        for rule, threshold in zip(RULES, chosen, strict=True):
            row = {"class": name, "rule": rule, "threshold": threshold}
            reached = np.nan, np.nan
            if not np.isnan(threshold):
                reached = (probability >= threshold)[label == 1].mean(), (probability < threshold)[label == 0].mean()
            rows.append({**row, "validation_sensitivity": reached[0], "validation_specificity": reached[1]})
    return pd.DataFrame(rows)


def at_specificity(label: npt.NDArray[np.int8], probability: npt.NDArray[np.floating], specificity: float) -> float:
    """The threshold with the highest sensitivity at a specificity.

    Args:
        label: n: 1, 0, -1 unknown.
        probability: n.
        specificity: The requested specificity, 0..1.

    Returns:
        The score of a positive; NaN where the sensitivity would be 0, or without positives or negatives.
    """
    positives, negatives = np.unique(probability[label == 1]), np.sort(probability[label == 0])
    if why_undefined(len(positives), len(negatives)):
        return float("nan")
    true_negatives = np.searchsorted(negatives, positives, side="left")
    # The tolerance makes 9 of 10 reach 0.9, which 0.9 * 10 exceeds in floating point.
    allowed = positives[true_negatives >= specificity * len(negatives) - 1e-9]
    return float(allowed[0]) if len(allowed) else float("nan")


def operating_points(
    thresholds: pd.DataFrame,
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.floating],
    patients: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Score the thresholds on test images, with 95 % intervals over resampled patients (the thresholds kept).

    Args:
        thresholds: What ``choose_thresholds`` returned.
        labels: Images x classes: 1, 0, -1 unknown.
        probabilities: Images x classes.
        patients: One name per image, "" where unknown.
        resamples: Bootstrap resamples of patients; 0 for no intervals.
        seed: Random seed.

    Returns:
        The thresholds with POINT_SCORES (Estimate; not defined, for example, is the PPV of a threshold that no image reaches)
        and ``note``, which says why a class has no scores on test images, or no threshold.
    """
    owner = patient_index(patients)
    column = {name: k for k, name in enumerate(thresholds["class"].unique())}
    rows, totals = thresholds.to_dict("records"), {}
    for place, row in enumerate(rows):
        label, probability = labels[:, column[row["class"]]], probabilities[:, column[row["class"]]]
        row["note"] = why_undefined(int((label == 1).sum()), int((label == 0).sum()))
        if not row["note"] and np.isnan(row["threshold"]):
            row["note"] = "no threshold"
        if not row["note"]:
            totals[place] = _counts_at(row["threshold"], label, probability, owner)
    estimates: dict[int, npt.NDArray[np.object_]] = {}
    if totals:
        scores = [partial(_weighted_rates, total) for total in totals.values()]
        carriers = [np.count_nonzero(_bases(total), axis=0) for total in totals.values()]
        found = resample_each(scores, carriers, count_patients(owner), resamples, seed)
        estimates = dict(zip(totals, found.estimates(), strict=True))
    undefined = [Estimate(np.nan)] * len(POINT_SCORES)
    scored = pd.DataFrame([estimates.get(place, undefined) for place in range(len(rows))], columns=list(POINT_SCORES))
    return pd.concat([thresholds.reset_index(drop=True), scored], axis=1).assign(note=[row["note"] for row in rows])


def _counts_at(
    threshold: float, label: npt.NDArray[np.int8], probability: npt.NDArray[np.floating], owner: npt.NDArray[np.intp]
) -> Floats:
    """Patients x 4: true positives, false negatives, false positives, true negatives of one class at one threshold."""
    patients, known = count_patients(owner), label >= 0
    missed = probability[known] < threshold
    place = owner[known] * 4 + 2 * (label[known] == 0) + missed
    return np.bincount(place, minlength=patients * 4).reshape(patients, 4).astype(np.float64)


def _weighted_rates(totals: Floats, counts: Counts) -> Floats:
    """R x POINT_SCORES of R resamples."""
    return _rates(counts @ totals)


def _rates(counts: Floats) -> Floats:
    """R x POINT_SCORES of R x 4 counts; NaN where not defined."""
    tp, _, _, tn = counts.T
    return divide(np.stack([tp, tn, tp, tn], axis=1), _bases(counts))


def _bases(counts: Floats) -> Floats:
    """R x POINT_SCORES of R x 4 counts: the images that each rate is a share of."""
    tp, fn, fp, tn = counts.T
    return np.stack([tp + fn, tn + fp, tp + fp, tn + fn], axis=1)
