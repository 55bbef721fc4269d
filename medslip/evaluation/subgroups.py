"""Scores by subgroup, such as sex, age and view: arrays in, numbers out.

A class is scored in a group that has at least LEAST positives and LEAST negatives of it. Groups are compared with each
other by their mean over the same classes: those scored in every compared group. A group in which fewer than half of the
scored classes can be scored is not compared, as a small group would leave the others next to no class to compare.

The gap is the highest group's mean less the lowest group's. Its interval is of the difference between these same two
groups in the same resamples of patients, so it can reach below 0: then the data do not tell the two apart. As the two were
picked for being furthest apart, the gap is biased upwards, the more so the more groups there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from medslip.data.attributes import Attributes
from medslip.evaluation.bootstrap import (
    Counts,
    Interval,
    count_patients,
    named_intervals,
    patient_index,
    percentile_interval,
    resample_patients,
)
from medslip.evaluation.classification import Floats, Ranking

LEAST = 10
"""Positives, and negatives, that a class needs to be scored in a group."""

AGE_GROUPS = (("under 18", 0), ("18-39", 18), ("40-59", 40), ("60-79", 60), ("80 and over", 80))
"""Name and youngest age in years."""

GROUP_SCORES = ("auroc", "sensitivity")
"""The scores of a class in a group; the sensitivity is at the operating point, where there is one."""


@dataclass(frozen=True)
class GroupClass:
    """One class in one group; None where it is not scored.

    Attributes:
        name: The class.
        positives: Images of the group labelled 1.
        negatives: Images of the group labelled 0.
        undefined: Why it is not scored, in words; None where it is.
        auroc: Area under the ROC curve, 0..1.
        sensitivity: At the class's operating point, 0..1; None too where it has none.
        intervals: Score (of GROUP_SCORES) -> its 95 % interval.
    """

    name: str
    positives: int
    negatives: int
    undefined: str | None
    auroc: float | None = None
    sensitivity: float | None = None
    intervals: Mapping[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """One group.

    Attributes:
        name: Such as "F".
        images: How many.
        patients: How many; a patient can be in several groups, of views for example.
        compared: Whether it is compared with the others.
        classes: Its scores; none where the means are over cases.
    """

    name: str
    images: int
    patients: int
    compared: bool
    classes: tuple[GroupClass, ...]


@dataclass(frozen=True)
class GroupMean:
    """The mean of a score over the compared classes, in one group.

    Attributes:
        group: Its name.
        value: The mean.
        interval: Its 95 % interval; None without resamples, or where fewer than two patients carry a class of it.
    """

    group: str
    value: float
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """The compared groups side by side.

    Attributes:
        classes: Those in the means; none where the means are over cases, as in subgroup_means.py.
        means: Of each compared group.
        highest: The group of the highest mean.
        lowest: The group of the lowest mean.
        gap: Difference of these two; None with fewer than two groups.
        interval: Its 95 % interval; None where one of the two means has none.
    """

    classes: tuple[str, ...]
    means: tuple[GroupMean, ...]
    highest: str
    lowest: str
    gap: float | None
    interval: Interval | None


@dataclass(frozen=True)
class AttributeScores:
    """The scores by one attribute.

    Attributes:
        unknown: Images of which it is not known; they are in no group.
        groups: All groups.
        comparisons: Score -> the comparison; without scores that no class has in all compared groups.
    """

    unknown: int
    groups: tuple[Group, ...]
    comparisons: Mapping[str, Comparison]


def age_groups(ages: npt.NDArray[np.floating]) -> list[str]:
    """The group of each age, of AGE_GROUPS; empty where it is NaN.

    Args:
        ages: n, years.
    """
    place = np.searchsorted([youngest for _, youngest in AGE_GROUPS], ages, side="right") - 1
    names = [name for name, _ in AGE_GROUPS]
    return ["" if np.isnan(age) else names[max(k, 0)] for age, k in zip(ages, place, strict=True)]


def groups_of(metadata: pd.DataFrame | Attributes) -> dict[str, list[str]]:
    """Attribute -> the group of each image, "" where unknown."""
    ages = age_groups(metadata["age"].to_numpy(float))
    return {"sex": metadata["sex"].tolist(), "age": ages, "view": metadata["view"].tolist()}


def subgroups(
    classes: Sequence[str],
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.floating],
    patients: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
    thresholds: Sequence[float | None] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, AttributeScores]:
    """Score each group of each attribute, with 95 % intervals.

    Args:
        classes: Names of the columns.
        labels: Images x classes: 1 present, 0 absent, -1 unknown (that image is left out of that class).
        probabilities: Images x classes.
        patients: One name an image, "" where unknown.
        attributes: Attribute -> the group of each image, "" where unknown.
        thresholds: For each class what is positive at its operating point; None for none.
        resamples: Bootstrap resamples of patients; 0 for no intervals.
        seed: Of the resamples.

    Returns:
        Attribute -> its scores, without the attributes that no image has.
    """
    owner = patient_index(patients)
    limits = thresholds or [None] * len(classes)
    found = {
        attribute: _ClassesByGroup(Parts(groups, owner), classes, labels, probabilities, owner, limits)
        for attribute, groups in attributes.items()
        if any(groups)
    }
    return summaries(found, count_patients(owner), resamples, seed)


class ByGroup(Protocol):
    """What the groups of one attribute are scored by."""

    def scores(self, counts: Counts) -> Floats:
        """Rows of weights x scores in any shape, NaN where not defined."""

    def summary(self, values: Floats, drawn: Floats) -> AttributeScores:
        """Of the scores of every patient once, and of each resample (resamples x scores)."""


def summaries(found: Mapping[str, ByGroup], count: int, resamples: int, seed: int) -> dict[str, AttributeScores]:
    """Score all attributes under the same resamples.

    Args:
        found: Attribute -> its groups.
        count: How many patients.
        resamples: Bootstrap resamples of patients; 0 for no intervals.
        seed: Of the resamples.
    """
    once = np.ones((1, count), np.int32)
    values = {attribute: each.scores(once)[0] for attribute, each in found.items()}
    drawn: dict[str, list[Floats]] = {attribute: [] for attribute in found}
    total = resamples if count > 1 and found else 0
    with tqdm(total=total, desc="subgroups", unit="resample", delay=2, leave=False, disable=None) as bar:
        for counts in resample_patients(count, total, seed):
            for attribute, each in found.items():
                drawn[attribute].append(each.scores(counts))
            bar.update(len(counts))
    return {
        attribute: each.summary(
            values[attribute], np.concatenate([np.empty((0, *values[attribute].shape)), *drawn[attribute]])
        )
        for attribute, each in found.items()
    }


@dataclass(frozen=True)
class _Cell:
    """One class in one group, ready to be scored under any weights.

    Attributes:
        positives: Images labelled 1.
        negatives: Images labelled 0.
        ranking: None where there are too few of either.
        owner: The patient of each positive.
        reached: Whether each positive reaches the operating point; None where there is none.
    """

    positives: int
    negatives: int
    ranking: Ranking | None
    owner: npt.NDArray[np.intp]
    reached: npt.NDArray[np.bool_] | None

    @property
    def carriers(self) -> tuple[int, ...]:
        """How many patients carry each of GROUP_SCORES."""
        return (0 if self.ranking is None else self.ranking.carriers, len(np.unique(self.owner)))

    def scores(self, counts: Counts) -> Floats:
        """Rows of weights x GROUP_SCORES, NaN where not defined."""
        result = np.full((len(counts), len(GROUP_SCORES)), np.nan)
        if self.ranking is None:
            return result
        result[:, 0] = self.ranking.scores(counts)[0][:, 0]
        if self.reached is not None:
            weights = counts[:, self.owner]
            with np.errstate(invalid="ignore"):
                result[:, 1] = (weights @ self.reached) / weights.sum(axis=1)
        return result


class Parts:
    """Images parted into the groups of one attribute, ages by age and others by name.

    Args:
        group_of: n, the group of each image, "" where unknown.
        owner: n, the number of each image's patient.

    Attributes:
        names: Of the G groups.
        inside: G masks over the images.
        unknown: How many images are in no group.
    """

    def __init__(self, group_of: Sequence[str], owner: npt.NDArray[np.intp]) -> None:
        of_image = np.asarray(group_of, str)
        order = [name for name, _ in AGE_GROUPS]
        names = {str(name) for name in of_image} - {""}
        self.names = sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))
        self.unknown = int((of_image == "").sum())
        self.inside = [of_image == name for name in self.names]
        self._patients = [len(np.unique(owner[mask])) for mask in self.inside]

    def group(self, place: int, compared: bool, classes: tuple[GroupClass, ...] = ()) -> Group:
        """One of the groups, with what was found of it."""
        return Group(self.names[place], int(self.inside[place].sum()), self._patients[place], compared, classes)


class _ClassesByGroup:
    """One attribute's groups, scored class by class."""

    def __init__(
        self,
        parts: Parts,
        classes: Sequence[str],
        labels: npt.NDArray[np.int8],
        probabilities: npt.NDArray[np.floating],
        owner: npt.NDArray[np.intp],
        thresholds: Sequence[float | None],
    ) -> None:
        self.parts, self.classes = parts, classes
        self.cells = [
            [
                _cell(labels[mask, k], probabilities[mask, k], owner[mask], threshold)
                for k, threshold in enumerate(thresholds)
            ]
            for mask in parts.inside
        ]

    def scores(self, counts: Counts) -> Floats:
        """Rows of weights x groups x classes x GROUP_SCORES."""
        return np.stack([np.stack([cell.scores(counts) for cell in row], axis=1) for row in self.cells], axis=1)

    def summary(self, values: Floats, drawn: Floats) -> AttributeScores:
        """Each class in each group, and the groups' means over the classes that all compared ones have."""
        scored = np.array([[cell.ranking is not None for cell in row] for row in self.cells])
        compared = scored.any(axis=1) & (2 * scored.sum(axis=1) >= scored.any(axis=0).sum())
        groups = tuple(
            self.parts.group(
                g,
                bool(compared[g]),
                tuple(
                    _group_class(entry, self.cells[g][k], values[g, k], drawn[:, g, k])
                    for k, entry in enumerate(self.classes)
                ),
            )
            for g in range(len(self.cells))
        )
        chosen = np.flatnonzero(compared)
        carriers = np.array([[cell.carriers for cell in row] for row in self.cells])
        comparisons = {}
        for s, key in enumerate(GROUP_SCORES):
            shared = np.flatnonzero(~np.isnan(values[chosen, :, s]).any(axis=0))
            if len(chosen) and len(shared):
                means = values[np.ix_(chosen, shared)][:, :, s].mean(axis=1)
                resampled = drawn[:, chosen][:, :, shared, s].mean(axis=2)
                names = [self.parts.names[g] for g in chosen]
                fewest = carriers[np.ix_(chosen, shared)][:, :, s].min(axis=1)
                averaged = tuple(self.classes[int(k)] for k in shared)
                comparisons[key] = compare(averaged, names, means, resampled, fewest)
        return AttributeScores(self.parts.unknown, groups, comparisons)


