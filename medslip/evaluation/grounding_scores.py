"""Grounding of many findings: means over findings, precision and recall of boxes, chance levels, 95 % intervals.

A case is a finding on an image. Three maps answer each case and are scored alike: the model's, the uniform map, and the prior.
All scores but one are means over cases; those in which a score is not defined have no share in its mean. ``box_precision`` is
the average precision of the predicted boxes of all cases, ranked by confidence: the mean, over true boxes, of the precision
down to the confidence at which each is found, 0 for a box that is never found; equal confidences count together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from medslip.evaluation.bootstrap import (
    Counts,
    Interval,
    count_patients,
    patient_index,
    percentile_interval,
    resample_patients,
)
from medslip.evaluation.grounding import (
    THRESHOLDS,
    Rectangle,
    Region,
    box_region,
    contrast_to_noise,
    heat_map,
    match_boxes,
    overlap,
    pixel_auroc,
    pointing,
    pointing_patch,
    predicted_boxes,
)

CASE_SCORES = ("pointing", "pointing_patch", "pixel_auroc", "contrast_to_noise", "iou", "dice")
"""Scores that each case has, in the order of the last axis of score arrays."""

SCORES = (*CASE_SCORES, "box_precision")

MAPS = ("model", "uniform", "prior")

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Truth:
    """Where a case's finding is.

    Attributes:
        boxes: In pixels.
        region: H x W: its mask, or its boxes filled. Not empty.
    """

    boxes: tuple[Rectangle, ...]
    region: Region

    def is_large(self, patches: int) -> bool:
        """Whether the finding's largest box has more area than one patch of a grid of ``patches`` x ``patches``."""
        largest = max(width * height for _, _, width, height in self.boxes)
        return largest * patches**2 > self.region.size


@dataclass(frozen=True)
class MapPair:
    """What answers a case.

    Attributes:
        grid: The map, any number of cells, upsampled to the image.
        patches: The map at the model's patches, for the published pointing rule.
        centre: The point of a cell that the grid's value stands for; see ``heat_map``.
    """

    grid: Floats
    patches: Floats
    centre: float = 0.5

    def heat_map(self, height: int, width: int) -> npt.NDArray[np.float64]:
        """The map on height x width pixels, 0..1."""
        return heat_map(self.grid, height, width, self.centre)


@dataclass(frozen=True)
class CaseScores:
    """The scores of one map on one case.

    Attributes:
        values: CASE_SCORES, NaN where not defined.
        confidences: k predicted boxes, how sure the map is of each.
        found: k, whether each finds a true box.
        boxes: Number of true boxes.
    """

    values: npt.NDArray[np.float64]
    confidences: npt.NDArray[np.float64]
    found: Region
    boxes: int


@dataclass(frozen=True)
class Score:
    """One score of a group of cases.

    Attributes:
        value: None where it is not defined.
        interval: Over resampled patients; None without, or where fewer than two carry the score.
    """

    value: float | None
    interval: Interval | None = None


@dataclass(frozen=True)
class GroupScores:
    """The scores of a group of cases.

    Attributes:
        name: The class, or "all findings".
        findings: How many cases.
        patients: How many patients they are of.
        scores: Map (of MAPS) -> score (of SCORES) -> value.
        above_prior: Score -> the model's less the prior's, on the same cases and resamples.
    """

    name: str
    findings: int
    patients: int
    scores: Mapping[str, Mapping[str, Score]]
    above_prior: Mapping[str, Score]


def score_case(answer: MapPair, truth: Truth, threshold: float, box_iou: float) -> CaseScores:
    """Score one map on one case.

    Args:
        answer: The map.
        truth: Where the finding is.
        threshold: Of the map, 0..1, for IoU, Dice and boxes.
        box_iou: The IoU at which a predicted box finds a true one.
    """
    height, width = truth.region.shape
    heat = answer.heat_map(height, width)
    inside = box_region(truth.boxes, height, width)
    iou, dice = overlap(heat, truth.region, np.array([threshold]))
    boxes, confidences = predicted_boxes(heat, threshold)
    values = np.array(
        [
            pointing(heat, inside),
            pointing_patch(answer.patches, inside),
            pixel_auroc(heat, truth.region),
            contrast_to_noise(heat, truth.region),
            iou[0],
            dice[0],
        ]
    )
    return CaseScores(values, confidences, match_boxes(boxes, confidences, truth.boxes, box_iou), len(truth.boxes))


def choose_threshold(curves: Sequence[npt.NDArray[np.float64]]) -> float:
    """The threshold of highest mean IoU; of equally good ones the lowest.

    Args:
        curves: For each case, the IoU at each of THRESHOLDS.

    Raises:
        ValueError: No cases.
    """
    if not len(curves):
        raise ValueError("no case to choose a threshold on")
    return float(THRESHOLDS[int(np.mean(curves, axis=0).argmax())])


