"""Scores within groups of images, by sex, age and view.

Groups are compared by their mean over the same classes: those that every compared group can be scored on. A class can be scored
in a group with at least LEAST positives and LEAST negatives of it, a mean over cases in a group with at least LEAST cases. A
group in which fewer than half of the classes can be scored is not compared, because it would leave the others hardly any class
to be compared on.

The gap is the highest mean minus the lowest. Its interval is of the difference between the same two groups in the same
resamples of patients, so it can reach below 0: then the data do not tell the two apart. Because the two were picked for being
furthest apart the gap is biased upwards, more so with more groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.evaluation.bootstrap import (
    Counts,
    Estimate,
    Floats,
    Resampled,
    count_patients,
    divide,
    patient_index,
    patient_sums,
    resample_each,
)
from medslip.evaluation.classification import Ranking

LEAST = 10
"""Positives and negatives (or cases) that a score in a group needs."""

AGE_GROUPS = {"under 18": 0, "18-39": 18, "40-59": 40, "60-79": 60, "80 and over": 80}
"""Name -> youngest age in years."""

UNKNOWN = "unknown"
"""The group of the images whose sex, age or view is not known; it is not scored."""


class GroupScorer(Protocol):
    """Scores one group of images under any weights.

    Attributes:
        names: S scores.
        classes: C class names, or [""] for means over cases.
        enough: C x S, whether the group has enough images for a score.
        carriers: C x S, how many patients a score rests on.
        columns: For each class, further columns of its row.
    """

    names: list[str]
    classes: list[str]
    enough: npt.NDArray[np.bool_]
    carriers: npt.NDArray[np.intp]
    columns: list[dict[str, object]]

    def __call__(self, counts: Counts) -> Floats:
        """R x patients weights -> R x C x S, NaN where not defined."""


def by_group(
    metadata: pd.DataFrame,
    scorer: Callable[[npt.NDArray[np.bool_], npt.NDArray[np.intp]], GroupScorer],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Score each group of images by sex, age and view, with 95 % intervals.

    Args:
        metadata: One row per case (an image, or a finding on one): ``path``, ``patient``, ``sex``, ``view`` ("" where unknown)
            and ``age`` (years, NaN where unknown).
        scorer: Prepares a group: (n, whether each case is in the group; n, the patient number of each case) -> its scorer.
        resamples: Bootstrap resamples of patients; 0 for no intervals.
        seed: Random seed.

    Returns:
        ``subgroups``, one row per attribute and group: ``attribute``, ``group``, ``images``, ``patients``, and for each score
        the mean over the compared classes (Estimate; not defined where the group is not compared). ``subgroup_gaps``, one row
        per attribute and score: ``attribute``, ``score``, ``highest``, ``lowest``, ``gap`` (Estimate) and ``classes``, those
        in the means. ``subgroup_classes``, one row per attribute, group and class; empty for means over cases. Attributes that
        are unknown for every image are left out.
    """
    image, _ = pd.factorize(metadata["path"])
    first = np.unique(image, return_index=True)[1]
    owner = patient_index(metadata["patient"].iloc[first].tolist())[image]
    groups: list[dict[str, object]] = []
    gaps: list[dict[str, object]] = []
    classes: list[dict[str, object]] = []
    for attribute, of_case in groups_of(metadata).items():
        order = list(AGE_GROUPS) if attribute == "age" else sorted(set(of_case) - {""})
        names = [name for name in order if (of_case == name).any()]
        if not names:
            continue
        scorers = [scorer(of_case == name, owner) for name in names]
        carriers = [scorer.carriers for scorer in scorers]
        found = resample_each(scorers, carriers, count_patients(owner), resamples, seed)
        rows = []
        for name in names + [UNKNOWN] * bool((of_case == "").any()):
            inside = of_case == ("" if name == UNKNOWN else name)
            images, patients = len(np.unique(image[inside])), len(np.unique(owner[inside]))
            rows.append({"attribute": attribute, "group": name, "images": images, "patients": patients})
        for s, score in enumerate(scorers[0].names):
            means, gap = _compare(names, scorers, found[..., s], s)
            for row in rows:
                row[score] = means.get(str(row["group"]), Estimate(np.nan))
            gaps += [{"attribute": attribute, "score": score, **gap}] if gap else []
        groups += rows
        for g, (name, each) in enumerate(zip(names, scorers, strict=True)):
            for k, values in enumerate(found[g].estimates()):
                row = {"attribute": attribute, "group": name, "class": each.classes[k], **each.columns[k]}
                classes += [row | dict(zip(each.names, values, strict=True))] if each.classes[k] else []
    return {
        "subgroups": pd.DataFrame(groups),
        "subgroup_gaps": pd.DataFrame(gaps, columns=["attribute", "score", "highest", "lowest", "gap", "classes"]),
        "subgroup_classes": pd.DataFrame(classes),
    }