def _cell(
    label: npt.NDArray[np.int8],
    probability: npt.NDArray[np.floating],
    owner: npt.NDArray[np.intp],
    threshold: float | None,
) -> _Cell:
    present = label == 1
    positives, negatives = int(present.sum()), int((label == 0).sum())
    ranking = Ranking(label, probability, owner) if min(positives, negatives) >= LEAST else None
    reached = None if threshold is None else probability[present] >= threshold
    return _Cell(positives, negatives, ranking, owner[present], reached)


def _group_class(name: str, cell: _Cell, values: Floats, drawn: Floats) -> GroupClass:
    few = next((what for what in ("positives", "negatives") if getattr(cell, what) < LEAST), None)
    numbers = [None if np.isnan(value) else float(value) for value in values]
    return GroupClass(
        name,
        cell.positives,
        cell.negatives,
        f"fewer than {LEAST} {few}" if few else None,
        **dict(zip(GROUP_SCORES, numbers, strict=True)),
        intervals=named_intervals(drawn, GROUP_SCORES, cell.carriers),
    )


def compare(
    classes: tuple[str, ...], names: Sequence[str], means: Floats, drawn: Floats, carriers: npt.NDArray[np.intp]
) -> Comparison:
    """Put groups side by side.

    Args:
        classes: Those in the means.
        names: Of G groups.
        means: G.
        drawn: Resamples x G, the means in each resample.
        carriers: G, how many patients carry each mean.
    """
    high, low = int(means.argmax()), int(means.argmin())
    apart = len(names) > 1
    return Comparison(
        classes,
        tuple(
            GroupMean(name, float(mean), percentile_interval(drawn[:, g], int(carriers[g])))
            for g, (name, mean) in enumerate(zip(names, means, strict=True))
        ),
        names[high],
        names[low],
        float(means[high] - means[low]) if apart else None,
        percentile_interval(drawn[:, high] - drawn[:, low], int(carriers[[high, low]].min())) if apart else None,
    )
