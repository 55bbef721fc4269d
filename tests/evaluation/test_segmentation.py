"""Dice, IoU and their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.evaluation.segmentation import (
    THRESHOLDS,
    best_threshold,
    count_pixels,
    image_scores,
    score_segmentation,
)


def drawn(seed: int, images: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = random.random((images, 5, 7)).astype(np.float32)
    # Some exactly on a threshold, some images without a mask.
    probabilities[random.random(probabilities.shape) < 0.3] = 0.5
    masks = (random.random(probabilities.shape) < 0.4) & (np.arange(images) % 3 > 0)[:, None, None]
    return probabilities, masks


@given(st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_counts_are_those_of_a_plain_comparison(seed):
    probabilities, masks = drawn(seed)
    counts = count_pixels(probabilities, masks)
    for column, threshold in enumerate(THRESHOLDS):
        predicted = probabilities >= threshold
        assert np.array_equal(counts.predicted[:, column], predicted.sum(axis=(1, 2)))
        assert np.array_equal(counts.overlap[:, column], (predicted & masks).sum(axis=(1, 2)))
    assert np.array_equal(counts.marked, masks.sum(axis=(1, 2)))


def test_scores_by_hand():
    mask = np.zeros((4, 1, 4), bool)
    mask[0, 0, :2] = mask[1, 0, :2] = True
    probability = np.zeros((4, 1, 4))
    probability[0, 0, 1:3] = probability[2, 0, 0] = 1.0
    cases = image_scores(count_pixels(probability, mask), 0.5)
    assert cases["predicted_pixels"].tolist() == [2, 0, 1, 0]
    assert cases["dice"].tolist() == [0.5, 0.0, 0.0, 1.0]  # half right; missed; false alarm; rightly empty
    assert cases["iou"].tolist() == pytest.approx([1 / 3, 0, 0, 1])
    table = score_segmentation(cases, ["a", "a", "b", "c"], resamples=200).set_index("score")
    expected = {"dice": 0.375, "iou": 1 / 3, "dice_on_positives": 0.25, "iou_on_positives": 1 / 6}
    expected |= {"empty_mask_accuracy": 0.5, "dice_balanced": 0.375}
    assert table["estimate"].map(float).to_dict() == pytest.approx(expected)
    assert table["images"].tolist() == [4, 4, 2, 2, 2, 4]
    # Patient a has all images with a mask: wherever it is drawn, their mean is the same.
    has = {name for name, found in table["estimate"].items() if found.has_interval}
    assert has == {"dice", "iou", "empty_mask_accuracy"}
    assert table["estimate"]["dice"].low < 0.375 < table["estimate"]["dice"].high


def test_the_threshold_is_where_the_mean_dice_is_highest():
    probabilities = np.full((3, 2, 2), 0.3)
    probabilities[:, 0] = 0.7
    masks = np.zeros((3, 2, 2), bool)
    masks[:, 0] = True
    threshold, dice = best_threshold(count_pixels(probabilities, masks))
    assert dice == 1.0
    assert threshold in (0.5, 0.55)  # the middle of 0.35 .. 0.7


def test_balanced_choice_does_not_prefer_predicting_nothing():
    """With one marked image in twenty, mean Dice rewards an empty prediction."""
    probabilities = np.full((20, 2, 2), 0.1)
    probabilities[:4, 0] = 0.4  # the marked image and three false alarms
    masks = np.zeros((20, 2, 2), bool)
    masks[0, 0] = True
    counts = count_pixels(probabilities, masks)
    assert best_threshold(counts)[0] > 0.4
    assert best_threshold(counts, "dice_balanced")[0] < 0.4


def test_scores_that_no_image_defines_are_left_out():
    counts = count_pixels(np.zeros((2, 3, 3)), np.zeros((2, 3, 3), bool))
    table = score_segmentation(image_scores(counts, 0.5), ["", ""])
    assert table["score"].tolist() == ["dice", "iou", "empty_mask_accuracy"]
    assert table["estimate"].map(float).tolist() == [1.0] * 3


@pytest.mark.parametrize("thresholds", [(0.5, 0.5), (0.5, 1.5), (-0.1, 0.5)])
def test_impossible_thresholds_are_refused(thresholds):
    with pytest.raises(ValueError, match="thresholds"):
        count_pixels(np.zeros((1, 2, 2)), np.zeros((1, 2, 2), bool), thresholds)
