"""The training loop, for every task: an objective (model and loss as one module), batches, validation, saves, logs.

Losses divide by counts of known labels that are summed over processes and accumulation steps before any gradient is
computed, so that P processes with batch B and K accumulation steps give the gradient of one batch of P x K x B: but
for batch norm, whose statistics are those of each B.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from medslip.checkpoints import Progress, load_state, save_state
from medslip.errors import InputError
from medslip.files import to_json, write_text
from medslip.training.distributed import Processes, without_sync
from medslip.training.optim import OptimConfig, learning_rate_at, make_optimizer

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class TrainConfig:
    """The loop; defaults are the published recipe where there is one.

    Attributes:
        epochs: Passes over the training list.
        batch_size: Images a process and accumulation step.
        accumulate: Accumulation steps an optimiser step.
        precision: "bfloat16" computes under autocast; "auto" does so where the hardware has it.
        channels_last: Memory format of images and convolutions; usually faster.
        seed: Everything random follows from it.
        save_every: Also save the resumable state every so many optimiser steps; 0 saves after each epoch alone.
        log_every: Optimiser steps between two lines of the log.
    """

    epochs: int = 100
    batch_size: int = 64
    accumulate: int = 1
    precision: Precision = "auto"
    channels_last: bool = True
    seed: int = 0
    save_every: int = 0
    log_every: int = 10

    def __post_init__(self) -> None:
        least = {"epochs": 1, "batch_size": 1, "accumulate": 1, "seed": 0, "save_every": 0, "log_every": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise InputError(f"train.{name}: {getattr(self, name)} is less than {value}")


class Objective(Protocol):
    """What is trained: a module that holds the model and turns a batch into losses."""

    def counts(self, batch: Any) -> Tensor:
        """Known labels of a batch, a vector of float counts, one a loss."""

    def __call__(self, batch: Any, counts: Tensor, generator: torch.Generator) -> Tensor:
        """Losses, each divided by its count: a vector, the total first."""


class Batches(Protocol):
    """The training batches of this process."""

    def __len__(self) -> int:
        """Batches an epoch, the same in every process."""

    def epoch(self, epoch: int, start: int = 0) -> Iterable[Any]:
        """The batches of an epoch from the start-th on; each has to(device)."""


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        score: Higher is better; chooses the best checkpoint.
        values: Everything worth logging.
    """

    score: float
    values: dict[str, float]


