"""Scores of zero-shot classification: arrays in, numbers out.

Per class, over its images with a known label:

- AUROC: the share of (positive, negative) pairs in which the positive has the higher score; a tie is a half.
- Average precision: precision at each positive's score, averaged over the positives (no interpolation).
- Maximum F1 over thresholds, and the threshold it is reached at. As along a precision-recall curve, a score
  that equals the threshold is positive here. The threshold is one of the scores; where several do equally
  well, the lowest.
- Accuracy at that threshold. By the convention of the papers in this field, only a score strictly above the
  threshold is positive here, so an image whose score is the threshold is positive for the F1 and negative for
  the accuracy.

All are exact under ties. A class without positives or negatives has no scores, and no share in a mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from medslip.evaluation.bootstrap import (
    Counts,
    Interval,
    count_patients,
    named_intervals,
    patient_index,
    resample_patients,
    resampled_unit,
)

SCORES = ("auroc", "average_precision", "max_f1", "accuracy")
"""The scores that have an interval and a mean over classes, in the order of the last axis of score arrays."""

Floats = npt.NDArray[np.float64]


def why_undefined(positives: int, negatives: int) -> str | None:
    """Why a class with so many images of either label has no scores, in words; None where it has them."""
    if not positives and not negatives:
        return "no labels"
    if not positives:
        return "no positives"
    return None if negatives else "no negatives"


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class; None where it has no positives or no negatives.

    Attributes:
        name: The class.
        positives: Images labelled 1.
        negatives: Images labelled 0.
        auroc: Area under the ROC curve, 0..1.
        average_precision: 0..1.
        max_f1: Largest F1 over thresholds, 0..1.
        threshold: Where max_f1 is reached (a score of at least this is positive there).
        accuracy: Share of right answers when a score strictly above the threshold is positive, 0..1.
        intervals: Score name (of SCORES) -> its interval; empty without bootstrap.
    """

    name: str
    positives: int
    negatives: int
    auroc: float | None = None
    average_precision: float | None = None
    max_f1: float | None = None
    threshold: float | None = None
    accuracy: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def undefined(self) -> str | None:
        """Why the class has no scores, in words; None where it has them."""
        return why_undefined(self.positives, self.negatives)


@dataclass(frozen=True)
class MacroScores:
    """Means over classes; None where no class has scores.

    Attributes:
        name: What is averaged, in words.
        classes: The classes in the mean.
        left_out: Class that is not in the mean -> why.
        auroc: Mean AUROC.
        average_precision: Mean average precision.
        max_f1: Mean of the classes' maximum F1.
        accuracy: Mean accuracy.
        intervals: Score name (of SCORES) -> its interval. A resample in which one of the classes has no score
            is left out, as a mean over fewer classes is another quantity. Without one where a class in it has none.
    """

    name: str
    classes: tuple[str, ...]
    left_out: Mapping[str, str]
    auroc: float | None = None
    average_precision: float | None = None
    max_f1: float | None = None
    accuracy: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """The scores of all classes on one set of images.

    Attributes:
        images: How many images.
        patients: How many patients; an image of an unknown patient counts as one.
        unit: What was resampled, "patient" or "image".
        classes: In the order of the columns.
        carriers: Of each class: patients with a positive or with a negative, whichever are fewer.
        resampled: Resamples x classes x SCORES, float64, NaN where a class has no score in a resample.
        seed: Of the resamples.
    """

    images: int
    patients: int
    unit: str
    classes: tuple[ClassScores, ...]
    carriers: tuple[int, ...]
    resampled: Floats
    seed: int


def score(
    classes: Sequence[str],
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.floating],
    patients: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Score the answers, with 95 % intervals.

    Intervals are percentiles over resampled patients, the same resamples for every class. The threshold is
    chosen anew in each, as choosing it is a part of max F1 and of the accuracy. Where the positives, or the
    negatives, are of fewer than two patients there is no interval.

    Args:
        classes: Names of the columns.
        labels: Images x classes: 1 present, 0 absent, -1 unknown (that image is left out of that class).
        probabilities: Images x classes, finite; higher means more likely present.
        patients: One name an image, "" where unknown; None where no patient is known. Unknown patients'
            images are resampled one by one.
        resamples: How many; 0 for no intervals.
        seed: Of the resamples.

    Raises:
        ValueError: Shapes that do not fit, a label outside 1, 0, -1, or a probability that is not finite.
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
    count = count_patients(owner)
    rankings = [Ranking(labels[:, k], probabilities[:, k], owner) for k in range(len(classes))]
    resampled = _resample(rankings, count, resamples if count > 1 else 0, seed)
    once = np.ones((1, count), np.int32)
    return Scores(
        images=len(labels),
        patients=count,
        unit=resampled_unit(() if patients is None else patients),
        classes=tuple(
            _class_scores(name, ranking, once, resampled[:, k])
            for k, (name, ranking) in enumerate(zip(classes, rankings, strict=True))
        ),
        carriers=tuple(ranking.carriers for ranking in rankings),
        resampled=resampled,
        seed=seed,
    )


