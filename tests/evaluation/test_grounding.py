"""Scores of one heat map: against closed forms, brute force, and other libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score, roc_auc_score

from medslip.evaluation.grounding import (
    THRESHOLDS,
    anatomy_grids,
    attention_grids,
    box_iou,
    box_region,
    contrast_to_noise,
    heat_map,
    interleave,
    match_boxes,
    mean_box_grid,
    overlap,
    pixel_auroc,
    pointing,
    pointing_patch,
    predicted_boxes,
)

SEEDS = st.integers(0, 2**32 - 1)


def noise(seed: int, height: int = 12, width: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """A map with ties, and a region that is neither empty nor everything."""
    rng = np.random.default_rng(seed)
    heat = rng.integers(0, 6, (height, width)) / 5
    region = rng.random((height, width)) < 0.3
    region[0, 0], region[-1, -1] = True, False
    return heat, region


def test_attention_is_averaged_over_the_chosen_layers_and_heads():
    """Another layer's or head's attention would get into the map, or patches would change places."""
    maps = np.random.default_rng(0).random((2, 3, 4, 5, 16))
    assert np.allclose(attention_grids(maps)[1, 2, 3, 1], maps[1, :, :, 2, 13].mean())
    chosen = attention_grids(maps, [2], [0, 3])
    assert chosen.shape == (2, 5, 4, 4)
    assert np.allclose(chosen[0, 4].ravel(), (maps[0, 2, 0, 4] + maps[0, 2, 3, 4]) / 2)
    assert np.allclose(attention_grids(maps, [0, 2])[0, 4].ravel(), maps[0, [0, 2], :, 4].mean(axis=(0, 1)))
    with pytest.raises(ValueError, match="15 patches"):
        attention_grids(maps[..., :15])


def test_anatomy_maps_follow_the_anatomies_that_are_paired():
    """The product would take the map of an anatomy that the model does not pair with the finding."""
    rng = np.random.default_rng(0)
    anatomies, logits = rng.random((2, 3, 4, 4)), rng.normal(size=(2, 3, 5))
    weight = 1 / (1 + np.exp(-logits))
    expected = sum(weight[1, a, 2] * anatomies[1, a] for a in range(3)) / weight[1, :, 2].sum()
    assert np.allclose(anatomy_grids(anatomies, logits)[1, 2], expected)
    logits[:, 1] += 2000  # a logit that overflows when it is taken to the power
    logits[:, [0, 2]] -= 2000
    assert np.allclose(anatomy_grids(anatomies, logits), anatomies[:, 1, None])


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 7), st.integers(1, 40), st.integers(1, 40))
def test_upsampling_is_the_usual_bilinear_one(seed, cells, height, width):
    """The map would be shifted by a part of a patch."""
    grid = np.random.default_rng(seed).random((cells, cells)) + 1e-3
    mode = {"size": (height, width), "mode": "bilinear", "align_corners": False}
    expected = torch.nn.functional.interpolate(torch.from_numpy(grid)[None, None], **mode)[0, 0].numpy()
    heat = heat_map(grid, height, width)
    assert np.allclose(heat, expected / expected.max())
    assert heat.max() == 1
    assert np.allclose(heat, heat_map(grid * 1e-4, height, width))  # nothing but the map itself scales it


def test_what_is_not_a_map_is_refused():
    """It would be divided by 0, or all its scores, or the prior of a class without boxes, would be NaN."""
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="heat map"):
            heat_map(np.full((2, 2), wrong), 4, 4)
    with pytest.raises(ValueError, match="no boxes"):
        mean_box_grid(np.empty((0, 4)), 2)


def test_boxes_cover_the_pixels_whose_centres_they_hold():
    """A box would be a pixel off, or wrap around, or vanish."""
    assert np.argwhere(box_region([(1, 2, 2, 1)], 4, 5)).tolist() == [[2, 1], [2, 2]]
    assert np.argwhere(box_region([(0.6, 0.4, 1.0, 1.0)], 4, 5)).tolist() == [[0, 1]]
    assert np.argwhere(box_region([(3.7, 3.6, 0.2, 0.3)], 4, 5)).tolist() == [[3, 3]]
    assert box_region([(4.9, 3.9, 0.2, 0.2)], 4, 5).sum() == 1
    assert box_region([(0, 0, 5, 4)], 4, 5).all()
    assert box_region([(-0.4, -0.4, 1, 1), (4.4, 3.4, 1, 1)], 4, 5).sum() == 2


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_mean_of_boxes_is_their_mean_coverage(seed, side):
    """The prior would be drawn in the wrong place or at the wrong scale: against boxes drawn pixel by pixel."""
    rng = np.random.default_rng(seed)
    height, width = 4 * side, 3 * side
    first = rng.integers(0, (width, height), (5, 2))
    boxes = np.hstack([first, rng.integers(1, (width, height) - first + 1)])
    drawn = np.mean([box_region([tuple(box)], height, width) for box in boxes], axis=0)
    expected = drawn.reshape(side, 4, side, 3).mean(axis=(1, 3))
    assert np.allclose(mean_box_grid(boxes / [width, height, width, height], side), expected)


def test_pointing_game_of_maps_that_are_known():
    """A hit would be counted as a miss, or a tie in the map's favour."""
    region = box_region([(0, 0, 4, 2)], 8, 8)
    peak = np.zeros((8, 8))
    peak[1, 3] = 1
    assert pointing(peak, region) == 1
    assert pointing(peak.T, region) == 0
    peak[7, 7] = 1
    assert pointing(peak, region) == 0.5
    assert pointing(heat_map(np.ones((1, 1)), 8, 8), region) == region.mean() == 8 / 64


