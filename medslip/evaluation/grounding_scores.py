"""Scores of grounding over many findings: means, average precision of boxes, chance levels, and 95 % intervals.

A case is one finding on one image. Three maps are scored alike on each case: the model's, the uniform map, and the prior. All
scores but one are means over cases, without the cases in which a score is not defined. ``box_precision`` is the average
precision of the predicted boxes of all cases, ranked by confidence: the mean over true boxes of the precision down to the
confidence at which each is found, 0 for a box that is never found; equal confidences count together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.evaluation.bootstrap import (
    Counts,
    Floats,
    count_patients,
    divide,
    patient_index,
    patient_sums,
    resample,
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
"""Scores of a single case."""

SCORES = (*CASE_SCORES, "box_precision")

MAPS = ("model", "uniform", "prior")

ABOVE_PRIOR = "model - prior"
"""The difference between the model's map and the prior, beside MAPS in tables."""

SIZES = ("larger", "smaller")
"""Findings whose largest box has more area than one patch, and the others."""

ALL = "all findings"
"""The group of all classes."""


@dataclass(frozen=True)
class Truth:
    """Where the finding of a case is.

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
    """A map of one case.

    Attributes:
        grid: Any number of cells, to be upsampled to the image.
        patches: The map at the model's patches, for the published pointing rule.
        centre: The point of a cell that the grid's value stands for; see ``heat_map``.
    """

    grid: Floats
    patches: Floats
    centre: float = 0.5

    def heat_map(self, height: int, width: int) -> Floats:
        """The map on height x width pixels, 0..1."""
        return heat_map(self.grid, height, width, self.centre)


def score_case(found: MapPair, truth: Truth, threshold: float, box_iou: float) -> dict[str, Any]:
    """Score one map on one case.

    Args:
        found: The map.
        truth: Where the finding is.
        threshold: Of the map, 0..1, for IoU, Dice and boxes.
        box_iou: The IoU at which a predicted box finds a true one.

    Returns:
        CASE_SCORES, NaN where not defined; ``box_confidences``, of the k predicted boxes; ``box_found``, k, whether each finds
        a true box.
    """
    height, width = truth.region.shape
    heat = found.heat_map(height, width)
    inside = box_region(truth.boxes, height, width)
    iou, dice = overlap(heat, truth.region, np.array([threshold]))
    boxes, confidences = predicted_boxes(heat, threshold)
    return {
        "pointing": pointing(heat, inside),
        "pointing_patch": pointing_patch(found.patches, inside),
        "pixel_auroc": pixel_auroc(heat, truth.region),
        "contrast_to_noise": contrast_to_noise(heat, truth.region),
        "iou": iou[0],
        "dice": dice[0],
        "box_confidences": confidences,
        "box_found": match_boxes(boxes, confidences, truth.boxes, box_iou),
    }


def choose_threshold(curves: Sequence[npt.NDArray[np.float64]]) -> float:
    """The threshold with the highest mean IoU; of equally good ones the lowest.

    Args:
        curves: For each case, the IoU at each of THRESHOLDS.

    Raises:
        ValueError: No cases.
    """
    if not len(curves):
        raise ValueError("no case to choose a threshold on")
    return float(THRESHOLDS[int(np.mean(curves, axis=0).argmax())])


def size_groups(cases: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """(size, class) -> which cases, every class and then ALL; without groups that have no case."""
    larger, names = cases["larger_than_a_patch"].astype(bool), cases["class"]
    groups = {
        (size, name): of_size & ((names == name) | (name == ALL))
        for size, of_size in zip(SIZES, (larger, ~larger), strict=True)
        for name in [*sorted(set(names)), ALL]
    }
    return {key: inside for key, inside in groups.items() if inside.any()}


def group_scores(
    cases: pd.DataFrame, groups: Mapping[tuple[str, str], pd.Series], maps: Sequence[str] = MAPS
) -> pd.DataFrame:
    """The scores of each case, columns (size, class, map, score); NaN where the case is not in the group.

    Args:
        cases: As for ``score_grounding``.
        groups: From ``size_groups``.
        maps: Of MAPS.
    """
    return pd.DataFrame(
        {
            (*group, name, score): cases[f"{name}_{score}"].where(inside)
            for group, inside in groups.items()
            for name in maps
            for score in CASE_SCORES
        }
    )


def score_grounding(cases: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Score all cases, by size and class, with 95 % intervals over resampled patients.

    Args:
        cases: One row per case: ``patient`` ("" where unknown; such a case is resampled by itself), ``class``,
            ``larger_than_a_patch`` (bool), ``boxes`` (number of true boxes), and of each map what ``score_case`` returned, such
            as ``model_pointing``.
        resamples: Number of resamples; 0 for no intervals.
        seed: Random seed.

    Returns:
        One row per size, class and map: ``findings`` (of SIZES), ``class`` (the last is ALL), ``map`` (MAPS, then ABOVE_PRIOR),
        ``cases``, ``patients`` and SCORES (Estimate). Sizes and classes without a case are left out.
    """
    owner = patient_index(cases["patient"].tolist())
    groups = size_groups(cases)
    patients = [len(np.unique(owner[inside])) for inside in groups.values()]
    sums, weights = patient_sums(group_scores(cases, groups).to_numpy(), owner)
    rankings = [BoxRanking(cases[inside], name, owner[inside]) for inside in groups.values() for name in MAPS]

    def with_boxes(means: npt.NDArray[Any], boxes: npt.ArrayLike) -> npt.NDArray[Any]:
        """(groups, maps, SCORES) from the scores of cases, and those of boxes."""
        shape = (*means.shape[:-1], len(groups), len(MAPS), -1)
        return np.concatenate([means.reshape(shape), np.reshape(boxes, shape)], axis=-1)

    def score(counts: Counts) -> Floats:
        boxes = np.stack([ranking.average_precision(counts) for ranking in rankings], axis=1)
        return with_boxes(divide(counts @ sums, counts @ weights), boxes)

    carriers = with_boxes(np.count_nonzero(weights, axis=0), np.repeat(patients, len(MAPS)))
    found = resample(score, carriers, count_patients(owner), resamples, seed)
    model, prior = MAPS.index("model"), MAPS.index("prior")
    rows = []
    for g, ((size, name), inside) in enumerate(groups.items()):
        about = {"findings": size, "class": name}
        counts = {"cases": int(inside.sum()), "patients": patients[g]}
        of_map = {each: found[g, m] for m, each in enumerate(MAPS)} | {ABOVE_PRIOR: found[g, model] - found[g, prior]}
        for each, scores in of_map.items():
            rows.append({**about, "map": each, **counts, **dict(zip(SCORES, scores.estimates(), strict=True))})
    return pd.DataFrame(rows)


