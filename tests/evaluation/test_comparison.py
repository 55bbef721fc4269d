"""Paired differences: exact where there is none, right against scikit-learn, and the same whichever run comes first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from medslip.evaluation.bootstrap import patient_index, resample_patients
from medslip.evaluation.comparison import Key, compare_answers, compare_cases, compare_segmentations

CLASSES = ("a", "b", "c")


def made(seed: int, images: int = 60):
    random = np.random.default_rng(seed)
    labels = random.integers(-1, 2, (images, 3)).astype(np.int8)
    # Few distinct values: ties are where a ranking goes wrong.
    first, second = (random.integers(0, 8, (images, 3)) / 8 for _ in range(2))
    patients = [f"p{number}" for number in random.integers(0, images // 2, images)]
    return labels, first, second, patients


def test_equal_runs_differ_by_exactly_nothing():
    """Rounding would make a run differ from itself."""
    labels, first, _, patients = made(0)
    entries = compare_answers(CLASSES, labels, [(first, first)], patients, resamples=50)
    values = np.where(labels < 0, np.nan, first)
    entries += compare_cases([Key("", name, "iou") for name in CLASSES], [(values, values)], patients, 50)
    entries += compare_segmentations([(first[:, 0],) * 2], [(first[:, 1],) * 2], labels[:, 0] > 0, patients, 50)
    for entry in entries:
        assert entry.interval is not None
        assert (entry.value, entry.interval.low, entry.interval.high) == (0, 0, 0)
        assert not entry.clear


def test_each_resamples_difference_is_scikit_learns():
    """The two runs would be scored under different resamples, or the weights counted wrongly."""
    labels, first, second, patients = made(1)
    entries = {entry.key: entry for entry in compare_answers(CLASSES, labels, [(first, second)], patients, (), 40, 7)}
    owner = patient_index(patients)
    draws = np.concatenate(list(resample_patients(int(owner.max()) + 1, 40, 7)))[:, owner]
    for score, function in (("auroc", roc_auc_score), ("average_precision", average_precision_score)):
        means = []
        for k, name in enumerate(CLASSES):
            known = labels[:, k] >= 0
            expected = [
                np.subtract(
                    *(function(labels[known, k], run[known, k], sample_weight=weight[known]) for run in (second, first))
                )
                for weight in draws
            ]
            means.append(expected)
            interval = entries[Key("", name, score)].interval
            assert [interval.low, interval.high] == pytest.approx(np.quantile(expected, [0.025, 0.975]), abs=1e-12)
        interval = entries[Key("", "mean of 3 classes", score)].interval
        expected = np.quantile(np.mean(means, axis=0), [0.025, 0.975])
        assert [interval.low, interval.high] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_other_order_is_the_other_sign(seed):
    """B - A would depend on which run is called A."""
    labels, first, second, patients = made(seed, 24)
    forth = compare_answers(CLASSES, labels, [(first, second)], patients, ("a",), 20)
    back = compare_answers(CLASSES, labels, [(second, first)], patients, ("a",), 20)
    keys = [Key("", name, "iou") for name in CLASSES]
    values = [np.where(labels < 0, np.nan, run) for run in (first, second)]
    forth += compare_cases(keys, [(values[0], values[1])], patients, 20)
    back += compare_cases(keys, [(values[1], values[0])], patients, 20)
    for one, other in zip(forth, back, strict=True):
        assert (one.key, one.cases, one.a, one.b) == (other.key, other.cases, other.b, other.a)
        if one.value is None:
            assert other.value is None
            continue
        assert one.value == -other.value
        assert (one.interval is None) == (other.interval is None)
        if one.interval:
            assert one.interval.low == pytest.approx(-other.interval.high, abs=1e-12)
            assert one.clear == other.clear


def test_seeds_are_averaged_and_each_is_shown():
    """A run of three seeds would be judged by one of them."""
    labels, first, second, patients = made(2)
    one = compare_answers(CLASSES, labels, [(first, second)], patients, resamples=20)
    both = compare_answers(CLASSES, labels, [(first, second), (second, first)], patients, resamples=20)
    for single, entry in zip(one, both, strict=True):
        assert entry.value == pytest.approx(0, abs=1e-12)
        assert entry.by_seed == (single.value, -single.value)
        assert entry.interval.high == pytest.approx(0, abs=1e-12)


def test_a_case_counts_where_both_runs_have_a_value():
    """Means over different cases would be called a difference of the runs."""
    first, second = np.array([[1.0], [np.nan], [0.0]]), np.array([[0.5], [0.9], [np.nan]])
    (entry,) = compare_cases([Key("", "x", "iou")], [(first, second)], ["p", "q", "r"], 0)
    assert (entry.cases, entry.a, entry.b, entry.value, entry.interval) == (1, 1.0, 0.5, -0.5, None)


def test_a_class_without_positives_has_no_difference_and_no_share_in_the_mean():
    labels, first, second, patients = made(3)
    labels[:, 1] = np.minimum(labels[:, 1], 0)
    entries = {e.key.name: e for e in compare_answers(CLASSES, labels, [(first, second)], patients, resamples=5)[:4]}
    assert entries["b"].value is None
    assert entries["mean of 2 classes"].value == pytest.approx((entries["a"].value + entries["c"].value) / 2)


def test_findings_of_one_patient_have_no_interval():
    """An interval of no width would call the difference of a single patient clear."""
    first, second = np.zeros((3, 2)), np.ones((3, 2))
    first[1:, 0] = np.nan
    alone, several = compare_cases([Key("", k, "iou") for k in "xy"], [(first, second)], ["p", "q", "q"], 20)
    assert (alone.value, alone.interval, alone.clear) == (1, None, False)
    assert several.clear


def test_classes_and_masks_of_one_patient_have_no_interval():
    """The difference on one patient's positives, or one patient's masks, would be called clear."""
    labels, first, second, _ = made(4)
    labels[:, 0] = np.arange(60) < 3
    patients = ["p"] * 3 + [""] * 57
    entries = compare_answers(CLASSES, labels, [(first, second)], patients, ("a",), 30)
    without = {entry.key.name for entry in entries if entry.interval is None}
    assert without == {"a", "mean of 3 classes"}
    dice, iou = (first[:, 0], second[:, 0]), (first[:, 1], second[:, 1])
    segmented = compare_segmentations([dice], [iou], labels[:, 0] > 0, patients, 30)
    assert {e.key.score for e in segmented if e.interval is None} == {"dice_marked", "iou_marked", "dice_balanced"}


@pytest.mark.parametrize("alone", [True, False])
def test_without_resamples_or_with_one_patient_there_is_no_interval(alone):
    """A comparison of few images would end in a traceback."""
    labels, first, second, patients = made(2)
    of = ["p"] * len(patients) if alone else patients
    entries = compare_answers(CLASSES, labels, [(first, second)], of, resamples=50 if alone else 0)
    assert all(entry.interval is None and entry.value is not None for entry in entries)
