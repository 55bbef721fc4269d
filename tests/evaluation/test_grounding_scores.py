"""Means over findings, precision of boxes, chance levels and intervals."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.evaluation.grounding import THRESHOLDS, box_region
from medslip.evaluation.grounding_report import (
    chance_table,
    class_table,
    write_case_scores,
    write_grounding_metrics,
)
from medslip.evaluation.grounding_scores import (
    CASE_SCORES,
    MAPS,
    SCORES,
    CaseScores,
    MapPair,
    Truth,
    _Group,
    _Ranking,
    choose_threshold,
    precision_recall,
    score_case,
    score_groups,
)


def truth_of(*boxes: tuple[float, float, float, float], side: int = 32) -> Truth:
    return Truth(boxes, box_region(boxes, side, side))


def random_cases(seed: int, number: int) -> dict[str, list[CaseScores]]:
    rng = np.random.default_rng(seed)

    def case() -> CaseScores:
        values = rng.random(len(CASE_SCORES))
        values[3] = np.nan if rng.random() < 0.3 else values[3]
        k = int(rng.integers(0, 4))
        return CaseScores(values, rng.integers(1, 4, k) / 4, rng.random(k) < 0.5, int(rng.integers(2, 5)))

    return {name: [case() for _ in range(number)] for name in MAPS}


def test_a_map_on_the_finding_scores_above_one_beside_it():
    """Scores would be in another order than their names."""
    truth = truth_of((8, 0, 8, 8))
    right, wrong = np.zeros((4, 4)), np.zeros((4, 4))
    right[0, 1] = wrong[3, 3] = 1
    good, bad = (
        dict(zip(CASE_SCORES, score_case(MapPair(grid, grid), truth, 0.5, 0.3).values, strict=True))
        for grid in (right, wrong)
    )
    assert (good["pointing"], good["pointing_patch"]) == (1, 1)
    assert (bad["pointing"], bad["pointing_patch"], bad["iou"], bad["dice"]) == (0, 0, 0, 0)
    assert good["pixel_auroc"] > 0.95
    assert good["contrast_to_noise"] > 0 > bad["contrast_to_noise"]
    assert good["dice"] == pytest.approx(2 * good["iou"] / (1 + good["iou"]))


@given(st.integers(0, 50))
def test_the_curve_of_boxes_encloses_their_average_precision(seed):
    """The figure would show another curve than the one that is scored."""
    cases = random_cases(seed, 12)["model"]
    recall, precision = precision_recall(cases)
    assert (np.diff(recall) >= 0).all()
    assert recall[-1] == sum(case.found.sum() for case in cases) / sum(case.boxes for case in cases)
    area = (np.diff(recall, prepend=0) * precision).sum()
    everyone = np.ones((1, len(cases)), np.int32)
    ranked = _Ranking(cases, np.arange(len(cases))).average_precision(everyone)
    assert area == pytest.approx(ranked[0])


def test_uniform_map_scores_what_chance_does():
    """The chance level beside every score would be another."""
    truth = truth_of((8, 0, 8, 8), (0, 16, 4, 4))
    scored = score_case(MapPair(np.ones((1, 1)), np.ones((4, 4))), truth, 0.02, 0.3)
    share = truth.region.mean()
    expected = [share, 2 / 16, 0.5, 0, share, 2 * share / (1 + share)]
    assert np.allclose(scored.values, expected)
    assert (scored.confidences.tolist(), scored.found.tolist(), scored.boxes) == ([1], [False], 2)


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


def brute_average_precision(cases: list[CaseScores]) -> float:
    boxes = [(c, f) for case in cases for c, f in zip(case.confidences, case.found, strict=True)]
    total = sum(case.boxes for case in cases)
    gained = 0.0
    for confidence, found in boxes:
        if found:
            above = [f for c, f in boxes if c >= confidence]
            gained += sum(above) / len(above)
    return gained / total


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_groups_against_sums_by_hand(seed, number):
    """Means or the precision of boxes would be wrong, under ties and without defined values too."""
    answers = random_cases(seed, number)
    chosen = np.arange(0, number, 2)
    whole, half, *rest = score_groups(
        {"whole": np.arange(number), "half": chosen, "none": np.array([], int)}, answers, ["p"] * number
    )
    assert not rest
    assert (whole.findings, half.findings, half.patients) == (number, len(chosen), 1)
    for name in MAPS:
        cases = [answers[name][index] for index in chosen]
        values = np.stack([case.values for case in cases])
        for k, key in enumerate(CASE_SCORES):
            defined = values[~np.isnan(values[:, k]), k]
            expected = pytest.approx(defined.mean()) if len(defined) else None
            assert half.scores[name][key].value == expected
            assert half.scores[name][key].interval is None  # of one patient there is none
        assert half.scores[name]["box_precision"].value == pytest.approx(brute_average_precision(cases))
    both = (half.scores["model"]["iou"].value, half.scores["prior"]["iou"].value)
    assert half.above_prior["iou"].value == pytest.approx(both[0] - both[1])


def test_a_weight_is_a_repetition():
    """Intervals would rest on other scores than those of the resampled patients' findings."""
    answers = random_cases(5, 6)
    owner, counts = np.array([0, 0, 1, 2, 2, 3]), np.array([[2, 0, 3, 1]], np.int32)
    repeated = np.repeat(np.arange(6), counts[0, owner])
    again = {name: [answers[name][index] for index in repeated] for name in MAPS}
    weighted = _Group(answers, np.arange(6), owner).scores(counts)
    once = np.ones((1, 1), np.int32)
    plain = _Group(again, np.arange(len(repeated)), np.zeros(len(repeated), int)).scores(once)
    assert np.allclose(weighted, plain, equal_nan=True)