def test_published_rule_counts_any_pixel_of_the_maximal_patch():
    """A box that the patch only grazes is a hit there, and only there."""
    grid = np.zeros((2, 2))
    grid[0, 1] = 1
    grazing = box_region([(3, 3, 2, 3)], 8, 8)
    assert pointing_patch(grid, grazing) == 1
    assert pointing(heat_map(grid, 8, 8), grazing) == 0
    assert pointing_patch(np.ones((2, 2)), box_region([(0, 0, 4, 1)], 8, 8)) == 0.25


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 9))
def test_patches_that_touch_a_region_are_found_one_by_one(seed, side):
    """Patches would be cut wrongly where they do not divide the image evenly."""
    _, region = noise(seed)
    height, width = region.shape
    rows, columns = (np.floor((np.arange(n) + 0.5) * side / n) for n in (height, width))
    hits = [region[np.ix_(rows == i, columns == j)].any() for i in range(side) for j in range(side)]
    assert pointing_patch(np.ones((side, side)), region) == pytest.approx(np.mean(hits))


@settings(max_examples=50, deadline=None)
@given(SEEDS)
def test_pixel_scores_against_others_arithmetic(seed):
    """AUROC and contrast would be wrong, under ties above all."""
    heat, region = noise(seed)
    inside, outside = heat[region], heat[~region]
    assert pixel_auroc(heat, region) == pytest.approx(roc_auc_score(region.ravel(), heat.ravel()))
    noise_level = np.sqrt(np.var(inside) + np.var(outside))
    if noise_level > 1e-3:
        assert contrast_to_noise(heat, region) == pytest.approx((inside.mean() - outside.mean()) / noise_level)
        assert contrast_to_noise(1 - heat, region) == pytest.approx(-contrast_to_noise(heat, region))


def test_chance_and_degenerate_cases():
    """A map without contrast, or a region that is everything, would be given a score by accident."""
    _, region = noise(0)
    flat, perfect = np.ones(region.shape), region.astype(float)
    assert pixel_auroc(flat, region) == 0.5
    assert contrast_to_noise(flat, region) == 0
    assert pixel_auroc(perfect, region) == 1
    assert np.isnan(contrast_to_noise(perfect, region))
    for nothing in (np.ones_like(region), np.zeros_like(region)):
        assert np.isnan(pixel_auroc(flat, nothing))
        assert np.isnan(contrast_to_noise(flat, nothing))


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_overlap_at_every_threshold_is_that_of_the_thresholded_map(seed):
    """IoU or Dice would belong to another threshold."""
    heat, region = noise(seed)
    thresholds = np.array([0.0, 0.2, 0.4, 0.5, 0.99, 1.0])
    iou, dice = overlap(heat, region, thresholds)
    for k, threshold in enumerate(thresholds):
        expected = jaccard_score(region.ravel(), (heat >= threshold).ravel())
        assert iou[k] == pytest.approx(expected)
        assert dice[k] == pytest.approx(2 * expected / (1 + expected))
    assert iou[0] == region.mean()  # a uniform map's, at any threshold
    assert (np.diff(THRESHOLDS) > 0).all()


