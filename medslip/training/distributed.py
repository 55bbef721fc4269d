"""One process, or several under torchrun: the only module that uses torch.distributed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from medslip.errors import InputError
from medslip.model.device import choose_device

Device = Literal["auto", "cpu", "cuda"]
T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        device: The device of this process.
        control: The group for messages between CPUs, which do not wait for the device; None for the default group.
    """

    rank: int
    world_size: int
    device: torch.device
    control: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        if self.world_size > 1:
            flags = torch.tensor(int(flag))
            dist.all_reduce(flags, group=self.control)
            flag = bool(flags)
        return flag

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in rank order. Values are pickled, between our own processes only."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def from_main(self, act: Callable[[], T]) -> T:
        """What a function returns in the main process, for which all wait; its InputError is raised in all."""
        result: T | InputError | None = None
        if self.is_main:
            try:
                result = act()
            except InputError as error:
                result = error
        result = self.gather(result)[0]
        if isinstance(result, InputError):
            raise result
        return cast(T, result)

    def wrap(self, module: nn.Module, sync_batch_norm: bool = False) -> nn.Module:
        """The module, with gradients and, if wanted, the statistics of its batch norm averaged over processes.

        Raises:
            InputError: The statistics of batch norm are to be averaged, but not on GPUs.
        """
        if self.world_size == 1:
            return module
        if sync_batch_norm:
            if self.device.type != "cuda":
                raise InputError("train.sync_batch_norm: processes can share batch norm on GPUs only; leave it out")
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return DistributedDataParallel(module, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def same_buffers(self, module: nn.Module) -> None:
        """Copy the first process's buffers to all, so that all validate with the batch statistics that are saved."""
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()


def without_sync(module: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Keep gradients local unless this is the last accumulation step."""
    if isinstance(module, DistributedDataParallel) and not last:
        return module.no_sync()
    return nullcontext()


@contextmanager
def processes(device: Device = "auto") -> Iterator[Processes]:
    """Join the other processes of torchrun, or run alone.

    Args:
        device: Where to compute; "auto" takes a GPU if there is one.

    Raises:
        InputError: "cuda" was requested and there is none.
    """
    here = choose_device(device)
    world_size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if here.type == "cuda":
        here = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(here)
    if world_size == 1:
        yield Processes(0, 1, here)
        return
    # Python's handler would have to wait for a collective, and so for processes that are interrupted already.
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    dist.init_process_group("nccl" if here.type == "cuda" else "gloo")
    try:
        yield Processes(rank, world_size, here, dist.new_group(backend="gloo") if here.type == "cuda" else None)
    finally:
        dist.destroy_process_group()
        signal.signal(signal.SIGINT, handler)
