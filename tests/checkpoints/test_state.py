"""The saved state: a run goes on with exactly what it had."""

import json

import pytest
import torch
from torch import nn

from medslip.checkpoints import Progress, load_state, save_state
from medslip.errors import InputError
from medslip.model.weights import read_tensors, write_tensors
from medslip.training.optim import OptimConfig, make_optimizer


def trained(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = make_optimizer(model, OptimConfig())
    for _ in range(3):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_weights_optimiser_and_progress_come_back_exactly(tmp_path):
    model, optimizer = trained(0)
    progress = Progress(step=3, best_score=0.5, steps_per_epoch=7)
    save_state(tmp_path / "last.safetensors", model, optimizer, progress)
    other, other_optimizer = trained(1)
    assert load_state(tmp_path / "last.safetensors", other, other_optimizer) == progress
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    expected, found = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert expected.keys() == found.keys()
    for index, values in expected.items():
        assert values.keys() == found[index].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(values[key], found[index][key]) for key in values)
    assert [path.name for path in tmp_path.iterdir()] == ["last.safetensors"]


def test_a_state_of_an_earlier_version_is_still_read(tmp_path):
    """Runs that were begun before an upgrade must go on after it."""
    progress = Progress(step=3, steps_per_epoch=7)
    model, optimizer = trained(0)
    save_state(tmp_path / "last.safetensors", model, optimizer, progress)
    tensors, metadata = read_tensors(tmp_path / "last.safetensors")
    saved = json.loads(metadata["progress"]) | {"best_step": 2}
    write_tensors(tmp_path / "last.safetensors", tensors, {"progress": json.dumps(saved)})
    assert load_state(tmp_path / "last.safetensors", *trained(1)) == progress


def test_state_of_another_model_is_bad_input(tmp_path):
    save_state(tmp_path / "last.safetensors", *trained(0), Progress())
    other = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    with pytest.raises(InputError, match="the weights do not fit the model"):
        load_state(tmp_path / "last.safetensors", other, make_optimizer(other, OptimConfig()))


def test_another_file_is_bad_input(tmp_path):
    """best.safetensors has no optimiser: going on with it would be another training."""
    write_tensors(tmp_path / "best.safetensors", {"a": torch.ones(1)}, {"card": "{}"})
    with pytest.raises(InputError, match=r"resume from a run's last\.safetensors"):
        load_state(tmp_path / "best.safetensors", *trained(0))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(InputError, match="not a complete safetensors file"):
        load_state(tmp_path / "cut.safetensors", *trained(0))
