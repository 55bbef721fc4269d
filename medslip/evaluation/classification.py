"""Scores of a classification.

Per class, over its images with a known label:

- AUROC: the share of (positive, negative) pairs in which the positive has the higher score; a tie counts one half.
- Average precision: the precision at each positive's score, averaged over the positives (no interpolation).
- Maximum F1 over thresholds, and the threshold where it is reached. As in a precision-recall curve, a score equal to the
  threshold is positive. The threshold is one of the scores; of several equally good ones, the lowest.
- Accuracy at that threshold. By the convention of the papers in this field only a score strictly above the threshold is
  positive here, so an image whose score is the threshold is positive for the F1 and negative for the accuracy.

All are exact under ties. A class without positives or without negatives has no scores and is left out of the means.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.evaluation.bootstrap import Counts, Floats, Resampled, count_patients, patient_index, resample

SCORES = ("auroc", "average_precision", "max_f1", "accuracy")
"""The scores that have an interval and a mean over classes, in the order of the last axis of score arrays."""

MEAN = "mean"
"""The name of the row that holds the means over classes."""


def why_undefined(positives: int, negatives: int) -> str:
    """Why a class with this many positives and negatives has no scores; "" where it has them."""
    if not positives and not negatives:
        return "no labels"
    if not positives:
        return "no positives"
    return "" if negatives else "no negatives"


def score(
    classes: Sequence[str],
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.floating],
    patients: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
    leave_out: Sequence[str] = (),
) -> pd.DataFrame:
    """Score predictions, with 95 % intervals.

    Intervals are percentiles over resampled patients, the same resamples for every class. The threshold is chosen again in
    each resample, because choosing it is part of the maximum F1 and of the accuracy.

    Args:
        classes: Names of the columns.
        labels: Images x classes: 1 present, 0 absent, -1 unknown (the image is left out of that class).
        probabilities: Images x classes, finite; higher means more likely present.
        patients: One name per image, "" where unknown; None where no patient is known. Images of unknown patients are
            resampled one by one.
        resamples: Number of resamples; 0 for no intervals.
        seed: Random seed.
        leave_out: Classes without which a second mean is taken, each; those that do not occur are ignored.

    Returns:
        One row per class, then the means: ``class``, ``images`` (with a known label), ``positives`` (missing for means), SCORES
        (Estimate), ``threshold`` and ``note``, which says why a class has no scores, or which classes a mean covers.

    Raises:
        ValueError: Shapes that do not fit, a label other than 1, 0 and -1, or a probability that is not finite.
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    shape = (len(labels), len(classes))
    if labels.shape != shape or probabilities.shape != shape:
        raise ValueError(f"labels {labels.shape} and probabilities {probabilities.shape} for {shape}")
    if not np.isin(labels, (-1, 0, 1)).all():
        raise ValueError("a label is 1, 0 or -1")
    if not np.isfinite(probabilities).all():
        raise ValueError("a probability is not finite")
    owner = patient_index([""] * len(labels) if patients is None else patients)
    if len(owner) != len(labels):
        raise ValueError(f"{len(owner)} patients for {len(labels)} images")
    found = resample_scores(labels, probabilities, owner, resamples, seed)
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    notes = [why_undefined(*counts) for counts in zip(positives, negatives, strict=True)]
    rows = [
        {
            "class": name,
            "images": positives[k] + negatives[k],
            "positives": positives[k],
            **dict(zip(SCORES, found[k].estimates(), strict=True)),
            "threshold": np.nan if notes[k] else best_threshold(labels[:, k], probabilities[:, k]),
            "note": notes[k],
        }
        for k, name in enumerate(classes)
    ]
    for name, members in mean_members(classes, notes, leave_out).items():
        why = {each: note for each, note in zip(classes, notes, strict=True) if note}
        left_out = "".join(f"; without {each} ({note})" for each, note in why.items())
        note = f"{len(members)} class{'' if len(members) == 1 else 'es'}{left_out}"
        values = dict(zip(SCORES, found[members].mean().estimates(), strict=True))
        rows.append({"class": name, "images": len(labels), **values, "note": note})
    return pd.DataFrame(rows).astype({"images": int, "positives": "Int64"})


def mean_members(classes: Sequence[str], notes: Sequence[str], leave_out: Sequence[str]) -> dict[str, list[int]]:
    """The name of each mean -> the columns that it covers.

    Args:
        classes: Class names.
        notes: Why a class has no scores, "" where it has them.
        leave_out: Classes without which a second mean is taken, each.
    """
    defined = [k for k, note in enumerate(notes) if not note]
    without = [name for name in leave_out if name in classes]
    return {MEAN: defined} | {f"{MEAN} without {name}": [k for k in defined if classes[k] != name] for name in without}


