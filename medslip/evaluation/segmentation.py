"""Scores of a segmentation: arrays in, numbers out.

Per image, Dice 2 |A and B| / (|A| + |B|) and IoU |A and B| / |A or B| of the predicted and the marked pixels. Where nothing
is marked and nothing predicted, both are 1; where only one of them is empty, both are 0. Means are over images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

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

THRESHOLDS: tuple[float, ...] = (0.005, 0.01, 0.02, *(step / 20 for step in range(1, 20)))
"""Thresholds that are tried, up to 0.95: low ones too, as rare marks are learnt with low probabilities first."""

SCORES = ("dice", "iou", "dice_marked", "iou_marked", "empty_right", "dice_balanced")
"""Mean Dice and IoU over all images; over those with something marked; share of the others predicted empty; and the mean of
that share and of the marked ones' Dice, in which rare findings weigh as much as their absence."""

Criterion = Literal["dice", "dice_balanced"]
"""What a threshold, or an epoch, is chosen by."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of n images at K thresholds; all that the scores need.

    Attributes:
        marked: n, int64, pixels inside the mask.
        predicted: n x K, int64, pixels of at least the threshold.
        overlap: n x K, int64, those of both.
    """

    marked: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    overlap: npt.NDArray[np.int64]

    @property
    def dice(self) -> Floats:
        """N x K."""
        return _ratio(2 * self.overlap, self.predicted + self.marked[:, None])

    @property
    def iou(self) -> Floats:
        """N x K."""
        return _ratio(self.overlap, self.predicted + self.marked[:, None] - self.overlap)


@dataclass(frozen=True)
class SegmentationScores:
    """The scores of n images at one threshold.

    Attributes:
        images: n.
        patients: How many patients; an image of an unknown patient counts as one.
        marked: How many images have something marked.
        threshold: A pixel of at least this probability is predicted.
        values: Score (of SCORES) -> its value; without those that no image defines.
        intervals: Score -> its 95 % interval over resampled patients; without those that fewer than two patients carry.
        resamples: How many.
        seed: Of the resamples.
        dice: n, of each image.
        iou: n, of each image.
    """

    images: int
    patients: int
    marked: int
    threshold: float
    values: Mapping[str, float]
    intervals: Mapping[str, Interval]
    resamples: int
    seed: int
    dice: Floats = field(repr=False)
    iou: Floats = field(repr=False)


def count_pixels(
    probabilities: npt.NDArray[np.floating],
    masks: npt.NDArray[np.bool_],
    thresholds: Sequence[float] = THRESHOLDS,
) -> PixelCounts:
    """Count the pixels of each image at each threshold.

    Args:
        probabilities: n x H x W, 0..1.
        masks: n x H x W.
        thresholds: K of them, 0..1, ascending.

    Raises:
        ValueError: Shapes that do not fit, thresholds that do not ascend or are outside 0..1.
    """
    if probabilities.shape != masks.shape or probabilities.ndim != 3:
        raise ValueError(f"probabilities {probabilities.shape} and masks {masks.shape}")
    steps = np.asarray(thresholds, np.float64)
    if (np.diff(steps) <= 0).any() or steps.min() < 0 or steps.max() > 1:
        raise ValueError("thresholds must ascend within 0..1")
    images, k = len(masks), len(steps)
    # How many thresholds a pixel reaches, 0..K; one histogram an image then serves every threshold.
    reached = np.searchsorted(steps, probabilities.reshape(images, -1), side="right")
    cell = reached + (k + 1) * np.arange(images)[:, None]
    inside = masks.reshape(images, -1)
    total, hit = (np.bincount(cells.ravel(), minlength=images * (k + 1)) for cells in (cell, cell[inside]))
    predicted, overlap = (
        histogram.reshape(images, k + 1)[:, :0:-1].cumsum(axis=1)[:, ::-1] for histogram in (total, hit)
    )
    return PixelCounts(inside.sum(axis=1), predicted.astype(np.int64), overlap.astype(np.int64))


def best_threshold(
    counts: PixelCounts, criterion: Criterion = "dice", thresholds: Sequence[float] = THRESHOLDS
) -> tuple[float, float]:
    """The threshold at which validation images score best, and that score; of equally good ones the middle.

    Args:
        counts: Of validation images.
        criterion: One of SCORES. The balanced one needs images with and without something marked.
        thresholds: Those that were counted.
    """
    dice, marked = counts.dice, counts.marked > 0
    kinds = [np.ones_like(marked)] if criterion == "dice" else [marked, ~marked]
    mean = np.mean([dice[kind].mean(axis=0) for kind in kinds], axis=0)
    best = np.flatnonzero(mean == mean.max())
    return float(thresholds[best[len(best) // 2]]), float(mean.max())


def score_segmentation(
    counts: PixelCounts,
    threshold: float,
    patients: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
    thresholds: Sequence[float] = THRESHOLDS,
) -> SegmentationScores:
    """Score images at a threshold that was chosen on others.

    Args:
        counts: Of n images.
        threshold: One of those that were counted.
        patients: n names, "" where unknown; unknown patients' images are resampled one by one.
        resamples: Bootstrap resamples of patients; 0 for no intervals.
        seed: Of the resamples.
        thresholds: Those that were counted.

    Raises:
        ValueError: Patients of another number than the images, or a threshold that was not counted.
    """
    if len(patients) != len(counts.marked):
        raise ValueError(f"{len(patients)} patients for {len(counts.marked)} images")
    column = list(thresholds).index(threshold)
    dice, iou = counts.dice[:, column], counts.iou[:, column]
    marked = counts.marked > 0
    owner = patient_index(patients)
    number = count_patients(owner)
    resamples = resamples if number > 1 else 0
    # Each score is a mean of a value over the images that it counts: sums by patient, then weights.
    parts = {
        "dice": (dice, np.ones_like(marked)),
        "iou": (iou, np.ones_like(marked)),
        "dice_marked": (dice, marked),
        "iou_marked": (iou, marked),
        "empty_right": (dice, ~marked),
    }
    sums = [np.bincount(owner, value * counted, minlength=number) for value, counted in parts.values()]
    weights = [np.bincount(owner, counted, minlength=number) for _, counted in parts.values()]
    totals = np.stack([*sums, *weights], axis=1).astype(np.float64)
    drawn = np.concatenate([totals.sum(axis=0, keepdims=True), resampled_sums(totals, resamples, seed)])
    summed, weight = np.split(drawn, 2, axis=1)
    mean = np.divide(summed, weight, out=np.full(summed.shape, np.nan), where=weight > 0)
    means = dict(zip(parts, mean.T, strict=True))
    means["dice_balanced"] = (means["dice_marked"] + means["empty_right"]) / 2
    carriers = dict(zip(parts, count_carriers(np.stack(weights, axis=1)).tolist(), strict=True))
    carriers["dice_balanced"] = min(carriers["dice_marked"], carriers["empty_right"])
    defined = {name: mean for name in SCORES if not np.isnan((mean := means[name])[0])}
    return SegmentationScores(
        images=len(marked),
        patients=number,
        marked=int(marked.sum()),
        threshold=threshold,
        values={name: float(mean[0]) for name, mean in defined.items()},
        intervals=named_intervals(
            np.stack([means[name][1:] for name in SCORES], axis=1), SCORES, [carriers[name] for name in SCORES]
        ),
        resamples=resamples,
        seed=seed,
        dice=dice,
        iou=iou,
    )


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Floats:
    """Part / whole, 1 where there is no whole: an empty mask predicted empty."""
    ratio: Floats = np.where(whole > 0, part / np.maximum(whole, 1), 1.0)
    return ratio
