"""Paired differences: exact where there is none, right against scikit-learn, and the same whichever run comes first."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from medslip.evaluation.bootstrap import patient_index, resample_patients
from medslip.evaluation.paired import compare_cases, compare_classifiers, compare_segmenters, match_images

CLASSES = ("a", "b", "c")


def made(seed: int, images: int = 60):
    random = np.random.default_rng(seed)
    labels = random.integers(-1, 2, (images, 3)).astype(np.int8)
    # Few distinct values: ties are where a ranking goes wrong.
    first, second = (random.integers(0, 8, (images, 3)) / 8 for _ in range(2))
    patients = [f"p{number}" for number in random.integers(0, images // 2, images)]
    return labels, first, second, patients


def keys(score: str = "iou") -> list[tuple[str, str, str]]:
    return [("", name, score) for name in CLASSES]


def masks(dice, iou, marked) -> pd.DataFrame:
    return pd.DataFrame({"marked_pixels": np.where(marked, 9, 0), "dice": dice, "iou": iou})


def rows(table: pd.DataFrame) -> list[pd.Series]:
    return [row for _, row in table.iterrows()]


def test_equal_runs_differ_by_exactly_nothing():
    """Rounding would make a run differ from itself."""
    labels, first, _, patients = made(0)
    values = np.where(labels < 0, np.nan, first)
    same = masks(first[:, 0], first[:, 1], labels[:, 0] > 0)
    for table in (
        compare_classifiers(CLASSES, labels, [(first, first)], patients, resamples=50),
        compare_cases(keys(), [(values, values)], patients, 50),
        compare_segmenters([(same, same)], patients, 50),
    ):
        for found in table["difference"]:
            assert (found.value, found.low, found.high) == (0, 0, 0)
        assert not table["clear"].any()


def test_the_difference_in_each_resample_is_scikit_learns():
    """The two runs would be scored under different resamples, or the weights counted wrongly."""
    labels, first, second, patients = made(1)
    table = compare_classifiers(CLASSES, labels, [(first, second)], patients, (), 40, 7)
    found = table.set_index(["name", "score"])["difference"]
    owner = patient_index(patients)
    draws = np.concatenate(list(resample_patients(int(owner.max()) + 1, 40, 7)))[:, owner]
    for score, function in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        every = []
        for k, name in enumerate(CLASSES):
            known = labels[:, k] >= 0
            expected = [
                np.subtract(
                    *(function(labels[known, k], run[known, k], sample_weight=weight[known]) for run in (second, first))
                )
                for weight in draws
            ]
            every.append(expected)
            each = found[name, score]
            assert [each.low, each.high] == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=1e-12)
        each = found["mean", score]
        expected = np.quantile(np.mean(every, axis=0), [0.025, 0.975])
        assert [each.low, each.high] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_other_order_is_the_other_sign(seed):
    """B - A would depend on which run is called A."""
    labels, first, second, patients = made(seed, 24)
    values = [np.where(labels < 0, np.nan, run) for run in (first, second)]
    forth, back = (
        rows(compare_classifiers(CLASSES, labels, [runs], patients, ("a",), 20))
        + rows(compare_cases(keys(), [pair], patients, 20))
        for runs, pair in (((first, second), values), ((second, first), values[::-1]))
    )
    for one, other in zip(forth, back, strict=True):
        assert (one["name"], one["score"], one["cases"]) == (other["name"], other["score"], other["cases"])
        assert [one["a"], one["b"]] == pytest.approx([other["b"], other["a"]], abs=0, nan_ok=True)
        found, reverse = one["difference"], other["difference"]
        assert found.value == pytest.approx(-reverse.value, abs=0, nan_ok=True)
        assert found.low == pytest.approx(-reverse.high, abs=1e-12, nan_ok=True)
        assert one["clear"] == other["clear"]


def test_seeds_are_averaged_and_each_is_shown():
    """A run of three seeds would be judged by one of them."""
    labels, first, second, patients = made(2)
    one = compare_classifiers(CLASSES, labels, [(first, second)], patients, resamples=20)
    both = compare_classifiers(CLASSES, labels, [(first, second), (second, first)], patients, resamples=20)
    for single, entry in zip(rows(one), rows(both), strict=True):
        value = single["difference"].value
        assert entry["by_seed"] == [value, -value]
        assert (entry["difference"].value, entry["difference"].high) == pytest.approx((0, 0), abs=1e-12)


def test_a_case_counts_where_both_runs_have_a_value():
    """Means over different cases would be called a difference of the runs."""
    first, second = np.array([[1.0], [np.nan], [0.0]]), np.array([[0.5], [0.9], [np.nan]])
    (row,) = rows(compare_cases(keys()[:1], [(first, second)], ["p", "q", "r"], 0))
    assert (row["cases"], row["a"], row["b"], row["difference"].value) == (1, 1.0, 0.5, -0.5)
    assert not row["difference"].has_interval


def test_a_class_without_positives_has_no_difference_and_is_left_out_of_the_mean():
    labels, first, second, patients = made(3)
    labels[:, 1] = np.minimum(labels[:, 1], 0)
    table = compare_classifiers(CLASSES, labels, [(first, second)], patients, resamples=5)
    a, b, c, mean = table["difference"].map(float)[:4]
    assert np.isnan(b)
    assert mean == pytest.approx((a + c) / 2)


def test_a_difference_that_rests_on_one_patient_has_no_interval():
    """An interval of no width would call the difference of a single patient clear."""
    first, second = np.zeros((3, 2)), np.ones((3, 2))
    first[1:, 0] = np.nan
    alone, several = rows(compare_cases(keys()[:2], [(first, second)], ["p", "q", "q"], 20))
    assert (alone["difference"].value, alone["difference"].has_interval, alone["clear"]) == (1, False, False)
    assert several["clear"]
    labels, first, second, _ = made(4)
    labels[:, 0] = np.arange(60) < 3
    patients = ["p"] * 3 + [""] * 57
    table = compare_classifiers(CLASSES, labels, [(first, second)], patients, ("a",), 30)
    assert {row["name"] for row in rows(table) if not row["difference"].has_interval} == {"a", "mean"}
    pair = tuple(masks(run[:, 0], run[:, 1], labels[:, 0] > 0) for run in (first, second))
    without = {
        row["score"] for row in rows(compare_segmenters([pair], patients, 30)) if not row["difference"].has_interval
    }
    assert without == {"dice_on_positives", "iou_on_positives", "dice_balanced"}


@pytest.mark.parametrize("alone", [True, False])
def test_without_resamples_or_with_one_patient_there_is_no_interval(alone):
    """A comparison of few images would end in a traceback."""
    labels, first, second, patients = made(2)
    of = ["p"] * len(patients) if alone else patients
    found = compare_classifiers(CLASSES, labels, [(first, second)], of, resamples=50 if alone else 0)["difference"]
    assert not any(each.has_interval or np.isnan(each.value) for each in found)


def test_moved_images_are_matched_by_file_name_unless_it_is_ambiguous():
    """Predictions would be compared with those of another image of the same name."""
    found = match_images(["a/1.png", "a/2.png", "b/2.png", "c/3.png"], ["x/1.png", "y/2.png", "c/3.png"])
    assert found == [("a/1.png", "x/1.png"), ("c/3.png", "c/3.png")]
