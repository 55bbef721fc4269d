"""The thumbnail baseline, which a model has to beat: a fair opponent that learns from training images alone."""

import numpy as np
from sklearn.metrics import roc_auc_score

from medslip.evaluation.thumbnails import thumbnail_regression


def images(seed, n):
    """Noise, where class 0 brightens the left half; class 1 is a coin."""
    random = np.random.default_rng(seed)
    pixels, labels = random.integers(0, 200, (n, 8, 8), dtype=np.uint8), random.integers(0, 2, (n, 2), dtype=np.int8)
    pixels[labels[:, 0] == 1, :, :4] += 30
    return pixels, labels


def test_it_finds_what_a_blurred_layout_shows_and_nothing_else():
    """A baseline that learns nothing would flatter every model."""
    train, valid, (test, labels) = images(0, 120), images(1, 60), images(2, 100)
    probabilities = thumbnail_regression(train, valid, test)
    assert probabilities.shape == (100, 2)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert roc_auc_score(labels[:, 0], probabilities[:, 0]) > 0.9
    assert 0.3 < roc_auc_score(labels[:, 1], probabilities[:, 1]) < 0.7
    again = thumbnail_regression(train, valid, test)
    np.testing.assert_array_equal(probabilities, again)


def test_class_without_both_states_to_learn_from_scores_zero():
    (pixels, labels), valid = images(0, 30), images(1, 20)
    labels[:, 1] = 1
    probabilities = thumbnail_regression((pixels, labels), valid, pixels[:5])
    assert (probabilities[:, 1] == 0).all()
    assert (probabilities[:, 0] > 0).any()


def test_validation_images_of_one_state_do_not_stop_it():
    valid = images(1, 20)
    valid[1][:] = 0
    assert thumbnail_regression(images(0, 30), valid, images(2, 5)[0]).shape == (5, 2)


def test_other_test_images_do_not_change_an_images_score():
    """Scaling by the test images would leak them into the baseline."""
    train, valid, (test, _) = images(0, 60), images(1, 30), images(2, 20)
    whole = thumbnail_regression(train, valid, test)
    np.testing.assert_allclose(thumbnail_regression(train, valid, test[:3]), whole[:3])
