"""Intervals: seeded, over patients, of the right width."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from medslip.evaluation.bootstrap import Estimate, Resampled, estimate, patient_index, resample_patients
from medslip.evaluation.classification import SCORES, score


def noisy(images: int, classes: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, classes)) < 0.3).astype(np.int8)
    return labels, rng.normal(labels, 1.0)


NAMES = ["a", "b", "c"]


def auroc(*arguments, row: str = "a", key: str = "auroc", **options) -> Estimate:
    """One score of one row."""
    return score(*arguments, **options).set_index("class")[key][row]


def test_an_estimate_prints_its_interval_and_says_when_it_has_none():
    """Tables, figures and the terminal all print it."""
    assert str(Estimate(0.9712, 0.9653, 0.9761, 998, 2)) == "0.971 [0.965, 0.976]"
    assert f"{Estimate(0.1, -0.2, 0.25):+.2f}" == "+0.10 [-0.20, +0.25]"
    assert (str(Estimate(0.5)), str(Estimate(float("nan")))) == ("0.500", "-")
    assert [Estimate(0, *ends).excludes_zero for ends in ((0.1, 0.2), (-0.2, -0.1), (-0.1, 0.1), ())] == [1, 1, 0, 0]
    assert Estimate(1.0, 0.0, 2.0, 9, 1).to_dict() == {"value": 1, "low": 0, "high": 2, "resamples": 9, "left_out": 1}


def test_images_of_one_patient_share_a_number_and_unknown_patients_do_not():
    index = patient_index(["b", "", "a", "b", ""])
    assert index[0] == index[3]
    assert len(set(index)) == 4
    assert sorted(set(index)) == [0, 1, 2, 3]
    assert len(patient_index([])) == 0


def test_resamples_do_not_depend_on_the_block():
    blocks = [np.concatenate(list(resample_patients(50, 20, 3, block))) for block in (1, 7, 32)]
    assert all(np.array_equal(blocks[0], other) for other in blocks[1:])
    assert (blocks[0].sum(axis=1) == 50).all()


def test_resampling_is_uniform_over_patients():
    drawn = np.concatenate(list(resample_patients(20, 4000, 0)))
    assert drawn.mean(axis=0) == pytest.approx(np.ones(20), abs=0.08)
    assert drawn.var() == pytest.approx(1 - 1 / 20, abs=0.03)


def test_the_same_seed_gives_the_same_intervals_and_another_gives_others():
    labels, probabilities = noisy(200, 3)
    first, again, other = (score(NAMES, labels, probabilities, resamples=60, seed=seed) for seed in (1, 1, 2))
    assert first["auroc"].tolist() == again["auroc"].tolist()
    assert first["auroc"].tolist() != other["auroc"].tolist()


def test_duplicating_every_image_of_a_patient_leaves_the_interval_unchanged():
    labels, probabilities = noisy(150)
    patients = [f"{number:03}" for number in range(150)]
    once = score(["a"], labels, probabilities, patients, resamples=200)
    twice = score(["a"], np.tile(labels, (2, 1)), np.tile(probabilities, (2, 1)), patients * 2, resamples=200)
    for key in SCORES:
        found, expected = twice[key][0], once[key][0]
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_duplicates_taken_for_independent_images_would_narrow_the_interval():
    labels, probabilities = (np.tile(array, (4, 1)) for array in noisy(150))
    patients = [f"{number}" for number in range(150)] * 4
    widths = []
    for who in (patients, None):
        found = auroc(["a"], labels, probabilities, who, resamples=300)
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.25)  # sqrt(4)


def test_interval_of_a_proportion_is_that_of_the_binomial():
    """Every positive is at the threshold: the accuracy is the share of negatives, binomial in resamples."""
    labels = np.repeat([1, 0], [100, 300])[:, None].astype(np.int8)
    probabilities = np.repeat([1.0, 0.5, 0.0], [100, 60, 240])[:, None]
    found = auroc(["a"], labels, probabilities, resamples=3000, key="accuracy")
    low, high = binom.ppf([0.025, 0.975], 400, 0.75) / 400
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


def test_intervals_cover_the_true_auroc_about_as_often_as_they_say():
    truth, covered, trials = 0.7602, 0, 120  # the AUROC of N(1, 1) against N(0, 1)
    for trial in range(trials):
        found = auroc(["a"], *noisy(200, seed=trial), resamples=200)
        covered += found.low <= truth <= found.high
    assert 0.90 <= covered / trials <= 0.99


def test_resamples_without_positives_are_left_out_and_counted():
    labels = np.zeros((40, 2), np.int8)
    labels[:2, 0], labels[:20, 1] = 1, 1
    probabilities = np.random.default_rng(0).random((40, 2))
    rare, common, mean = score(["rare", "common"], labels, probabilities, resamples=400)["auroc"]
    assert rare.left_out / 400 == pytest.approx((1 - 2 / 40) ** 40, abs=0.06)
    assert rare.resamples + rare.left_out == 400
    assert (common.left_out, mean.left_out) == (0, rare.left_out)


def test_percentiles_skip_what_is_not_defined():
    assert not estimate(0.5, np.array([np.nan]), 9).has_interval
    found = estimate(50.0, np.array([*range(101), np.nan], float), 9)
    assert (found.low, found.high) == pytest.approx((2.5, 97.5))
    assert (found.resamples, found.left_out) == (101, 1)


def test_a_score_that_rests_on_one_patient_has_no_interval():
    """An interval without width, or of the resamples that happen to have the patient, would look certain."""
    drawn = np.random.default_rng(0).random((50, 2, 3))
    found = Resampled(drawn[0], drawn, np.array([[2, 1, 0], [9, 9, 9]]))
    assert [[each.has_interval for each in row] for row in found.estimates()] == [[True, False, False], [True] * 3]
    assert [each.has_interval for each in found.mean().estimates()] == [True, False, False]
    assert [each.has_interval for each in (found[1] - found[0]).estimates()] == [True, False, False]


@pytest.mark.parametrize("label", [0, 1])
def test_a_class_whose_positives_or_negatives_are_one_patients_has_no_interval(label):
    """The AUROC of one patient's positives would look as certain as that of forty; so would a mean with it."""
    labels = np.full((40, 2), 1 - label, np.int8)
    labels[:3, 0], labels[:20, 1] = label, label
    probabilities = np.random.default_rng(0).random((40, 2))
    alone = ["p"] * 3 + [""] * 37
    table = score(["rare", "common"], labels, probabilities, alone, 50, leave_out=["rare"]).set_index("class")
    for key in SCORES:
        has = {name: found.has_interval for name, found in table[key].items()}
        assert has == {"rare": False, "common": True, "mean": False, "mean without rare": True}
    assert not np.isnan(table["auroc"]["rare"].value)
