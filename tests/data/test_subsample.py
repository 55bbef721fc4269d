"""Subsamples: seeded, nested, stratified."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.data.subsample import choose_subsample
from medslip.errors import InputError

strata = st.lists(st.sampled_from("abc"), min_size=1, max_size=300)
fractions = st.floats(0.001, 1)
seeds = st.integers(0, 1000)


@given(strata, fractions, fractions, seeds)
@settings(max_examples=60, deadline=None)
def test_a_smaller_subsample_is_part_of_a_larger_one(labels, one, other, seed):
    """Otherwise results at 1 % and 10 % would also differ by the luck of the images, or a run not be repeatable."""
    small, large = sorted((one, other))
    assert set(choose_subsample(labels, small, seed)) <= set(choose_subsample(labels, large, seed))


@given(strata, fractions, seeds)
@settings(max_examples=60, deadline=None)
def test_the_number_is_the_fraction_of_the_whole_and_of_each_stratum(labels, fraction, seed):
    chosen = choose_subsample(labels, fraction, seed)
    number = max(1, round(fraction * len(labels)))
    assert len(chosen) == len(set(chosen)) == number
    assert (np.diff(chosen) > 0).all()
    taken, sizes = Counter(labels[index] for index in chosen), Counter(labels)
    for name, size in sizes.items():
        share = size / len(labels)
        # Within 1 of its own share of the cut, and the cut within one image per stratum of the number.
        assert abs(taken[name] - number * share) <= 1 + len(sizes) * share + 1e-9


def test_fraction_1_is_everything_and_seeds_differ():
    labels = ["marked", "empty"] * 100
    assert np.array_equal(choose_subsample(labels, 1.0, 0), np.arange(200))
    assert not np.array_equal(choose_subsample(labels, 0.1, 0), choose_subsample(labels, 0.1, 1))
    assert Counter(labels[index] for index in choose_subsample(labels, 0.1, 0)) == {"marked": 10, "empty": 10}


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.01, float("nan")])
def test_a_fraction_out_of_range_is_an_error(fraction):
    with pytest.raises(InputError, match=r"data\.fraction: .* is not above 0 and at most 1"):
        choose_subsample(["a"], fraction, 0)