def _compare(
    names: Sequence[str], scorers: Sequence[GroupScorer], found: Resampled, score: int
) -> tuple[dict[str, Estimate], dict[str, object]]:
    """The mean of each compared group, and their gap, of one score (groups x classes)."""
    enough = np.stack([scorer.enough[:, score] for scorer in scorers])
    compared = np.flatnonzero(enough.any(axis=1) & (2 * enough.sum(axis=1) >= enough.any(axis=0).sum()))
    shared = np.flatnonzero(~np.isnan(found.values[compared]).any(axis=0))
    if not len(compared) or not len(shared):
        return {}, {}
    means = found[np.ix_(compared, shared)].mean(axis=1)
    high, low = int(means.values.argmax()), int(means.values.argmin())
    gap = (means[high : high + 1] - means[low : low + 1]).estimates()[0] if len(compared) > 1 else Estimate(np.nan)
    order = [names[int(g)] for g in compared]
    averaged = [name for name in (scorers[0].classes[int(k)] for k in shared) if name]
    about = {"highest": order[high], "lowest": order[low], "gap": gap, "classes": averaged}
    return dict(zip(order, means.estimates(), strict=True)), about


def groups_of(metadata: pd.DataFrame) -> dict[str, npt.NDArray[np.str_]]:
    """Attribute -> the group of each case, "" where unknown."""
    ages = metadata["age"].to_numpy(np.float64)
    place = np.searchsorted(list(AGE_GROUPS.values()), ages, side="right") - 1
    age = np.where(np.isnan(ages), "", np.array(list(AGE_GROUPS))[np.clip(place, 0, len(AGE_GROUPS) - 1)])
    sex, view = (metadata[name].fillna("").to_numpy(str) for name in ("sex", "view"))
    return {"sex": sex, "age": age, "view": view}


class ClassesInGroup:
    """A GroupScorer of a classification: AUROC, and sensitivity at the operating point, class by class.

    Args:
        inside: n, whether each image is in the group.
        owner: n, the patient number of each image.
        classes: C names.
        labels: n x C: 1, 0, -1 unknown.
        probabilities: n x C.
        thresholds: C operating points, NaN where there is none.
    """

    def __init__(
        self,
        inside: npt.NDArray[np.bool_],
        owner: npt.NDArray[np.intp],
        classes: Sequence[str],
        labels: npt.NDArray[np.int8],
        probabilities: npt.NDArray[np.floating],
        thresholds: Sequence[float],
    ) -> None:
        self.names, self.classes, self._thresholds = ["auroc", "sensitivity"], list(classes), np.asarray(thresholds)
        labels, probabilities, owner = labels[inside], probabilities[inside], owner[inside]
        counts = np.stack([(labels == 1).sum(axis=0), (labels == 0).sum(axis=0)], axis=1)
        self.enough = np.repeat((counts >= LEAST).all(axis=1), 2).reshape(-1, 2)
        self._rankings = [Ranking(labels[:, k], probabilities[:, k], owner) for k in range(len(classes))]
        positive = [labels[:, k] == 1 for k in range(len(classes))]
        self._owners = [owner[chosen] for chosen in positive]
        self._reached = [probabilities[chosen, k] >= self._thresholds[k] for k, chosen in enumerate(positive)]
        patients = [len(np.unique(owner)) for owner in self._owners]
        self.carriers = np.column_stack([[ranking.carriers for ranking in self._rankings], patients])
        self.columns: list[dict[str, object]] = []
        for positives, negatives in counts.tolist():
            few = "positives" if positives < LEAST else "negatives" if negatives < LEAST else ""
            note = f"fewer than {LEAST} {few}" if few else ""
            self.columns.append({"images": positives + negatives, "positives": positives, "note": note})

    def __call__(self, counts: Counts) -> Floats:
        """R x patients weights -> R x C x (AUROC, sensitivity)."""
        result = np.full((len(counts), len(self.classes), 2), np.nan)
        for k in np.flatnonzero(self.enough[:, 0]):
            result[:, k, 0] = self._rankings[k].scores(counts)[:, 0]
            if not np.isnan(self._thresholds[k]):
                weights = counts[:, self._owners[k]]
                result[:, k, 1] = divide(weights @ self._reached[k], weights.sum(axis=1))
        return result


class MeansInGroup:
    """A GroupScorer of means over cases.

    Args:
        inside: n, whether each case is in the group.
        owner: n, the patient number of each case.
        cases: n x S values, one column per score; NaN where a case is left out of a mean.
    """

    def __init__(self, inside: npt.NDArray[np.bool_], owner: npt.NDArray[np.intp], cases: pd.DataFrame) -> None:
        self.names, self.classes = [str(name) for name in cases], [""]
        self.columns: list[dict[str, object]] = [{}]
        values = cases.to_numpy(np.float64)[inside]
        self._sums, self._weights = patient_sums(values, owner[inside], count_patients(owner))
        self.enough = (self._weights.sum(axis=0) >= LEAST)[None]
        self.carriers = np.count_nonzero(self._weights, axis=0)[None]

    def __call__(self, counts: Counts) -> Floats:
        """R x patients weights -> R x 1 x S."""
        return divide(counts @ self._sums, counts @ self._weights)[:, None]
