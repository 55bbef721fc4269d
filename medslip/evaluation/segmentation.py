"""Scores of a segmentation.

Per image, Dice 2 |A and B| / (|A| + |B|) and IoU |A and B| / |A or B| of the predicted and the marked pixels. If nothing is
marked and nothing predicted both are 1; if only one of them is empty both are 0. Scores are means over images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.evaluation.bootstrap import Floats, Resampled, patient_index, resample_means

THRESHOLDS: tuple[float, ...] = (0.005, 0.01, 0.02, *(step / 20 for step in range(1, 20)))
"""Thresholds that are tried, from 0.005 to 0.95: rare findings are learnt with low probabilities first."""

SCORES = ("dice", "iou", "dice_on_positives", "iou_on_positives", "empty_mask_accuracy", "dice_balanced")
"""Mean Dice and IoU over all images; over images with a mask; the share of the others that are predicted empty; and the mean of
that share and the Dice on positives, which weights a rare finding as much as its absence."""

Criterion = Literal["dice", "dice_balanced"]
"""The score that a threshold, or an epoch, is chosen by."""


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of n images at K thresholds, enough for every score.

    Attributes:
        marked: n, int64, pixels inside the mask.
        predicted: n x K, int64, pixels of at least the threshold.
        overlap: n x K, int64, pixels of both.
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
        ValueError: Shapes that do not fit; thresholds that do not ascend, or are outside 0..1.
    """
    if probabilities.shape != masks.shape or probabilities.ndim != 3:
        raise ValueError(f"probabilities {probabilities.shape} and masks {masks.shape}")
    steps = np.asarray(thresholds, np.float64)
    if (np.diff(steps) <= 0).any() or steps.min() < 0 or steps.max() > 1:
        raise ValueError("thresholds must ascend within 0..1")
    images, k = len(masks), len(steps)
    # How many thresholds a pixel reaches, 0..K; one histogram per image then serves every threshold.
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
    """The threshold at which validation images score best, and that score; of equally good ones the middle one.

    Args:
        counts: Of validation images.
        criterion: One of SCORES. The balanced one needs images with a mask and images without.
        thresholds: Those that were counted.
    """
    dice, marked = counts.dice, counts.marked > 0
    kinds = [np.ones_like(marked)] if criterion == "dice" else [marked, ~marked]
    mean = np.mean([dice[kind].mean(axis=0) for kind in kinds], axis=0)
    best = np.flatnonzero(mean == mean.max())
    return float(thresholds[best[len(best) // 2]]), float(mean.max())


def score_segmentation(
    cases: pd.DataFrame, patients: Sequence[str], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Score images, with 95 % intervals over resampled patients.

    Args:
        cases: One row per image, as ``image_scores`` gives them.
        patients: One name per image, "" where unknown; images of unknown patients are resampled one by one.
        resamples: Number of resamples; 0 for no intervals.
        seed: Random seed.

    Returns:
        One row per score of SCORES: ``score``, ``images`` (those that it is over) and ``estimate``. Scores that no image
        defines are left out.
    """
    values = score_columns(cases)
    found = with_balanced(resample_means(values.to_numpy(), patient_index(patients), resamples, seed))
    images = [*values.notna().sum(), len(values)]
    table = pd.DataFrame({"score": SCORES, "images": images, "estimate": found.estimates()})
    return table[table["estimate"].map(lambda each: not math.isnan(each.value))].reset_index(drop=True)


def image_scores(counts: PixelCounts, threshold: float, thresholds: Sequence[float] = THRESHOLDS) -> pd.DataFrame:
    """The pixels and scores of each image at a threshold that was chosen on other images.

    Args:
        counts: Of n images.
        threshold: One of those that were counted.
        thresholds: Those that were counted.

    Returns:
        n rows: ``marked_pixels``, ``predicted_pixels``, ``dice``, ``iou``.
    """
    k = list(thresholds).index(threshold)
    columns = {"marked_pixels": counts.marked, "predicted_pixels": counts.predicted[:, k]}
    return pd.DataFrame({**columns, "dice": counts.dice[:, k], "iou": counts.iou[:, k]})


def score_columns(cases: pd.DataFrame) -> pd.DataFrame:
    """The value that each image adds to each mean of SCORES but the last; NaN where it is left out.

    Args:
        cases: One row per image, with ``marked_pixels``, ``dice`` and ``iou``.
    """
    marked = cases["marked_pixels"] > 0
    return pd.DataFrame(
        {
            "dice": cases["dice"],
            "iou": cases["iou"],
            "dice_on_positives": cases["dice"].where(marked),
            "iou_on_positives": cases["iou"].where(marked),
            "empty_mask_accuracy": cases["dice"].where(~marked),
        }
    ).astype(np.float64)


def with_balanced(means: Resampled) -> Resampled:
    """The means of ``score_columns``, and the balanced Dice after them."""
    balanced = means[[SCORES.index("dice_on_positives"), SCORES.index("empty_mask_accuracy")]].mean()
    return Resampled(
        np.append(means.values, balanced.values),
        np.column_stack([means.drawn, balanced.drawn]),
        np.append(means.carriers, balanced.carriers),
    )


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> Floats:
    """Part / whole; 1 where the whole is 0, an empty mask that is predicted empty."""
    ratio: Floats = np.where(whole > 0, part / np.maximum(whole, 1), 1.0)
    return ratio