def summarise(scores: Scores, leave_out: Sequence[str] = ()) -> MacroScores:
    """Means over classes, with intervals.

    Args:
        scores: What ``score`` returned.
        leave_out: Classes that the mean is to be without, for example ("Fibrosis",).

    Raises:
        ValueError: A class to leave out is not there.
    """
    names = [entry.name for entry in scores.classes]
    for name in leave_out:
        if name not in names:
            raise ValueError(f"no class {name!r} to leave out")
    why = {
        entry.name: "as asked" if entry.name in leave_out else entry.undefined
        for entry in scores.classes
        if entry.name in leave_out or entry.undefined
    }
    kept = [k for k, name in enumerate(names) if name not in why]
    name = f"mean of {len(kept)} class{'' if len(kept) == 1 else 'es'}"
    if leave_out:
        name += f", without {', '.join(leave_out)}"
    left_out = {key: str(reason) for key, reason in why.items()}
    if not kept:
        return MacroScores(name, (), left_out)
    values = np.array([[getattr(scores.classes[k], key) for key in SCORES] for k in kept])
    return MacroScores(
        name,
        tuple(names[k] for k in kept),
        left_out,
        **dict(zip(SCORES, values.mean(axis=0).tolist(), strict=True)),
        intervals=named_intervals(
            scores.resampled[:, kept].mean(axis=1), SCORES, [min(scores.carriers[k] for k in kept)] * len(SCORES)
        ),
    )


class Ranking:
    """One class's images ranked by score, ready to be counted under any weights.

    Only the distinct scores of positives matter, K of them, from the highest down: AUROC and average
    precision are sums over positives, and F1 falls from each of them to the next.

    Args:
        label: n, of the class: 1, 0, -1 unknown.
        score: n.
        owner: n, the number of each image's patient.
    """

    def __init__(
        self, label: npt.NDArray[np.int8], score: npt.NDArray[np.floating], owner: npt.NDArray[np.intp]
    ) -> None:
        self.thresholds = np.unique(score[label == 1])[::-1]
        self.positive_owner, self.positives_above, self.positives_from = self._rank(score, owner, label == 1)
        self.negative_owner, self.negatives_above, self.negatives_from = self._rank(score, owner, label == 0)

    def _rank(
        self, score: npt.NDArray[np.floating], owner: npt.NDArray[np.intp], chosen: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Owners of the chosen images, highest score first; how many are above, and from, each threshold."""
        order = np.argsort(-score[chosen], kind="stable")
        falling = -score[chosen][order]
        above = np.searchsorted(falling, -self.thresholds, side="left")
        at_least = np.searchsorted(falling, -self.thresholds, side="right")
        return owner[chosen][order], above, at_least

    @property
    def carriers(self) -> int:
        """How many patients carry the scores: those with a positive or with a negative, whichever are fewer."""
        return min(len(np.unique(owner)) for owner in (self.positive_owner, self.negative_owner))

    def scores(self, counts: Counts) -> tuple[Floats, npt.NDArray[np.intp]]:
        """The scores under each row of weights.

        Args:
            counts: R x patients, the weight of each patient's images.

        Returns:
            R x SCORES, NaN in rows where the positives or the negatives weigh nothing; and the index of the
            threshold of maximum F1, R, without meaning in those rows.
        """
        result = np.full((len(counts), len(SCORES)), np.nan)
        best = np.zeros(len(counts), np.intp)
        if not len(self.positive_owner) or not len(self.negative_owner):
            return result, best
        true, false = _cumulate(counts, self.positive_owner), _cumulate(counts, self.negative_owner)
        all_true, all_false = true[:, -1:].astype(float), false[:, -1:].astype(float)
        defined = ((all_true > 0) & (all_false > 0))[:, 0]
        tp_above, tp = true[:, self.positives_above], true[:, self.positives_from]
        fp_above, fp = false[:, self.negatives_above], false[:, self.negatives_from]
        gain = tp - tp_above
        with np.errstate(invalid="ignore", divide="ignore"):
            pairs = (gain * (all_false - 0.5 * (fp + fp_above))).sum(axis=1)
            auroc = pairs / (all_true * all_false)[:, 0]
            precision = tp / np.maximum(tp + fp, 1)
            average_precision = (gain * precision).sum(axis=1) / all_true[:, 0]
            # A threshold whose positives weigh nothing is not a score of the resample.
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


def _resample(rankings: Sequence[Ranking], patients: int, resamples: int, seed: int) -> Floats:
    result = np.empty((resamples, len(rankings), len(SCORES)))
    done = 0
    with tqdm(total=resamples, desc="bootstrap", unit="resample", delay=2, leave=False, disable=None) as bar:
        for counts in resample_patients(patients, resamples, seed):
            for k, ranking in enumerate(rankings):
                result[done : done + len(counts), k], _ = ranking.scores(counts)
            done += len(counts)
            bar.update(len(counts))
    return result


def _class_scores(name: str, ranking: Ranking, once: Counts, resampled: Floats) -> ClassScores:
    positives, negatives = len(ranking.positive_owner), len(ranking.negative_owner)
    if not positives or not negatives:
        return ClassScores(name, positives, negatives)
    values, best = ranking.scores(once)
    return ClassScores(
        name,
        positives,
        negatives,
        threshold=float(ranking.thresholds[best[0]]),
        intervals=named_intervals(resampled, SCORES, [ranking.carriers] * len(SCORES)),
        **dict(zip(SCORES, values[0].tolist(), strict=True)),
    )
