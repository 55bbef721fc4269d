"""Means over cases by subgroup: like compared with like, as certain as its patients allow."""

from __future__ import annotations

import numpy as np
import pytest

from medslip.evaluation.bootstrap import patient_index, resample_patients
from medslip.evaluation.run_folder import subgroup_lines
from medslip.evaluation.subgroup_means import subgroup_means
from medslip.evaluation.subgroups import LEAST


def test_each_group_has_the_mean_and_interval_of_its_own_cases():
    """The Dice of one group would hold images of another, or its interval resample images instead of patients."""
    random = np.random.default_rng(0)
    image_of = np.sort(random.integers(0, 80, 120))
    values = np.where(random.random(120) < 0.2, np.nan, random.random(120))
    sexes = random.choice(["M", "F", ""], 80)
    patients = [f"p{index // 2}" for index in range(80)]
    found = subgroup_means({"dice": values}, image_of, patients, {"sex": sexes.tolist()}, 60, 3)["sex"]
    images = np.unique(image_of)
    owner = patient_index([patients[index] for index in images])
    draws = np.concatenate(list(resample_patients(int(owner.max()) + 1, 60, 3)))
    weight = draws[:, owner[np.searchsorted(images, image_of)]]
    assert found.unknown == (sexes[images] == "").sum()
    means = []
    for group, mean in zip(found.groups, found.comparisons["dice"].means, strict=True):
        inside = sexes[image_of] == group.name
        assert (group.images, group.compared) == (len(np.unique(image_of[inside])), True)
        assert group.patients == len({patients[index] for index in image_of[inside]})
        assert mean.value == pytest.approx(np.nanmean(values[inside]))
        counted = inside & ~np.isnan(values)
        means.append(weight[:, counted] @ values[counted] / weight[:, counted].sum(axis=1))
        ends = np.quantile(means[-1], [0.025, 0.975])
        assert [mean.interval.low, mean.interval.high] == pytest.approx(ends)
    comparison = found.comparisons["dice"]
    assert comparison.gap == pytest.approx(abs(np.subtract(*(mean.value for mean in comparison.means))))
    sign = 1 if comparison.highest == "F" else -1
    ends = np.quantile(sign * (means[0] - means[1]), [0.025, 0.975])
    assert [comparison.interval.low, comparison.interval.high] == pytest.approx(ends)


def test_a_group_is_compared_by_the_scores_that_enough_of_its_cases_have():
    """One marked image among many would stand for a group, or its lack take the other scores away."""
    dice = np.linspace(0, 1, 60)
    marked = np.where(np.arange(60) % 3 > 0, dice, np.nan)
    views = ["PA", "AP", "PA"] * 20
    marked[np.flatnonzero(np.array(views) == "AP")[LEAST - 1 :]] = np.nan
    cases = {"dice": dice, "dice_marked": marked}
    found = subgroup_means(cases, np.arange(60), [""] * 60, {"view": views, "sex": [""] * 60}, 0)
    assert list(found) == ["view"]
    comparisons = found["view"].comparisons
    assert [mean.group for mean in comparisons["dice"].means] == ["AP", "PA"]
    assert [mean.group for mean in comparisons["dice_marked"].means] == ["PA"]
    assert (comparisons["dice_marked"].gap, comparisons["dice"].interval) == (None, None)
    (line,) = subgroup_lines(found, "dice_marked", "Dice where marked")
    assert line.startswith("Dice where marked by view: PA 0.")
    assert line.endswith("; too few images of: AP")


def test_a_group_of_one_patient_has_a_mean_without_an_interval():
    """It would look certain, and so would its difference from the other."""
    groups = ["F"] * 20 + ["M"] * 20
    found = subgroup_means({"dice": np.arange(40) / 40}, np.arange(40), ["p"] * 20 + [""] * 20, {"sex": groups}, 30)
    comparison = found["sex"].comparisons["dice"]
    assert [mean.interval is None for mean in comparison.means] == [True, False]
    assert comparison.gap == pytest.approx(0.5)
    assert comparison.interval is None


def test_no_case_at_all_has_no_groups():
    """A traceback where every finding is smaller than a patch."""
    none = np.empty(0)
    assert subgroup_means({"pointing": none}, none.astype(int), ["p"], {"sex": ["F"]}, 10) == {}