def test_intervals_hold_the_value_and_repeat():
    """Intervals would not be reproducible, or those of a difference not paired."""
    answers = random_cases(1, 60)
    answers["prior"] = [CaseScores(c.values - 0.25, c.confidences, c.found, c.boxes) for c in answers["model"]]
    patients = [f"p{index // 2}" for index in range(60)]
    first, again = (score_groups({"all": np.arange(60)}, answers, patients, 200, 3)[0] for _ in range(2))
    assert first == again
    for key in SCORES:
        score = first.scores["model"][key]
        assert score.interval.low <= score.value <= score.interval.high
    difference = first.above_prior["iou"].interval
    assert difference.low == pytest.approx(0.25)
    assert difference.high == pytest.approx(0.25)


def test_files_and_tables(tmp_path):
    """A reader of the run folder would miss a chance level, or find NaN in the JSON."""
    answers = random_cases(2, 8)
    for name in MAPS:
        for case in answers[name]:
            case.values[3] = np.nan
    groups = score_groups(
        {"mass": np.arange(5), "all findings": np.arange(8)}, answers, [str(index) for index in range(8)], 50
    )
    write_grounding_metrics(tmp_path, {"name": "phantoms"}, {"larger": groups, "smaller": []}, 50, 0)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["format"], metrics["version"], metrics["task"]) == ("medslip-metrics", 3, "grounding")
    entry = metrics["larger"][1]
    assert (entry["name"], entry["findings"], metrics["smaller"]) == ("all findings", 8, [])
    assert entry["scores"]["prior"]["contrast_to_noise"]["value"] is None
    assert set(entry["scores"]["uniform"]["pointing"]["interval"]) == {"low", "high", "resamples", "left_out"}

    write_case_scores(tmp_path, {"image": list("abcdefgh")}, answers)
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table["uniform_iou"][2] == pytest.approx(answers["uniform"][2].values[4], abs=1e-5)
    assert table["model_boxes_found"].sum() == sum(case.found.sum() for case in answers["model"])
    assert table["prior_contrast_to_noise"].isna().all()

    lines = class_table(groups).splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    assert f"{groups[0].scores['prior']['pointing'].value:.3f}" in lines[2]
    contrast = next(line for line in chance_table(groups[1]).splitlines() if line.startswith("contrast"))
    assert contrast.split()[-4:] == ["-", "-", "-", "-"]


def test_a_group_of_one_patient_has_no_interval():
    """Resampling one patient gives the same value each time: an interval without width would look certain."""
    answers = random_cases(0, 3)
    first, both = score_groups({"one": np.array([0]), "both": np.arange(3)}, answers, ["a", "b", "b"], 50)
    assert all(score.interval is None for score in first.scores["model"].values())
    assert both.scores["model"]["pixel_auroc"].interval is not None


def test_a_score_that_one_patients_findings_define_has_no_interval():
    """A ratio that only one patient's findings have would look certain beside scores of two patients."""
    answers = random_cases(0, 4)
    for cases in answers.values():
        for index, case in enumerate(cases):
            case.values[3] = 0.5 if index < 2 else np.nan
    (group,) = score_groups({"all": np.arange(4)}, answers, ["a", "a", "b", "c"], 30)
    for scores in (*group.scores.values(), group.above_prior):
        assert {key for key, score in scores.items() if score.interval is None} == {"contrast_to_noise"}