def test_predicted_boxes_surround_the_parts_and_hold_their_share():
    """Parts that touch at a corner alone are two; confidence is comparable between images."""
    heat = np.zeros((6, 7))
    heat[0:2, 0:3] = 0.5
    heat[2, 3] = 1.0
    heat[5, 5:7] = 0.2  # below the threshold
    boxes, confidence = predicted_boxes(heat, 0.5)
    assert boxes.tolist() == [[0, 0, 3, 2], [3, 2, 1, 1]]
    assert np.allclose(confidence, [3 / 4.4, 1 / 4.4])
    boxes, confidence = predicted_boxes(np.ones((6, 7)), 0.9)
    assert boxes.tolist() == [[0, 0, 7, 6]]
    assert confidence.tolist() == [1]


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_box_iou_is_that_of_the_pixels(seed):
    """Boxes would match or miss wrongly: against boxes drawn pixel by pixel."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 12, (6, 2))
    boxes = np.hstack([first, rng.integers(1, 16 - first + 1)])
    drawn = [box_region([tuple(box)], 16, 16) for box in boxes]
    expected = [[(a & b).sum() / (a | b).sum() for b in drawn[3:]] for a in drawn[:3]]
    assert np.allclose(box_iou(boxes[:3], boxes[3:]), expected)


def test_a_true_box_is_found_once_and_by_the_most_confident():
    """Two boxes on one finding would count as two findings."""
    truth = [(0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 10.0, 10.0)]
    boxes = np.array([[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 10, 4], [20, 0, 10, 3]], float)
    assert match_boxes(boxes, np.array([0.2, 0.5, 0.2, 0.1]), truth, 0.4).tolist() == [False, True, True, False]
    assert match_boxes(boxes, np.array([0.6, 0.5, 0.2, 0.3]), truth, 0.3).tolist() == [True, False, False, True]
    assert match_boxes(np.empty((0, 4)), np.empty(0), truth, 0.3).tolist() == []


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([1, 2, 4]), st.integers(0, 2**16), st.floats(0, 0.5))
def test_maps_of_shifted_copies_are_averaged_where_they_lie(k, seed, centre):
    """A map shifted to a wrong place would make finer maps worse than coarse ones."""
    grids = np.random.default_rng(seed).random((k * k, 5, 5))
    fine, at = interleave(list(grids), centre)
    assert fine.shape == (5 * k, 5 * k)
    cells = np.arange(5 * k)

    def value(grid, start, axis):  # a single map at the fine map's points, by numpy
        position = (cells + at) / k - start - centre
        return np.apply_along_axis(lambda line: np.interp(position, np.arange(5), line), axis, grid)

    starts = [(index - (k - 1) / 2) / k for index in range(k)]
    expected = np.mean(
        [value(value(grids[k * i + j], starts[i], 0), starts[j], 1) for i in range(k) for j in range(k)], axis=0
    )
    assert np.allclose(fine, expected)  # up to the border: each map goes on level beyond its own outermost points


def test_a_heat_map_peaks_at_the_point_that_its_cell_stands_for():
    grid = np.zeros((4, 4))
    grid[2, 1] = 1
    for centre, peak in ((0.5, (20, 12)), (0.0, (16, 8))):
        row, column = np.argwhere(heat_map(grid, 32, 32, centre) == 1).mean(axis=0) + 0.5
        assert (row, column) == pytest.approx(peak, abs=0.6)