@dataclass
class Trainer:
    """Trains an objective.

    Attributes:
        config: The loop.
        optim: The optimiser.
        processes: One or many.
        folder: The run folder: last.safetensors, log.jsonl and TensorBoard events go there.
        loss_names: What the objective's loss vector holds, the total first.
        validate: Called after each epoch, in every process.
        save_best: Called by the main process when a validation is the best so far, with the progress and its values.
    """

    config: TrainConfig
    optim: OptimConfig
    processes: Processes
    folder: Path
    loss_names: tuple[str, ...]
    validate: Callable[[], Validation]
    save_best: Callable[[Progress, dict[str, float]], None]

    def fit(self, objective: nn.Module, batches: Batches, resume: bool = False) -> Progress:
        """Train to the last epoch, from the beginning or from the run folder's last state.

        Args:
            objective: An Objective, already on its device.
            batches: Training batches.
            resume: Whether to go on from folder/last.safetensors.

        Returns:
            How far it came and what was best.

        Raises:
            InputError: The list is too short for one step, or the state is of another run.
        """
        config = self.config
        steps_per_epoch = len(batches) // config.accumulate
        if steps_per_epoch == 0:
            raise InputError(
                f"train.batch_size: {config.batch_size} x {config.accumulate} accumulated x {self.processes.world_size} "
                "processes is more than the training list has; make it smaller"
            )
        optimizer = make_optimizer(objective, self.optim)
        progress = Progress(steps_per_epoch=steps_per_epoch)
        if resume:
            progress = load_state(self.folder / "last.safetensors", objective, optimizer)
            if progress.steps_per_epoch != steps_per_epoch:
                raise InputError(
                    f"{self.folder}: the run had {progress.steps_per_epoch} steps an epoch, now there are "
                    f"{steps_per_epoch}; resume with the same list, batch size, accumulation and processes"
                )
        wrapped = self.processes.wrap(objective)
        steps = config.epochs * steps_per_epoch
        with _Log(self.folder, self.processes.is_main, progress.step) as log, self._bar(steps, progress) as bar:
            while progress.step < steps:
                epoch, done = divmod(progress.step, steps_per_epoch)
                bar.set_description(f"epoch {epoch + 1}/{config.epochs}")
                objective.train()
                for group in _groups(batches.epoch(epoch, done * config.accumulate), config.accumulate):
                    rate = learning_rate_at(progress.step, steps, self.optim)
                    losses = self._step(wrapped, objective, optimizer, group, progress.step, rate)
                    progress.step += 1
                    self._after_step(objective, optimizer, progress, losses, rate, log, bar)
                    if progress.step % steps_per_epoch == 0:
                        break
                self._after_epoch(objective, optimizer, progress, epoch, log, bar)
        return progress

    def _step(
        self,
        wrapped: nn.Module,
        objective: Any,
        optimizer: torch.optim.Optimizer,
        group: list[Any],
        step: int,
        rate: float,
    ) -> Tensor:
        """One optimiser step over the accumulation steps of ``group``; returns the losses of all processes together."""
        processes, config = self.processes, self.config
        group = [batch.to(processes.device) for batch in group]
        counts = processes.sum(torch.stack([objective.counts(batch) for batch in group]).sum(dim=0))
        total = torch.zeros(len(self.loss_names), device=processes.device)
        for position, batch in enumerate(group):
            seed = _mix(config.seed, step * config.accumulate + position, processes.rank)
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(seed)
            with without_sync(wrapped, last=position == len(group) - 1):
                with self.autocast():
                    losses = wrapped(batch, counts, generator)
                # Wrapping averages gradients over processes; the losses are already shares of a global mean.
                (losses[0] * processes.world_size).backward()
            total += losses.detach()
        if self.optim.clip_norm is not None:
            nn.utils.clip_grad_norm_(objective.parameters(), self.optim.clip_norm)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return processes.sum(total)

    def _after_step(
        self,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        losses: Tensor,
        rate: float,
        log: _Log,
        bar: tqdm[Any],
    ) -> None:
        step, config = progress.step, self.config
        bar.update()
        # The state after the last step of an epoch is saved with what its validation found.
        ends_epoch = step % progress.steps_per_epoch == 0
        saves = config.save_every > 0 and step % config.save_every == 0 and not ends_epoch
        logs = step % config.log_every == 0 or step == 1
        if not (logs or saves or ends_epoch):
            return  # reading the losses would wait for the device
        values = dict(zip(self.loss_names, losses.tolist(), strict=True))
        total = values[self.loss_names[0]]
        if not math.isfinite(total):
            raise InputError(
                f"the loss is {total} at step {step}; lower optim.learning_rate, or take train.precision float32, in another "
                "run folder"
            )
        if logs:
            bar.set_postfix(loss=f"{total:.3f}")
            log.write("train", step, values | {"learning_rate": rate})
        if saves and self.processes.is_main:
            save_state(self.folder / "last.safetensors", objective, optimizer, progress)

    def _after_epoch(
        self,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        epoch: int,
        log: _Log,
        bar: tqdm[Any],
    ) -> None:
        objective.eval()
        self.processes.same_buffers(objective)
        with torch.inference_mode(), self.autocast():
            found = self.validate()
        # NaN beats nothing, and nothing would ever beat it.
        best = not math.isnan(found.score) and (progress.best_score is None or found.score > progress.best_score)
        if best:
            progress.best_score = found.score
        values = found.values | {"epoch": epoch + 1}
        log.write("validation", progress.step, values)
        if self.processes.is_main:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in found.values.items())
            bar.write(f"epoch {epoch + 1}: {shown}{'  (best)' if best else ''}")
            if best:
                self.save_best(progress, values)
            save_state(self.folder / "last.safetensors", objective, optimizer, progress)
        self.processes.wait()

    def autocast(self) -> torch.autocast:
        """The precision that the model computes in."""
        device, wanted = self.processes.device, self.config.precision
        enabled = wanted == "bfloat16" or (wanted == "auto" and _computes_bfloat16(device))
        return torch.autocast(device.type, torch.bfloat16, enabled=enabled)

    def _bar(self, steps: int, progress: Progress) -> tqdm[Any]:
        return tqdm(total=steps, initial=progress.step, unit="step", disable=not self.processes.is_main, smoothing=0.05)


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there: a GPU that has it, or a CPU with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # torch before 2.6 or so cannot tell: float32 there.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _groups(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(batches)
    while len(group := list(itertools.islice(iterator, size))) == size:
        yield group


def _mix(*parts: int) -> int:
    """A 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class _Log:
    """log.jsonl and TensorBoard events, from the main process alone. A resumed run first drops the lines after its state."""

    def __init__(self, folder: Path, active: bool, step: int) -> None:
        self._file, self._board = None, None
        if active:
            path = folder / "log.jsonl"
            kept = [line for line in read_log(path) if line["step"] <= step] if path.exists() and step else []
            write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
            self._file = path.open("a")
            # Events at the step of the state were written before it was saved; only later ones are of a future undone.
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        if self._file is None or self._board is None:
            return
        line = {"kind": kind, "step": step, "time": round(time.time(), 1)} | values
        self._file.write(to_json(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl: {"kind": "train" or "validation", "step": ..., and the values}."""
    with path.open() as file:
        return [json.loads(line) for line in file if line.endswith("\n")]