class _Ranking:
    """The predicted boxes of a group's cases, from the most confident down, ready to be counted under any weights."""

    def __init__(self, cases: Sequence[CaseScores], owner: npt.NDArray[np.intp]) -> None:
        confidence = np.concatenate([case.confidences for case in cases])
        found = np.concatenate([case.found for case in cases])
        of_box = np.repeat(owner, [len(case.found) for case in cases])
        order = np.argsort(-confidence, kind="stable")
        self._found, self._owner = found[order], of_box[order]
        falling = -confidence[order]
        self._last = np.searchsorted(falling, falling, side="right") - 1  # the last of those equally confident
        self._boxes, self._case_owner = np.array([case.boxes for case in cases]), owner

    def curve(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Recall and precision, each case once; see ``precision_recall``."""
        last = np.unique(self._last)
        true = self._found.cumsum()[last].astype(np.float64)
        return true / self._boxes.sum(), true / (last + 1)

    def average_precision(self, counts: Counts) -> npt.NDArray[np.float64]:
        """R x patients weights -> R; NaN where no true box has weight."""
        weight = counts[:, self._owner].astype(np.float64)
        found = weight * self._found
        true, all_ = found.cumsum(axis=1)[:, self._last], weight.cumsum(axis=1)[:, self._last]
        total = (counts[:, self._case_owner] * self._boxes).sum(axis=1, dtype=np.float64)
        gained = (found * true / np.maximum(all_, 1)).sum(axis=1)
        return np.divide(gained, total, out=np.full(len(counts), np.nan), where=total > 0)


def precision_recall(cases: Sequence[CaseScores]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Recall and precision of the boxes of some cases, down to each confidence that one was predicted with.

    Args:
        cases: Of one map.

    Returns:
        Two arrays of k confidences, the highest first; recall rises.
    """
    return _Ranking(cases, np.arange(len(cases))).curve()


class _Group:
    """Some cases, ready to be scored under any weights."""

    def __init__(
        self, answers: Mapping[str, Sequence[CaseScores]], chosen: npt.NDArray[np.intp], owner: npt.NDArray[np.intp]
    ) -> None:
        self._owner = owner[chosen]
        cases = {name: [answers[name][index] for index in chosen] for name in MAPS}
        self._values = {name: np.stack([case.values for case in cases[name]]) for name in MAPS}
        self._rankings = {name: _Ranking(cases[name], self._owner) for name in MAPS}

    @property
    def carriers(self) -> npt.NDArray[np.intp]:
        """MAPS x SCORES: how many patients have a case in which the score is defined; every case has boxes."""
        with_boxes = np.ones((len(self._owner), 1), bool)
        defined = [np.hstack([~np.isnan(self._values[name]), with_boxes]) for name in MAPS]
        return np.array([[len(np.unique(self._owner[cases])) for cases in each.T] for each in defined])

    def scores(self, counts: Counts) -> npt.NDArray[np.float64]:
        """R x patients weights -> R x MAPS x SCORES, NaN where not defined."""
        weight = counts[:, self._owner].astype(np.float64)
        result = np.empty((len(counts), len(MAPS), len(SCORES)))
        for k, name in enumerate(MAPS):
            values = self._values[name]
            defined = ~np.isnan(values)
            total = weight @ defined
            result[:, k, :-1] = np.divide(
                weight @ np.where(defined, values, 0), total, out=np.full(total.shape, np.nan), where=total > 0
            )
            result[:, k, -1] = self._rankings[name].average_precision(counts)
        return result


def score_groups(
    groups: Mapping[str, npt.NDArray[np.intp]],
    answers: Mapping[str, Sequence[CaseScores]],
    patients: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> list[GroupScores]:
    """Score groups of cases, with 95 % intervals over resampled patients, the same resamples for every group and map.

    Args:
        groups: Name -> positions of its cases; groups may overlap.
        answers: Map (each of MAPS) -> the scores of all n cases.
        patients: n names, "" where unknown; an unknown patient's case is resampled by itself.
        resamples: How many; 0 for no intervals.
        seed: Of the resamples.

    Returns:
        Groups that have cases, in order.
    """
    owner = patient_index(patients)
    number = count_patients(owner)
    kept = {name: np.asarray(chosen, np.intp) for name, chosen in groups.items() if len(chosen)}
    prepared = [_Group(answers, chosen, owner) for chosen in kept.values()]
    resampled = _resample(prepared, number, resamples if number > 1 else 0, seed)
    once = np.ones((1, number), np.int32)
    return [
        _group_scores(name, owner[chosen], group.carriers, group.scores(once)[0], resampled[:, k])
        for k, ((name, chosen), group) in enumerate(zip(kept.items(), prepared, strict=True))
    ]


def _resample(groups: Sequence[_Group], patients: int, resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """Resamples x groups x MAPS x SCORES."""
    result = np.empty((resamples, len(groups), len(MAPS), len(SCORES)))
    done = 0
    with tqdm(total=resamples, desc="bootstrap", unit="resample", delay=2, leave=False, disable=None) as bar:
        for counts in resample_patients(patients, resamples, seed):
            for k, group in enumerate(groups):
                result[done : done + len(counts), k] = group.scores(counts)
            done += len(counts)
            bar.update(len(counts))
    return result


def _group_scores(
    name: str,
    owner: npt.NDArray[np.intp],
    carriers: npt.NDArray[np.intp],
    values: npt.NDArray[np.float64],
    resampled: npt.NDArray[np.float64],
) -> GroupScores:
    model, prior = MAPS.index("model"), MAPS.index("prior")
    difference, differences = values[model] - values[prior], resampled[:, model] - resampled[:, prior]
    return GroupScores(
        name,
        len(owner),
        len(np.unique(owner)),
        {label: _scores(values[k], resampled[:, k], carriers[k]) for k, label in enumerate(MAPS)},
        _scores(difference, differences, carriers[[model, prior]].min(axis=0)),
    )


def _scores(
    values: npt.NDArray[np.float64], resampled: npt.NDArray[np.float64], carriers: npt.NDArray[np.intp]
) -> dict[str, Score]:
    return {
        key: Score(None, None)
        if np.isnan(values[k])
        else Score(float(values[k]), percentile_interval(resampled[:, k], int(carriers[k])))
        for k, key in enumerate(SCORES)
    }
