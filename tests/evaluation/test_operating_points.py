"""Operating points against plain counting."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, f1_score

from medslip.evaluation.operating_points import (
    POINT_SCORES,
    RULES,
    at_specificity,
    choose_thresholds,
    operating_points,
)


def thresholds_of(*classes: tuple[float, float]) -> pd.DataFrame:
    """The thresholds of classes "a", "b", ... by both rules."""
    rows = [
        {"class": name, "rule": rule, "threshold": threshold}
        for name, chosen in zip("ab", classes, strict=False)
        for rule, threshold in zip(RULES, chosen, strict=True)
    ]
    return pd.DataFrame(rows)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([-1, 0, 1]), st.integers(0, 8)), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.5, 0.8, 0.9, 1.0]),
)
def test_no_other_threshold_is_more_sensitive_at_the_specificity(images, specificity):
    """A threshold that breaks the promise, or gives sensitivity away; ties and unknown labels included."""
    label = np.array([label for label, _ in images], np.int8)
    score = np.array([score for _, score in images]) / 8
    positives, negatives = score[label == 1], score[label == 0]
    found = at_specificity(label, score, specificity)
    if not len(positives) or not len(negatives):
        assert np.isnan(found)
        return
    keeps = [t for t in np.unique(score) if (negatives < t).sum() >= specificity * len(negatives) - 1e-9]
    best = max(((positives >= t).mean() for t in keeps), default=0.0)
    if np.isnan(found):
        assert best == 0
    else:
        assert found in keeps
        assert (positives >= found).mean() == best
        assert found == max(t for t in keeps if (positives >= t).mean() == best)


def test_specificity_of_nine_in_ten_is_met_by_nine_of_ten():
    """0.9 x 10 is not 9 in floating point."""
    score = np.arange(10) / 10
    label = np.zeros(11, np.int8)
    label[-1] = 1
    assert at_specificity(label, np.append(score, 0.9), 0.9) == 0.9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_test_scores_are_those_of_the_confusion_matrix(seed):
    """Thresholds come from validation, counts from test, and unknown labels count nowhere."""
    random = np.random.default_rng(seed)
    chosen, asked = random.integers(0, 2, (60, 1)), random.integers(-1, 2, (80, 1))
    thresholds = choose_thresholds(["x"], chosen.astype(np.int8), random.random((60, 1)), 0.7)
    probability = random.random((80, 1))
    found = operating_points(thresholds, asked.astype(np.int8), probability, [""] * 80, 0)
    known = asked[:, 0] >= 0
    for _, point in found.iterrows():
        if np.isnan(point["threshold"]):
            assert point["note"] == "no threshold"
            continue
        reached = probability[known, 0] >= point["threshold"]
        (tn, fp), (fn, tp) = confusion_matrix(asked[known, 0], reached, labels=[0, 1])
        expected = [a / (a + b) if a + b else np.nan for a, b in ((tp, fn), (tn, fp), (tp, fp), (tn, fn))]
        assert [point[key].value for key in POINT_SCORES] == pytest.approx(expected, nan_ok=True)
        assert not any(point[key].has_interval for key in POINT_SCORES)


def test_the_second_threshold_has_the_largest_f1_on_validation():
    """The published figure is chosen on test; this one must not be."""
    random = np.random.default_rng(0)
    label, score = random.integers(0, 2, 50), random.random(50)
    table = choose_thresholds(["x"], label[:, None].astype(np.int8), score[:, None], 0.9)
    at, best = (row for _, row in table.iterrows())
    expected = max(f1_score(label, score >= t) for t in score)
    assert f1_score(label, score >= best.threshold) == pytest.approx(expected)
    assert at.validation_specificity == pytest.approx((score[label == 0] < at.threshold).mean())
    assert at.validation_sensitivity == pytest.approx((score[label == 1] >= at.threshold).mean())


def test_what_cannot_be_scored_is_not_defined():
    """PPV of a threshold that nothing reaches is 0 / 0; a class without positives has no scores."""
    labels = np.array([[1, 0], [0, 0]], np.int8)
    thresholds = thresholds_of((0.9, np.nan), (0.5, 0.5))
    found = operating_points(thresholds, labels, np.full((2, 2), 0.6), ["p", "q"], 10)
    values = found[list(POINT_SCORES)].map(float).to_numpy()
    assert values[0].tolist() == pytest.approx([0, 1, np.nan, 0.5], nan_ok=True)
    assert np.isnan(values[1:]).all()
    assert found["note"].tolist() == ["", "no threshold", "no positives", "no positives"]


def test_intervals_hold_the_value_and_narrow_with_patients():
    """Intervals over other resamples, or over images, would be too narrow."""
    random = np.random.default_rng(0)
    label, score = random.integers(0, 2, (400, 1)).astype(np.int8), random.random((400, 1))
    widths = []
    for patients in (20, 400):
        owners = [str(k % patients) for k in range(400)]
        blocks = label if patients == 400 else np.tile(label[:20], (20, 1))
        scores = score if patients == 400 else np.tile(score[:20], (20, 1))
        found = operating_points(thresholds_of((0.5, 0.5)), blocks, scores, owners, 200)["sensitivity"][0]
        assert found.low <= found.value <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_a_rate_of_one_patients_images_has_no_interval():
    """The sensitivity to one patient's positives would look certain."""
    label = np.array([1, 1, 1, 0, 0, 0, 0], np.int8)[:, None]
    score = np.array([0.9, 0.8, 0.2, 0.7, 0.1, 0.6, 0.3])[:, None]
    owners = ["p", "p", "p", "q", "r", "s", "t"]
    found = operating_points(thresholds_of((0.5, 0.75)), label, score, owners, 30)
    has = [{key for key in POINT_SCORES if row[key].has_interval} for _, row in found.iterrows()]
    assert has == [{"specificity", "ppv", "npv"}, {"specificity", "npv"}]  # p alone reaches 0.75
