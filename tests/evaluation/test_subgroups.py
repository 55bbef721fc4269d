"""Scores within groups: like compared with like, as certain as the patients allow."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medslip.evaluation.bootstrap import patient_index, resample_patients
from medslip.evaluation.classification import score
from medslip.evaluation.subgroups import LEAST, ClassesInGroup, MeansInGroup, by_group, groups_of


def example(images=240, classes=2, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (images, classes)).astype(np.int8)
    return labels, np.clip(random.normal(0.3 + 0.3 * labels, 0.3), 0, 1), [str(k // 2) for k in range(images)]


def metadata(patients, **known) -> pd.DataFrame:
    table = pd.DataFrame({"path": [f"{k}.png" for k in range(len(patients))], "patient": patients})
    return table.assign(**{"sex": "", "view": "", "age": np.nan, **known})


def of_classes(classes, labels, probabilities, patients, thresholds=None, resamples=0, seed=0, **known):
    """The three tables of a classification, groups and gaps by attribute."""
    limits = thresholds or [np.nan] * len(classes)
    images = metadata(patients, **known)
    tables = by_group(
        images, lambda *group: ClassesInGroup(*group, classes, labels, probabilities, limits), resamples, seed
    )
    return tuple(tables.values())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_each_group_is_scored_on_its_own_images(seed):
    """The AUROC and sensitivity of one group would hold images of another."""
    labels, probabilities, patients = example(seed=seed)
    sexes = np.random.default_rng(seed).choice(["M", "F", ""], 240)
    groups, gaps, classes = of_classes(["a", "b"], labels, probabilities, patients, [0.5, np.nan], sex=sexes)
    assert groups["group"].tolist() == ["F", "M", "unknown"]
    assert groups["images"].tolist() == [(sexes == name).sum() for name in ("F", "M", "")]
    means = []
    for name in ("F", "M"):
        inside = sexes == name
        assert groups.set_index("group")["patients"][name] == len(set(np.array(patients)[inside]))
        rows = classes[classes["group"] == name]
        for k, (_, row) in enumerate(rows.iterrows()):
            label, probability = labels[inside, k], probabilities[inside, k]
            assert (row["images"], row["positives"]) == (len(label), label.sum())
            assert row["auroc"].value == pytest.approx(roc_auc_score(label, probability))
        a, b = rows["sensitivity"]
        assert math.isnan(b.value)
        assert a.value == pytest.approx((probabilities[inside, 0][labels[inside, 0] == 1] >= 0.5).mean())
        means.append(rows["auroc"].map(float).mean())
    auroc, sensitivity = (row for _, row in gaps.iterrows())
    assert auroc["gap"].value == pytest.approx(max(means) - min(means))
    assert sensitivity["classes"] == ["a"]


def test_one_group_of_all_images_is_the_whole_with_the_same_interval():
    """Groups would rest on other resamples than the scores beside them."""
    labels, probabilities, patients = example()
    groups, gaps, _ = of_classes(["a", "b"], labels, probabilities, patients, None, 100, 7, view="PA")
    whole = score(["a", "b"], labels, probabilities, patients, 100, 7).set_index("class")["auroc"]["mean"]
    assert groups["auroc"][0] == whole
    assert math.isnan(gaps["gap"][0].value)


def test_only_classes_of_all_compared_groups_are_compared():
    """A group without the hard class would look better."""
    labels, probabilities, patients = example(classes=3)
    sexes = np.array(["M", "F"] * 120)
    rare = np.flatnonzero((sexes == "F") & (labels[:, 2] == 1))
    labels[rare[LEAST - 1 :], 2] = -1
    _, gaps, classes = of_classes(["a", "b", "c"], labels, probabilities, patients, sex=sexes)
    female, male = (classes[classes["group"] == name].iloc[2] for name in "FM")
    assert (female["positives"], female["note"]) == (LEAST - 1, f"fewer than {LEAST} positives")
    assert math.isnan(female["auroc"].value)
    assert not math.isnan(male["auroc"].value)
    assert gaps["classes"][0] == ["a", "b"]


def test_a_small_group_is_shown_but_not_compared():
    """Five children would leave nothing to compare the others by."""
    labels, probabilities, patients = example()
    ages = [5.0] * 5 + [30.0, 70.0] * 117 + [np.nan]
    groups, gaps, _ = of_classes(["a", "b"], labels, probabilities, patients, None, 20, age=ages)
    assert groups["images"].tolist() == [5, 117, 117, 1]
    assert groups["auroc"].map(lambda found: math.isnan(found.value)).tolist() == [True, False, False, True]
    assert {gaps["highest"][0], gaps["lowest"][0]} == {"18-39", "60-79"}


def test_the_gap_of_two_groups_has_an_interval_that_finds_a_true_one():
    """A model that is blind in one group must not hide behind the mean; one that is not must not be accused."""
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 600)
    sexes = np.array(["M", "F"] * 300)
    noise = np.where(sexes == "M", 0.1, 5.0)
    for sigma, blind in ((noise, True), (np.full(600, 0.5), False)):
        probability = random.normal(label, sigma)
        columns = label[:, None].astype(np.int8), probability[:, None]
        _, gaps, _ = of_classes(["a"], *columns, [""] * 600, None, 200, sex=sexes)
        assert (gaps["gap"][0].low > 0) == blind
        if blind:
            assert (gaps["highest"][0], gaps["lowest"][0]) == ("M", "F")


@pytest.mark.parametrize(("images", "sex", "groups"), [(240, "", 0), (12, ["M", "F"] * 6, 2), (0, "", 0)])
def test_without_anything_to_compare_there_are_no_gaps(images, sex, groups):
    """A traceback on twelve images, or where nothing is known."""
    found = of_classes(["a", "b"], *example(images), None, 10, sex=sex)
    assert [len(table) for table in found[:2]] == [groups, 0]


def test_ages_fall_into_the_documented_groups():
    """An edge on the wrong side."""
    ages = [0, 17.9, 18, 39, 40, 59.5, 60, 79, 80, 101, np.nan]
    expected = [name for name in ("under 18", "18-39", "40-59", "60-79", "80 and over") for _ in range(2)] + [""]
    assert groups_of(metadata([""] * 11, age=ages))["age"].tolist() == expected


def test_a_group_of_one_patient_has_no_interval_and_no_gap_has_one():
    """A group that is one patient would look certain, and so would its difference from the others."""
    labels, probabilities, _ = example(classes=1)
    patients, views = ["p"] * 80 + [""] * 160, ["one"] * 80 + ["many", "others"] * 80
    groups, gaps, classes = of_classes(["a"], labels, probabilities, patients, [0.5], 30, view=views)
    for table in (groups, classes):
        for key in ("auroc", "sensitivity"):
            has = {row["group"]: row[key].has_interval for _, row in table.iterrows()}
            assert has == {"many": True, "one": False, "others": True}
    for _, gap in gaps.iterrows():
        assert gap["gap"].has_interval == ("one" not in (gap["highest"], gap["lowest"]))


def test_each_group_has_the_mean_and_interval_of_its_own_cases():
    """The Dice of one group would hold images of another, or its interval resample images instead of patients."""
    random = np.random.default_rng(0)
    image = np.sort(random.integers(0, 80, 120))
    values = np.where(random.random(120) < 0.2, np.nan, random.random(120))
    sexes = random.choice(["M", "F", ""], 80)
    images = metadata([f"p{k // 2}" for k in range(80)], sex=sexes)
    cases = images.iloc[image].reset_index(drop=True)
    scores = pd.DataFrame({"dice": values})
    tables = by_group(cases, lambda inside, owner: MeansInGroup(inside, owner, scores), 60, 3)
    groups, gap = tables["subgroups"].set_index("group"), tables["subgroup_gaps"].iloc[0]
    assert tables["subgroup_classes"].empty
    owner = patient_index(images["patient"].iloc[np.unique(image)].tolist())
    draws = np.concatenate(list(resample_patients(int(owner.max()) + 1, 60, 3)))
    weight = draws[:, owner[np.searchsorted(np.unique(image), image)]]
    drawn = {}
    for name in ("F", "M"):
        inside = sexes[image] == name
        assert groups["images"][name] == len(np.unique(image[inside]))
        assert groups["patients"][name] == cases["patient"][inside].nunique()
        assert groups["dice"][name].value == pytest.approx(np.nanmean(values[inside]))
        counted = inside & ~np.isnan(values)
        drawn[name] = weight[:, counted] @ values[counted] / weight[:, counted].sum(axis=1)
        ends = np.quantile(drawn[name], [0.025, 0.975])
        assert [groups["dice"][name].low, groups["dice"][name].high] == pytest.approx(ends)
    assert groups["images"]["unknown"] == (sexes[np.unique(image)] == "").sum()
    assert gap["gap"].value == pytest.approx(abs(groups["dice"]["F"].value - groups["dice"]["M"].value))
    ends = np.quantile(drawn[gap["highest"]] - drawn[gap["lowest"]], [0.025, 0.975])
    assert [gap["gap"].low, gap["gap"].high] == pytest.approx(ends)


def test_a_group_is_compared_by_the_scores_that_enough_of_its_cases_have():
    """One marked image among many would stand for a group, or its lack take the other scores away."""
    dice = np.linspace(0, 1, 60)
    positives = np.where(np.arange(60) % 3 > 0, dice, np.nan)
    views = np.array(["PA", "AP", "PA"] * 20)
    positives[np.flatnonzero(views == "AP")[LEAST - 1 :]] = np.nan
    scores = pd.DataFrame({"dice": dice, "dice_on_positives": positives})
    tables = by_group(metadata([""] * 60, view=views), lambda *group: MeansInGroup(*group, scores), 0)
    groups, gaps = tables["subgroups"].set_index("group"), tables["subgroup_gaps"].set_index("score")["gap"]
    assert not groups["dice"].map(lambda found: math.isnan(found.value)).any()
    assert math.isnan(groups["dice_on_positives"]["AP"].value)
    assert not math.isnan(groups["dice_on_positives"]["PA"].value)
    assert math.isnan(gaps["dice_on_positives"].value)
    assert not math.isnan(gaps["dice"].value)
