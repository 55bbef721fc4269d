"""Paired differences between two runs on the same images: arrays in, numbers out.

Both runs are scored under the same resamples of patients, and the interval is that of the difference, resample by resample:
what makes an image hard makes it hard for both, so the interval is narrower than the two runs' own suggest. A difference is
clear where its 95 % interval leaves out 0. No p-value is given: it would say the same less plainly, and of many classes
compared, 1 in 20 has a clear difference by chance either way.

Runs of several seeds are compared seed by seed under the same resamples, and the differences averaged. The interval then says
what other patients would change, not what other seeds would: ``by_seed`` shows those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from medslip.evaluation.bootstrap import (
    Interval,
    count_carriers,
    count_patients,
    patient_index,
    percentile_interval,
    resampled_sums,
)
from medslip.evaluation.classification import SCORES, Scores, score
from medslip.evaluation.segmentation import SCORES as SEGMENTATION_SCORES

Floats = npt.NDArray[np.float64]
Pair = tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]
"""The same array of run A and of run B."""


class Key(NamedTuple):
    """What is compared.

    Attributes:
        group: The part of the images or findings, such as "larger"; "" for all.
        name: The class, or a mean in words.
        score: Which score.
    """

    group: str
    name: str
    score: str


@dataclass(frozen=True)
class Difference:
    """One score of two runs.

    Attributes:
        key: What is compared.
        cases: How many images or findings count.
        a: Run A's score, a mean over seeds; None where it is not defined.
        b: Run B's.
        value: b - a.
        interval: Its 95 % interval over resampled patients; None without, as for the cases of one patient.
        by_seed: b - a of each seed; of runs without seeds, of the one run.
    """

    key: Key
    cases: int
    a: float | None
    b: float | None
    value: float | None
    interval: Interval | None
    by_seed: tuple[float, ...]

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.interval is not None and (self.interval.low > 0 or self.interval.high < 0)


@dataclass(frozen=True)
class _Paired:
    """Scores of two runs; NaN where not defined.

    Attributes:
        a: Seeds x K.
        b: Seeds x K.
        differences: Resamples x K, means over seeds.
        carriers: K, how many patients carry each score.
    """

    a: Floats
    b: Floats
    differences: Floats
    carriers: npt.NDArray[np.intp]

    def of(self, keys: Sequence[Key], cases: Sequence[int]) -> list[Difference]:
        """One entry a column."""
        return [self._of(k, key, int(number)) for k, (key, number) in enumerate(zip(keys, cases, strict=True))]

    def _of(self, column: int, key: Key, cases: int) -> Difference:
        a, b = self.a[:, column], self.b[:, column]
        if np.isnan(a).any() or np.isnan(b).any():
            return Difference(key, cases, None, None, None, None, ())
        return Difference(
            key,
            cases,
            float(a.mean()),
            float(b.mean()),
            float((b - a).mean()),
            percentile_interval(self.differences[:, column], int(self.carriers[column])),
            tuple((b - a).tolist()),
        )


def compare_answers(
    classes: Sequence[str],
    labels: npt.NDArray[np.int8],
    answers: Sequence[Pair],
    patients: Sequence[str],
    leave_out: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> list[Difference]:
    """Compare two classifiers: every class and the means over classes, each of classification.SCORES.

    Args:
        classes: C names.
        labels: n x C: 1 present, 0 absent, -1 unknown.
        answers: For each seed the n x C probabilities of both runs.
        patients: n names, "" where unknown; unknown patients' images are resampled one by one.
        leave_out: Classes for which a second mean, without that class, is wanted.
        resamples: How many; 0 for no intervals.
        seed: Of the resamples.

    Returns:
        By score, then every class, the mean of those that have scores, and the means without a class. A resample in which one
        of a mean's classes has no score is left out.
    """
    scores = [[score(classes, labels, part, patients, resamples, seed) for part in pair] for pair in answers]
    first = scores[0][0]
    defined = [k for k, entry in enumerate(first.classes) if entry.undefined is None]
    names = [f"mean of {len(defined)} class{'' if len(defined) == 1 else 'es'}"]
    members = [defined]
    for name in leave_out:
        members.append([k for k in defined if classes[k] != name])
        names.append(f"mean of {len(members[-1])}, without {name}")
    columns = [[k] for k in range(len(classes))] + members
    a, b = (np.stack([_over_classes(_values(pair[which])[None], columns)[0] for pair in scores]) for which in (0, 1))
    resampled = np.mean([pair[1].resampled - pair[0].resampled for pair in scores], axis=0)
    of_a, of_b, differences = (
        each.reshape(len(each), len(columns) * len(SCORES)) for each in (a, b, _over_classes(resampled, columns))
    )
    fewest = [min((first.carriers[k] for k in chosen), default=0) for chosen in columns]
    paired = _Paired(of_a, of_b, differences, np.repeat(fewest, len(SCORES)))
    known = [int(count) for count in (labels >= 0).sum(axis=0)]
    counts = known + [first.images] * len(members)
    entries = paired.of(
        [Key("", name, which) for name in (*classes, *names) for which in SCORES],
        np.repeat(counts, len(SCORES)).tolist(),
    )
    return [entry for which in SCORES for entry in entries if entry.key.score == which]


def compare_cases(
    keys: Sequence[Key], values: Sequence[Pair], patients: Sequence[str], resamples: int = 1000, seed: int = 0
) -> list[Difference]:
    """Compare means over cases, such as findings or images.

    Args:
        keys: K, what each column is.
        values: For each seed the n x K values of both runs, NaN where a case has no share in a mean. A case counts where both
            runs have a value.
        patients: n names, "" where unknown; an unknown patient's case is resampled by itself.
        resamples: How many; 0 for no intervals.
        seed: Of the resamples.

    Returns:
        One entry a key.
    """
    paired, cases = _means(values, patients, resamples, seed)
    return paired.of(keys, cases)


def compare_segmentations(
    dice: Sequence[Pair],
    iou: Sequence[Pair],
    marked: npt.NDArray[np.bool_],
    patients: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> list[Difference]:
    """Compare two segmenters; one entry each of segmentation.SCORES.

    Args:
        dice: For each seed the Dice of n images, of both runs.
        iou: As dice.
        marked: n, whether the image has something to find.
        patients: n names, "" where unknown.
        resamples: How many; 0 for no intervals.
        seed: Of the resamples.
    """

    def columns(of_dice: npt.NDArray[np.floating], of_iou: npt.NDArray[np.floating]) -> Floats:
        """N x all of SCORES but the last, which is the mean of two of them."""
        there = [np.where(marked, of_dice, np.nan), np.where(marked, of_iou, np.nan)]
        return np.stack([of_dice, of_iou, *there, np.where(marked, np.nan, of_dice)], axis=1)

    values = [(columns(d[0], i[0]), columns(d[1], i[1])) for d, i in zip(dice, iou, strict=True)]
    paired, cases = _means(values, patients, resamples, seed)

    def balanced(array: Floats) -> Floats:
        return np.column_stack([array, (array[:, 2] + array[:, 4]) / 2])

    keys = [Key("", "all images", name) for name in SEGMENTATION_SCORES]
    carriers = np.append(paired.carriers, paired.carriers[[2, 4]].min())
    a, b, differences = map(balanced, (paired.a, paired.b, paired.differences))
    return _Paired(a, b, differences, carriers).of(keys, [*cases, len(marked)])


def _values(scores: Scores) -> Floats:
    """C x SCORES, NaN where not defined."""
    return np.array([[getattr(entry, name) for name in SCORES] for entry in scores.classes], np.float64)


def _over_classes(values: Floats, members: Sequence[Sequence[int]]) -> Floats:
    """R x C x S -> R x len(members) x S: the mean of each set of classes; NaN for an empty one."""
    none = np.full((len(values), values.shape[2]), np.nan)
    return np.stack([values[:, chosen].mean(axis=1) if chosen else none for chosen in members], axis=1)


def _means(values: Sequence[Pair], patients: Sequence[str], resamples: int, seed: int) -> tuple[_Paired, list[int]]:
    owner = patient_index(patients)
    number = count_patients(owner)
    a, b, differences, carriers, cases = [], [], [], [], np.zeros(values[0][0].shape[1], np.int64)
    for of_a, of_b in values:
        counted = ~(np.isnan(of_a) | np.isnan(of_b))
        cases = np.maximum(cases, counted.sum(axis=0))
        first, second = (np.where(counted, array, 0.0) for array in (of_a, of_b))
        a.append(_divide(first.sum(axis=0), counted.sum(axis=0)))
        b.append(_divide(second.sum(axis=0), counted.sum(axis=0)))
        # Sums of differences, not differences of sums: equal runs then differ by exactly 0.
        totals = np.zeros((number, 2 * counted.shape[1]))
        np.add.at(totals, owner, np.hstack([second - first, counted]))
        summed, weight = np.split(resampled_sums(totals, resamples, seed), 2, axis=1)
        differences.append(_divide(summed, weight))
        carriers.append(count_carriers(totals[:, counted.shape[1] :]))
    return _Paired(np.stack(a), np.stack(b), np.mean(differences, axis=0), np.min(carriers, axis=0)), cases.tolist()


def _divide(part: npt.NDArray, whole: npt.NDArray) -> Floats:
    """Part / whole, NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole > 0)
