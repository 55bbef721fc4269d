"""One process: everything that many processes do must cost and change nothing. (Two of them: test_engine.py.)"""

import pytest
import torch
from torch import nn

from medslip.errors import InputError
from medslip.training import distributed
from medslip.training.distributed import Processes, processes, without_sync


def test_alone_nothing_is_exchanged():
    with processes("cpu") as world:
        assert (world.rank, world.world_size, world.device.type, world.is_main) == (0, 1, "cpu", True)
        tensor, module = torch.ones(2), nn.Linear(1, 1)
        assert world.sum(tensor) is tensor
        assert world.gather({"a": 1}) == [{"a": 1}]
        assert world.wrap(module) is module
        world.same_buffers(module)
        world.wait()
        with without_sync(module, last=False):
            module(torch.ones(1, 1)).sum().backward()
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_bad_input():
    with pytest.raises(InputError, match="use --device cpu"), processes("cuda"):
        pass
    with processes("auto") as world:
        assert world.device.type == "cpu"


def test_processes_on_gpus_share_batch_norm_if_told_to(monkeypatch):
    """Small batches per GPU would each keep their own statistics; and checkpoints must not change their keys."""
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda module, device_ids: module)
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    keys, gpu = list(module.state_dict()), Processes(0, 2, torch.device("cuda", 0))
    assert type(gpu.wrap(module)[1]) is nn.BatchNorm2d
    shared = gpu.wrap(module, sync_batch_norm=True)
    assert type(shared[1]) is nn.SyncBatchNorm
    assert list(shared.state_dict()) == keys
    assert shared[1].weight is module[1].weight  # the optimiser has it already
    with pytest.raises(InputError, match=r"train\.sync_batch_norm"):
        Processes(0, 2, torch.device("cpu")).wrap(module, sync_batch_norm=True)
