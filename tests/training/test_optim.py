"""The schedule's end points and who is decayed, as in the authors' recipe."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from medslip.errors import InputError
from medslip.training.optim import OptimConfig, learning_rate_at, make_optimizer

CONFIG = OptimConfig(learning_rate=1e-4, warmup_learning_rate=1e-5, final_learning_rate=2e-6, warmup_steps=10)


def test_warm_up_and_cosine_meet_their_end_points():
    rates = [learning_rate_at(step, 101, CONFIG) for step in range(101)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[5] == pytest.approx(5.5e-5)
    assert rates[10] == pytest.approx(1e-4)
    assert rates[55] == pytest.approx((1e-4 + 2e-6) / 2)
    assert rates[100] == pytest.approx(2e-6)
    assert all(low < high for low, high in pairwise(rates[:11]))
    assert all(high > low for high, low in pairwise(rates[10:]))


@pytest.mark.parametrize("steps", [1, 2, 3, 8])
def test_a_short_trial_reaches_the_full_rate(steps):
    """A warm-up longer than the training would never train."""
    rates = [learning_rate_at(step, steps, CONFIG) for step in range(steps)]
    assert max(rates) == pytest.approx(1e-4)


def test_without_warm_up_the_first_step_has_the_full_rate():
    assert learning_rate_at(0, 50, OptimConfig(1e-3, warmup_steps=0)) == pytest.approx(1e-3)


def test_biases_norms_and_temperatures_are_not_decayed():
    """Decay would pull a norm's scale, or a learnt temperature, towards 0."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2), nn.LayerNorm(2))
    model.temperature = nn.Parameter(torch.tensor(1.0))
    frozen = model[2].weight.requires_grad_(False)
    decayed, plain = make_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(model[0].weight)]
    assert {id(p) for p in plain["params"]} == {id(p) for p in model.parameters() if p.ndim < 2}
    assert all(frozen is not p for group in (decayed, plain) for p in group["params"])


@pytest.mark.parametrize(
    "change", [{"learning_rate": -1e-4}, {"warmup_steps": -1}, {"clip_norm": 0.0}, {"weight_decay": -1}]
)
def test_impossible_setting_is_bad_input_that_names_the_key(change):
    with pytest.raises(InputError, match=rf"optim\.{next(iter(change))}"):
        OptimConfig(**change)