class BoxRanking:
    """The predicted boxes of some cases, from the most confident down, ready to be scored under any weights.

    Args:
        cases: One row per case, with ``boxes``.
        name: Of the map: its ``box_confidences`` and ``box_found`` are read.
        owner: The patient number of each case.
    """

    def __init__(self, cases: pd.DataFrame, name: str, owner: npt.NDArray[np.intp]) -> None:
        confidence = np.concatenate([np.empty(0), *cases[f"{name}_box_confidences"]])
        found = np.concatenate([np.empty(0, bool), *cases[f"{name}_box_found"]]).astype(bool)
        of_box = np.repeat(owner, cases[f"{name}_box_found"].map(len))
        order = np.argsort(-confidence, kind="stable")
        self._found, self._owner = found[order], of_box[order]
        falling = -confidence[order]
        self._last = np.searchsorted(falling, falling, side="right") - 1  # the last of those equally confident
        self._boxes, self._case_owner = cases["boxes"].to_numpy(), owner

    def curve(self) -> tuple[Floats, Floats]:
        """Recall and precision down to each confidence that a box was predicted with, the highest first."""
        last = np.unique(self._last)
        true = self._found.cumsum()[last].astype(np.float64)
        return true / self._boxes.sum(), true / (last + 1)

    def average_precision(self, counts: Counts) -> Floats:
        """R x patients weights -> R; NaN where no true box has weight."""
        weight = counts[:, self._owner].astype(np.float64)
        found = weight * self._found
        true, everything = found.cumsum(axis=1)[:, self._last], weight.cumsum(axis=1)[:, self._last]
        total = (counts[:, self._case_owner] * self._boxes).sum(axis=1, dtype=np.float64)
        return divide((found * true / np.maximum(everything, 1)).sum(axis=1), total)
