"""Tensor files are read completely or not at all, and never half into a model."""

import pytest
import torch
from torch import Tensor, nn

from medslip.errors import InputError
from medslip.model.weights import load_strictly, read_tensors, write_tensors


def test_tensors_and_metadata_come_back_exactly(tmp_path):
    tensors = {
        "a": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "b": torch.tensor(3),
        "c": torch.randn(6)[::2].requires_grad_(),
        "d": torch.zeros(0, 2, dtype=torch.bfloat16),
    }
    write_tensors(tmp_path / "deep" / "x.safetensors", tensors, {"note": "é"})
    found, metadata = read_tensors(tmp_path / "deep" / "x.safetensors")
    assert metadata == {"note": "é"}
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.safetensors"]


def test_a_full_disk_leaves_the_earlier_file_and_nothing_else(tmp_path):
    """safetensors raises an error of its own, and writes to a temporary file of its own."""
    resource = pytest.importorskip("resource")
    path, limits = tmp_path / "x.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    write_tensors(path, {"a": torch.zeros(3)}, {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large.*x\.safetensors"):
            write_tensors(path, {"a": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.equal(read_tensors(path)[0]["a"], torch.zeros(3))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_every_flipped_byte_that_changes_something_is_noticed(tmp_path):
    """A damaged checkpoint would load, and score as if training had been worse."""
    path, tensors = (
        tmp_path / "x.safetensors",
        {"a": torch.randn(3), "b": torch.arange(2), "c": torch.ones((), dtype=torch.bool)},
    )
    write_tensors(path, tensors, {"card": "{}"})
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        try:
            found, metadata = read_tensors(path)
        except InputError:
            continue
        assert metadata["card"] == "{}", place  # it was a space in the header, or the name of the checksum
        assert all(torch.equal(tensor, found[name]) for name, tensor in tensors.items()), place


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_truncated_file_is_bad_input(tmp_path, kept):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.randn(8)}, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        read_tensors(path)


def test_missing_file_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        read_tensors(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"a directory; give a file in it, such as best\.safetensors"):
        read_tensors(tmp_path)


def test_misfit_is_reported_whole_and_changes_nothing():
    """A weight that stays random unnoticed is the error of the authors' grounding script."""
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrong = {
        "0.weight": torch.zeros(3, 2),
        "0.bias": torch.zeros(4),
        "1.weight": torch.zeros(1, 3),
        "2.bias": torch.zeros(1),
    }
    with pytest.raises(InputError) as error:
        load_strictly(model, wrong, "x.safetensors")
    assert str(error.value) == (
        "x.safetensors: the weights do not fit the model: 1 missing (1.bias); 1 left over (2.bias); "
        "1 of another shape (0.bias (4,) instead of (3,))"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", [Tensor.cfloat, Tensor.int, Tensor.to_sparse, lambda tensor: tensor.to("meta")])
def test_tensors_of_another_kind_are_bad_input(kind):
    """torch drops imaginary parts silently, and fails on the others half-way."""
    with pytest.raises(InputError, match=r"1 of another kind \(bias\)"):
        load_strictly(nn.Linear(1, 3), {"weight": torch.ones(3, 1), "bias": kind(torch.ones(3))}, "x")


def test_long_report_is_cut_but_counted():
    with pytest.raises(InputError, match=r"6 missing \(0.bias, 0.weight, 1.bias, 1.weight and 2 more\)"):
        load_strictly(nn.Sequential(*(nn.Linear(1, 1) for _ in range(3))), {}, "x")
