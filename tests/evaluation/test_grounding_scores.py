"""Means over findings, precision of boxes, chance levels and intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.evaluation.grounding import THRESHOLDS, box_region
from medslip.evaluation.grounding_scores import (
    ABOVE_PRIOR,
    ALL,
    CASE_SCORES,
    MAPS,
    SCORES,
    BoxRanking,
    MapPair,
    Truth,
    choose_threshold,
    score_case,
    score_grounding,
)


def truth_of(*boxes: tuple[float, float, float, float], side: int = 32) -> Truth:
    return Truth(boxes, box_region(boxes, side, side))


def random_cases(seed: int, number: int, **columns) -> pd.DataFrame:
    rng = np.random.default_rng(seed)

    def case() -> dict:
        row = {"boxes": int(rng.integers(2, 5))}
        for name in MAPS:
            row |= {f"{name}_{score}": rng.random() for score in CASE_SCORES}
            if rng.random() < 0.3:
                row[f"{name}_contrast_to_noise"] = np.nan
            k = int(rng.integers(0, 3))
            row |= {f"{name}_box_confidences": rng.integers(1, 4, k) / 4, f"{name}_box_found": rng.random(k) < 0.5}
        return row

    table = pd.DataFrame([case() for _ in range(number)])
    return table.assign(**{"patient": "", "class": "mass", "larger_than_a_patch": True, **columns})


def of_map(table: pd.DataFrame, name: str = "model", of: str = ALL) -> pd.Series:
    return table[(table["class"] == of) & (table["map"] == name)].iloc[0]


def test_a_map_on_the_finding_scores_above_one_beside_it():
    """Scores would be in another order than their names."""
    truth = truth_of((8, 0, 8, 8))
    right, wrong = np.zeros((4, 4)), np.zeros((4, 4))
    right[0, 1] = wrong[3, 3] = 1
    good, bad = (score_case(MapPair(grid, grid), truth, 0.5, 0.3) for grid in (right, wrong))
    assert (good["pointing"], good["pointing_patch"]) == (1, 1)
    assert (bad["pointing"], bad["pointing_patch"], bad["iou"], bad["dice"]) == (0, 0, 0, 0)
    assert good["pixel_auroc"] > 0.95
    assert good["contrast_to_noise"] > 0 > bad["contrast_to_noise"]
    assert good["dice"] == pytest.approx(2 * good["iou"] / (1 + good["iou"]))


@given(st.integers(0, 50))
def test_the_curve_of_boxes_encloses_their_average_precision(seed):
    """The figure would show another curve than the one that is scored."""
    cases = random_cases(seed, 12)
    ranking = BoxRanking(cases, "model", np.arange(12))
    recall, precision = ranking.curve()
    assert (np.diff(recall) >= 0).all()
    assert recall[-1] == np.concatenate(cases["model_box_found"].tolist()).sum() / cases["boxes"].sum()
    area = (np.diff(recall, prepend=0) * precision).sum()
    assert area == pytest.approx(ranking.average_precision(np.ones((1, 12), np.int32))[0])


def test_uniform_map_scores_what_chance_does():
    """The chance level beside every score would be another."""
    truth = truth_of((8, 0, 8, 8), (0, 16, 4, 4))
    scored = score_case(MapPair(np.ones((1, 1)), np.ones((4, 4))), truth, 0.02, 0.3)
    share = truth.region.mean()
    expected = [share, 2 / 16, 0.5, 0, share, 2 * share / (1 + share)]
    assert [scored[key] for key in CASE_SCORES] == pytest.approx(expected)
    assert (scored["box_confidences"].tolist(), scored["box_found"].tolist()) == ([1], [False])


def test_larger_than_one_patch_goes_by_the_largest_box():
    """Findings would be reported in the wrong table."""
    assert truth_of((0, 0, 1, 1), (0, 0, 9, 8)).is_large(4)
    assert not truth_of((0, 0, 8, 8), (16, 16, 8, 8)).is_large(4)


def test_threshold_of_best_mean_iou():
    """The threshold would suit one finding, not all."""
    curves = np.zeros((2, len(THRESHOLDS)))
    curves[0, 3], curves[0, 5], curves[1, 5], curves[1, 7] = 0.9, 0.6, 0.5, 0.7
    assert choose_threshold(list(curves)) == THRESHOLDS[5]
    assert choose_threshold([np.ones(len(THRESHOLDS))]) == THRESHOLDS[0]
    with pytest.raises(ValueError, match="no case"):
        choose_threshold([])


def brute_average_precision(cases: pd.DataFrame, name: str) -> float:
    columns = cases[f"{name}_box_confidences"], cases[f"{name}_box_found"]
    boxes = [pair for row in zip(*columns, strict=True) for pair in zip(*row, strict=True)]
    gained = 0.0
    for confidence, found in boxes:
        if found:
            above = [f for c, f in boxes if c >= confidence]
            gained += sum(above) / len(above)
    return gained / cases["boxes"].sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_groups_against_sums_by_hand(seed, number):
    """Means or the precision of boxes would be wrong, under ties and without defined values too."""
    names = np.array(["mass", "nodule"])[np.arange(number) % 2]
    cases = random_cases(seed, number, patient="p", **{"class": names})
    table = score_grounding(cases)
    assert table["findings"].unique().tolist() == ["larger"]
    assert table["class"].unique().tolist() == [*sorted(set(names)), ALL]
    half = cases[names == "mass"]
    for name in MAPS:
        row = of_map(table, name, "mass")
        assert (row["cases"], row["patients"]) == (len(half), 1)
        for key in CASE_SCORES:
            assert row[key].value == pytest.approx(half[f"{name}_{key}"].mean(), nan_ok=True)
            assert not row[key].has_interval  # of one patient there is none
        assert row["box_precision"].value == pytest.approx(brute_average_precision(half, name))
    both = [of_map(table, name)["iou"].value for name in ("model", "prior")]
    assert of_map(table, ABOVE_PRIOR)["iou"].value == pytest.approx(both[0] - both[1])


def test_a_weight_is_a_repetition():
    """Intervals would rest on other scores than those of the resampled patients' findings."""
    cases = random_cases(5, 6)
    owner, counts = np.array([0, 0, 1, 2, 2, 3]), np.array([[2, 0, 3, 1]], np.int32)
    repeated = np.repeat(np.arange(6), counts[0, owner])
    for name in MAPS:
        weighted = BoxRanking(cases, name, owner).average_precision(counts)
        plain = BoxRanking(cases.iloc[repeated], name, np.zeros(len(repeated), int))
        assert np.allclose(weighted, plain.average_precision(np.ones((1, 1), np.int32)))