def class_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``score`` that are classes, without the means."""
    return scores[scores["positives"].notna()]


def mean_auroc(scores: pd.DataFrame) -> float:
    """The mean AUROC over classes, from ``score``; NaN where no class has scores."""
    return float(scores.loc[scores["class"] == MEAN, "auroc"].item().value)


def resample_scores(
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.floating],
    owner: npt.NDArray[np.intp],
    resamples: int,
    seed: int,
) -> Resampled:
    """SCORES of each class, classes x SCORES; arguments as for ``score``, ``owner`` being each image's patient number."""
    rankings = [Ranking(labels[:, k], probabilities[:, k], owner) for k in range(labels.shape[1])]
    carriers = np.repeat([ranking.carriers for ranking in rankings], len(SCORES)).reshape(-1, len(SCORES))
    return resample(
        lambda counts: np.stack([ranking.scores(counts) for ranking in rankings], axis=1),
        carriers,
        count_patients(owner),
        resamples,
        seed,
    )


def best_threshold(label: npt.NDArray[np.int8], probability: npt.NDArray[np.floating]) -> float:
    """The score at which the F1 of one class is largest, of equally good ones the lowest; NaN without positives or negatives.

    Args:
        label: n: 1, 0, -1 unknown.
        probability: n.
    """
    ranking = Ranking(label, probability, np.zeros(len(label), np.intp))
    if not ranking.carriers:
        return float("nan")
    return float(ranking.thresholds[ranking.evaluate(np.ones((1, 1), np.int32))[1][0]])


class Ranking:
    """The images of one class, ranked by score and ready to be scored under any weights.

    Only the distinct scores of positives matter, K of them, from the highest down: AUROC and average precision are sums over
    positives, and F1 falls from each of them to the next.

    Args:
        label: n, of the class: 1, 0, -1 unknown.
        score: n.
        owner: n, the patient number of each image.
    """

    def __init__(
        self, label: npt.NDArray[np.int8], score: npt.NDArray[np.floating], owner: npt.NDArray[np.intp]
    ) -> None:
        self.thresholds = np.unique(score[label == 1])[::-1]
        self._positive_owner, self._positives_above, self._positives_from = self._rank(score, owner, label == 1)
        self._negative_owner, self._negatives_above, self._negatives_from = self._rank(score, owner, label == 0)

    def _rank(
        self, score: npt.NDArray[np.floating], owner: npt.NDArray[np.intp], chosen: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Owners of the chosen images, highest score first; how many are above, and at or above, each threshold."""
        order = np.argsort(-score[chosen], kind="stable")
        falling = -score[chosen][order]
        above = np.searchsorted(falling, -self.thresholds, side="left")
        at_least = np.searchsorted(falling, -self.thresholds, side="right")
        return owner[chosen][order], above, at_least

    @property
    def carriers(self) -> int:
        """How many patients the scores rest on: those with a positive or those with a negative, whichever are fewer."""
        return min(len(np.unique(owner)) for owner in (self._positive_owner, self._negative_owner))

    def scores(self, counts: Counts) -> Floats:
        """The scores under each row of weights.

        Args:
            counts: R x patients, the weight of each patient's images.

        Returns:
            R x SCORES, NaN in rows in which the positives or the negatives have no weight.
        """
        return self.evaluate(counts)[0]

    def evaluate(self, counts: Counts) -> tuple[Floats, npt.NDArray[np.intp]]:
        """As ``scores``; and R indices into ``thresholds``, where F1 is largest (meaningless where the scores are NaN)."""
        result = np.full((len(counts), len(SCORES)), np.nan)
        best = np.zeros(len(counts), np.intp)
        if not len(self._positive_owner) or not len(self._negative_owner):
            return result, best
        true, false = _cumulate(counts, self._positive_owner), _cumulate(counts, self._negative_owner)
        all_true, all_false = true[:, -1:].astype(float), false[:, -1:].astype(float)
        defined = ((all_true > 0) & (all_false > 0))[:, 0]
        tp_above, tp = true[:, self._positives_above], true[:, self._positives_from]
        fp_above, fp = false[:, self._negatives_above], false[:, self._negatives_from]
        gain = tp - tp_above
        with np.errstate(invalid="ignore", divide="ignore"):
            pairs = (gain * (all_false - 0.5 * (fp + fp_above))).sum(axis=1)
            auroc = pairs / (all_true * all_false)[:, 0]
            precision = tp / np.maximum(tp + fp, 1)
            average_precision = (gain * precision).sum(axis=1) / all_true[:, 0]
            # A threshold whose positives have no weight is not a score of the resample.
            f1 = np.where(gain > 0, 2 * tp / (tp + fp + all_true), 0)
        best = f1.shape[1] - 1 - f1[:, ::-1].argmax(axis=1)  # the lowest of equally good thresholds
        row = np.arange(len(counts))
        right = tp_above[row, best] + all_false[:, 0] - fp_above[row, best]
        accuracy = right / (all_true + all_false)[:, 0].clip(min=1)
        result[defined] = np.stack([auroc, average_precision, f1[row, best], accuracy], axis=1)[defined]
        return result, best


def _cumulate(counts: Counts, owner: npt.NDArray[np.intp]) -> Counts:
    """R x (images + 1): the weight of the first 0, 1, 2, ... images, whose patients are ``owner``."""
    total = np.zeros((len(counts), len(owner) + 1), np.int32)
    np.cumsum(counts.take(owner, axis=1), axis=1, dtype=np.int32, out=total[:, 1:])
    return total
