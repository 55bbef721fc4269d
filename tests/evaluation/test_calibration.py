"""Calibration against scikit-learn, SciPy and closed forms."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from medslip.evaluation.calibration import BINS, CALIBRATION_SCORES, calibration, fit_platt


def of_one(label, probability, patients=None, resamples=0, seed=0):
    label, probability = np.asarray(label, np.int8), np.asarray(probability)
    patients = [""] * len(label) if patients is None else patients
    table, bins = calibration(["x"], label[:, None], probability[:, None], patients, resamples, seed)
    return SimpleNamespace(**table.iloc[0], bins=bins.drop(columns="class"))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 300), st.integers(0, 2**32 - 1), st.sampled_from([3, 50, 10**6]))
def test_scores_are_those_of_scikit_learn(images, seed, grain):
    """A figure that another program would not reproduce, with and without equal probabilities."""
    random = np.random.default_rng(seed)
    probability = random.integers(0, grain + 1, images) / grain
    label = random.integers(0, 2, images)
    label[:2] = 0, 1
    found = of_one(label, probability)
    assert found.brier.value == pytest.approx(brier_score_loss(label, probability))
    share, mean = calibration_curve(label, probability, n_bins=BINS, strategy="quantile")
    np.testing.assert_allclose(found.bins["frequency"].map(float), share)
    np.testing.assert_allclose(found.bins["probability"], mean)
    sizes = found.bins["images"].to_numpy()
    assert sizes.sum() == images
    assert found.ece.value == pytest.approx((sizes * np.abs(share - mean)).sum() / images)
    assert found.max_error.value == pytest.approx(np.abs(share - mean).max())


def test_chance_level_is_the_mean_deviation_of_a_binomial():
    """One bin of n equal probabilities: E|K/n - p|; the chance level would excuse or accuse wrongly."""
    images = 400
    found = of_one(np.arange(images) % 2, np.full(images, 0.5))
    assert len(found.bins) == 1
    assert found.chance_ece == pytest.approx(np.sqrt(0.25 / images) * np.sqrt(2 / np.pi), rel=0.15)


def test_a_calibrated_model_is_below_the_chance_limit_as_often_as_said():
    """The limit would not mean what it says."""
    random = np.random.default_rng(0)
    below = 0
    for _ in range(100):
        probability = random.random(200)
        found = of_one(random.random(200) < probability, probability)
        below += found.ece.value <= found.chance_limit
    assert 88 <= below <= 100


def test_unknown_labels_are_left_out():
    """Images without a label would count as without the class."""
    random = np.random.default_rng(0)
    label, probability = random.integers(-1, 2, 200), random.random(200)
    known = label >= 0
    every, some = of_one(label, probability), of_one(label[known], probability[known])
    assert (every.ece, every.brier, every.chance_ece) == (some.ece, some.brier, some.chance_ece)
    assert every.bins.equals(some.bins)


@pytest.mark.parametrize(
    ("label", "why"), [([0, 0], "no positives"), ([1, 1], "no negatives"), ([-1, -1], "no labels"), ([], "no labels")]
)
def test_a_class_that_cannot_be_judged_is_undefined(label, why):
    """A division by zero, or a perfect-looking figure of no meaning."""
    found = of_one(label, np.linspace(0, 1, len(label)))
    assert (found.note, len(found.bins)) == (why, 0)
    assert np.isnan([found.ece.value, found.brier.value, found.chance_ece]).all()


def test_intervals_resample_patients_and_repeat():
    """Twenty copies of each image, of one patient each, would look like twenty times the evidence."""
    random = np.random.default_rng(0)
    label, probability = random.integers(0, 2, 60), random.random(60)
    once = of_one(label, probability, [str(k) for k in range(60)], 200, 3)
    owners = [str(k) for k in range(60)] * 20
    many = of_one(np.tile(label, 20), np.tile(probability, 20), owners, 200, 3)
    assert (many.brier.low, many.brier.high) == pytest.approx((once.brier.low, once.brier.high))
    assert once.brier.low < once.brier.value < once.brier.high
    assert once.brier == of_one(label, probability, [str(k) for k in range(60)], 200, 3).brier


def test_probability_outside_0_to_1_is_refused():
    """Logits by mistake would be binned without a word."""
    with pytest.raises(ValueError, match="outside"):
        of_one([0, 1], [0.5, 1.5])


def test_bins_have_wilson_intervals():
    """Error bars of another formula."""
    found = of_one([1, 0, 0, 0, 0, 0, 1, 0], np.full(8, 0.5)).bins["frequency"][0]
    expected = binomtest(2, 8).proportion_ci(method="wilson")
    assert (found.value, found.low, found.high) == (0.25, expected.low, expected.high)


def test_recalibration_undoes_a_known_distortion():
    """Platt scaling would be fitted to something else than the log odds."""
    random = np.random.default_rng(0)
    true = random.random(20000)
    label = (random.random(20000) < true).astype(np.int8)
    odds = np.log(true / (1 - true))
    distorted = 1 / (1 + np.exp(-(3 * odds + 1)))
    platt = fit_platt(label, distorted)
    assert platt.slope == pytest.approx(1 / 3, rel=0.05)
    assert platt.intercept == pytest.approx(-1 / 3, abs=0.05)
    after = of_one(label, platt(distorted))
    assert after.ece.value < 0.02 < of_one(label, distorted).ece.value


def test_recalibration_is_finite_where_the_classes_are_told_apart_perfectly():
    """Infinite slope: every probability 0 or 1."""
    platt = fit_platt(np.array([0, 0, 0, 1, 1], np.int8), np.array([0.0, 0.1, 0.2, 0.9, 1.0], np.float32))
    assert np.isfinite([platt.slope, platt.intercept]).all()
    assert 0 < platt(np.array([0.0]))[0] < 0.5 < platt(np.array([1.0]))[0] < 1


@pytest.mark.parametrize("label", [[0, 0], [1, 1], [-1, 1], []])
def test_no_recalibration_without_both_labels(label):
    """It would say that every image has the class, or none."""
    assert fit_platt(np.array(label, np.int8), np.linspace(0, 1, len(label))) is None


def test_a_class_known_of_one_patient_alone_has_no_interval():
    """Its resamples are all the same, and would look certain."""
    random = np.random.default_rng(0)
    label = np.where(np.arange(60) < 20, random.integers(0, 2, 60), -1)
    found = of_one(label, random.random(60), ["p"] * 20 + [""] * 40, 20)
    assert not np.isnan(found.ece.value)
    assert not any(getattr(found, key).has_interval for key in CALIBRATION_SCORES)
