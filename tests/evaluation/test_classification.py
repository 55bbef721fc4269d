"""Scores agree with scikit-learn, ties, weights and thresholds included."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from medslip.evaluation.bootstrap import patient_index, resample_patients
from medslip.evaluation.classification import MEAN, SCORES, class_rows, mean_auroc, resample_scores, score


def reference(label, probability, weight=None):
    """AUROC, AP, max F1, accuracy and threshold by scikit-learn; F1 from whole counts, exact under ties."""
    weight = np.ones(len(label)) if weight is None else weight
    used = weight > 0
    label, probability, weight = label[used], probability[used], weight[used]
    _, _, thresholds = precision_recall_curve(label, probability, sample_weight=weight)

    def f1(threshold):
        positive = probability >= threshold
        right = weight[positive & (label == 1)].sum()
        return 2 * right / (weight[positive].sum() + weight[label == 1].sum())

    values = np.array([f1(threshold) for threshold in thresholds])
    threshold = thresholds[values.argmax()]
    accuracy = np.average((probability > threshold) == label, weights=weight)
    return (
        roc_auc_score(label, probability, sample_weight=weight),
        average_precision_score(label, probability, sample_weight=weight),
        values.max(),
        accuracy,
        threshold,
    )


def one_class(label, probability, **options) -> pd.Series:
    columns = np.asarray(label, np.int8)[:, None], np.asarray(probability)[:, None]
    return score(["x"], *columns, **{"resamples": 0, **options}).iloc[0]


def values(row: pd.Series) -> tuple[float, ...]:
    return tuple(row[key].value for key in SCORES)


answers = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6)), min_size=2, max_size=40).filter(
    lambda pairs: len({label for label, _ in pairs}) == 2
)


@settings(max_examples=60, deadline=None)
@given(answers)
def test_scores_equal_scikit_learn_under_ties(pairs):
    label, level = np.array(pairs).T
    probability = (level / 7).astype(np.float32)
    entry = one_class(label, probability)
    assert (*values(entry), entry["threshold"]) == pytest.approx(reference(label, probability), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(answers, st.integers(0, 1000), st.integers(1, 6))
def test_resampled_scores_equal_scikit_learn_with_sample_weight(pairs, seed, patients):
    label, level = np.array(pairs).T
    probability, owner = level / 7, np.arange(len(label)) % patients
    names = [f"p{number}" for number in owner]
    result = resample_scores(label[:, None], probability[:, None], patient_index(names), 5, seed).drawn[:, 0]
    drawn = np.concatenate(list(resample_patients(owner.max() + 1, 5, seed)))
    for row, counts in zip(result, drawn, strict=False):
        weight = counts[owner]
        if len(set(label[weight > 0])) < 2:
            assert np.isnan(row).all()
        else:
            assert row == pytest.approx(reference(label, probability, weight)[:4], abs=1e-12)


def test_scores_equal_scikit_learn_on_continuous_scores():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 2000)
    probability = rng.normal(label, 1.5).astype(np.float32)
    precision, recall, thresholds = precision_recall_curve(label, probability)
    f1 = 2 * precision * recall / (precision + recall)
    entry = one_class(label, probability)
    assert entry["max_f1"].value == pytest.approx(f1.max(), abs=1e-12)
    assert entry["threshold"] == thresholds[f1[:-1].argmax()]
    assert entry["accuracy"].value == np.mean((probability > entry["threshold"]) == label)


def test_a_score_equal_to_the_threshold_is_positive_for_f1_and_negative_for_accuracy():
    entry = one_class([0, 0, 1], [0.1, 0.2, 0.9])
    assert (entry["max_f1"].value, entry["threshold"]) == (1.0, 0.9)
    assert entry["accuracy"].value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("label", "why"), [([0, 0], "no positives"), ([1, 1], "no negatives"), ([-1, -1], "no labels")]
)
def test_a_class_that_cannot_be_scored_has_no_score_and_says_why(label, why):
    entry = one_class(label, [0.2, 0.8], resamples=10)
    assert np.isnan([*values(entry), entry["threshold"]]).all()
    assert (entry["note"], entry["auroc"].has_interval) == (why, False)


def test_unknown_labels_are_left_out_of_their_class_only():
    rng = np.random.default_rng(1)
    labels = rng.integers(-1, 2, (300, 2)).astype(np.int8)
    probabilities = rng.random((300, 2))
    for k, entry in class_rows(score(["a", "b"], labels, probabilities, resamples=0)).iterrows():
        known = labels[:, k] >= 0
        assert entry["auroc"].value == pytest.approx(roc_auc_score(labels[known, k], probabilities[known, k]))
        assert entry["images"] == known.sum()


def test_means_say_which_classes_they_cover():
    rng = np.random.default_rng(2)
    labels = np.stack([rng.integers(0, 2, 200), rng.integers(0, 2, 200), np.zeros(200, int)], axis=1)
    probabilities = rng.random((200, 3))
    table = score(["a", "b", "none"], labels.astype(np.int8), probabilities, resamples=50, leave_out=["b", "absent"])
    assert table["class"].tolist() == ["a", "b", "none", MEAN, "mean without b"]
    a, b, _, every, without = table["auroc"]
    assert every.value == mean_auroc(table) == pytest.approx((a.value + b.value) / 2)
    assert without == a
    assert table["note"].tolist()[3:] == [f"{count}; without none (no positives)" for count in ("2 classes", "1 class")]


def test_a_mean_over_no_class_is_not_defined():
    table = score(["a"], np.zeros((5, 1), np.int8), np.ones((5, 1)), resamples=10)
    assert np.isnan(mean_auroc(table))
    assert not table["auroc"][1].has_interval


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), "labels"),
        (np.full((3, 1), 2), np.zeros((3, 1)), "a label is"),
        (np.zeros((3, 1)), np.full((3, 1), np.nan), "not finite"),
    ],
)
def test_wrong_arrays_are_refused(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        score(["a"], labels, probabilities)