def test_intervals_hold_the_value_and_repeat():
    """Intervals would not be reproducible, or those of a difference not paired."""
    cases = random_cases(1, 60, patient=[f"p{index // 2}" for index in range(60)])
    for key in CASE_SCORES:
        cases[f"prior_{key}"] = cases[f"model_{key}"] - 0.25
    first, again = (score_grounding(cases, 200, 3) for _ in range(2))
    assert first["iou"].tolist() == again["iou"].tolist()
    for key in SCORES:
        found = of_map(first)[key]
        assert found.low <= found.value <= found.high
    difference = of_map(first, ABOVE_PRIOR)["iou"]
    assert (difference.low, difference.high) == pytest.approx((0.25, 0.25))


def test_a_score_that_rests_on_one_patient_has_no_interval():
    """A ratio that only one patient's findings have would look certain beside scores of two patients."""
    cases = random_cases(0, 4, patient=["a", "a", "b", "c"], **{"class": ["x", "x", "y", "y"]})
    for name in MAPS:
        cases[f"{name}_contrast_to_noise"] = [0.5, 0.5, np.nan, np.nan]
    table = score_grounding(cases, 30)
    for name in (*MAPS, ABOVE_PRIOR):
        assert {key for key in SCORES if not of_map(table, name)[key].has_interval} == {"contrast_to_noise"}
        assert not any(of_map(table, name, "x")[key].has_interval for key in SCORES)
