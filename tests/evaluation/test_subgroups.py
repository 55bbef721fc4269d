"""Scores by subgroup: like compared with like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medslip.evaluation.classification import score, summarise
from medslip.evaluation.subgroups import LEAST, age_groups, subgroups


def example(images=240, classes=2, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (images, classes)).astype(np.int8)
    return labels, np.clip(random.normal(0.3 + 0.3 * labels, 0.3), 0, 1), [str(k // 2) for k in range(images)]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_each_group_is_scored_on_its_own_images(seed):
    """The AUROC and sensitivity of one group would hold images of another."""
    labels, probabilities, patients = example(seed=seed)
    sexes = np.random.default_rng(seed).choice(["M", "F", ""], 240)
    found = subgroups(["a", "b"], labels, probabilities, patients, {"sex": sexes.tolist()}, [0.5, None], 0)["sex"]
    assert found.unknown == (sexes == "").sum()
    assert [group.name for group in found.groups] == ["F", "M"]
    for group in found.groups:
        inside = sexes == group.name
        assert group.images == inside.sum()
        assert group.patients == len({patient for patient, mine in zip(patients, inside, strict=True) if mine})
        for k, entry in enumerate(group.classes):
            label, probability = labels[inside, k], probabilities[inside, k]
            assert (entry.positives, entry.negatives) == ((label == 1).sum(), (label == 0).sum())
            assert entry.auroc == pytest.approx(roc_auc_score(label, probability))
        assert group.classes[1].sensitivity is None
        label, probability = labels[inside, 0], probabilities[inside, 0]
        assert group.classes[0].sensitivity == pytest.approx((probability[label == 1] >= 0.5).mean())
    comparison = found.comparisons["auroc"]
    means = [np.mean([entry.auroc for entry in group.classes]) for group in found.groups]
    assert comparison.gap == pytest.approx(max(means) - min(means))
    assert found.comparisons["sensitivity"].classes == ("a",)


def test_one_group_of_all_images_is_the_whole_with_the_same_interval():
    """Groups would rest on other resamples than the scores beside them."""
    labels, probabilities, patients = example()
    found = subgroups(["a", "b"], labels, probabilities, patients, {"view": ["PA"] * 240}, None, 100, 7)["view"]
    whole = summarise(score(["a", "b"], labels, probabilities, patients, 100, 7))
    comparison = found.comparisons["auroc"]
    assert comparison.means[0].value == pytest.approx(whole.auroc)
    assert comparison.means[0].interval.low == pytest.approx(whole.intervals["auroc"].low)
    assert comparison.means[0].interval.high == pytest.approx(whole.intervals["auroc"].high)
    assert comparison.gap is None


def test_only_classes_of_all_compared_groups_are_compared():
    """A group without the hard class would look better."""
    labels, probabilities, patients = example(classes=3)
    sexes = np.array(["M", "F"] * 120)
    rare = np.flatnonzero((sexes == "F") & (labels[:, 2] == 1))
    labels[rare[LEAST - 1 :], 2] = -1
    found = subgroups(["a", "b", "c"], labels, probabilities, patients, {"sex": sexes.tolist()}, None, 0)["sex"]
    female, male = found.groups
    assert (female.classes[2].positives, female.classes[2].auroc) == (LEAST - 1, None)
    assert female.classes[2].undefined == f"fewer than {LEAST} positives"
    assert male.classes[2].auroc is not None
    assert found.comparisons["auroc"].classes == ("a", "b")


def test_a_small_group_is_told_but_not_compared():
    """Five children would leave nothing to compare the others by."""
    labels, probabilities, patients = example()
    groups = ["child"] * 5 + ["A", "B"] * 117 + [""]
    found = subgroups(["a", "b"], labels, probabilities, patients, {"age": groups}, None, 20)["age"]
    told = {group.name: group for group in found.groups}
    assert (told["child"].images, told["child"].compared) == (5, False)
    assert [mean.group for mean in found.comparisons["auroc"].means] == ["A", "B"]


def test_the_gap_of_two_groups_has_an_interval_that_finds_a_true_one():
    """A model that is blind in one group must not hide behind the mean; one that is not must not be accused."""
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 600)
    sexes = np.array(["M", "F"] * 300)
    noise = np.where(sexes == "M", 0.1, 5.0)
    for sigma, blind in ((noise, True), (np.full(600, 0.5), False)):
        probability = random.normal(label, sigma)
        found = subgroups(
            ["a"], label[:, None].astype(np.int8), probability[:, None], [""] * 600, {"sex": sexes.tolist()}, None, 200
        )["sex"].comparisons["auroc"]
        assert (found.interval.low > 0) == blind
        if blind:
            assert (found.highest, found.lowest) == ("M", "F")


def test_attributes_that_no_image_has_are_not_there():
    """An empty table."""
    labels, probabilities, patients = example()
    assert subgroups(["a", "b"], labels, probabilities, patients, {"sex": [""] * 240}, None, 10) == {}


def test_nothing_scored_is_told_without_a_comparison():
    """A traceback on twelve images."""
    labels, probabilities, patients = example(12)
    found = subgroups(["a", "b"], labels, probabilities, patients, {"sex": ["M", "F"] * 6}, None, 10)["sex"]
    assert found.comparisons == {}
    assert [group.images for group in found.groups] == [6, 6]


def test_ages_fall_into_the_documented_groups():
    """An edge on the wrong side."""
    ages = np.array([0, 17.9, 18, 39, 40, 59.5, 60, 79, 80, 101, np.nan])
    expected = [
        "under 18",
        "under 18",
        "18-39",
        "18-39",
        "40-59",
        "40-59",
        "60-79",
        "60-79",
        "80 and over",
        "80 and over",
        "",
    ]
    assert age_groups(ages) == expected


def test_a_group_of_one_patient_has_no_interval_and_no_gap_has_one():
    """A group that is one patient would look certain, and so would its difference from the others."""
    labels, probabilities, _ = example(classes=1)
    patients = ["p"] * 80 + [""] * 160
    groups = ["one"] * 80 + ["many", "others"] * 80
    found = subgroups(["a"], labels, probabilities, patients, {"view": groups}, [0.5], 30)["view"]
    intervals = {group.name: set(group.classes[0].intervals) for group in found.groups}
    assert intervals == {"many": {"auroc", "sensitivity"}, "one": set(), "others": {"auroc", "sensitivity"}}
    for comparison in found.comparisons.values():
        assert {mean.group for mean in comparison.means if mean.interval is None} == {"one"}
        assert (comparison.interval is None) == ("one" in (comparison.highest, comparison.lowest))
