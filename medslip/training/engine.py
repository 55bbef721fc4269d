"""The training loop of every task: an objective (model and loss as one module), batches, validation, saves, logs.

Losses are divided by counts of known labels that are summed over processes and accumulation steps before any gradient is
computed, so that P processes with batch B and K accumulation steps give the gradient of one batch of P x K x B, except
in batch norm, whose statistics are those of each B.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TextIO

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from medslip.checkpoints import PREVIOUS, Progress, load_state, save_state
from medslip.data.loading import Loader
from medslip.errors import STOP_SIGNALS, InputError, NotFinite, Stopped, check_at_least
from medslip.files import naming, to_json, write_text
from medslip.training.distributed import Processes, without_sync
from medslip.training.objective import Objective
from medslip.training.optim import OptimConfig, learning_rate_at, make_optimizer

Precision = Literal["auto", "float32", "bfloat16"]
OnFault = Literal["error", "skip"]


@dataclass(frozen=True)
class TrainConfig:
    """The training loop; the defaults are the paper's recipe where it has one.

    Attributes:
        epochs: Passes over the training list.
        batch_size: Images per process and accumulation step.
        accumulate: Accumulation steps per optimiser step.
        precision: "bfloat16" computes under autocast; "auto" does so if the hardware supports it.
        channels_last: Memory format of images and convolutions; usually faster.
        compile: Whether torch.compile compiles the model first, which takes minutes and needs a C++ compiler. The results are
            those of an uncompiled run, or of one that was not interrupted, up to rounding.
        sync_batch_norm: Whether several GPUs share the statistics of batch norm, so that 4 x 16 images train as 64.
        seed: Random seed.
        save_every: Also save the resumable state every this many optimiser steps; 0 saves only after each epoch.
        log_every: Optimiser steps between lines of the log.
        on_non_finite: A step with a loss or gradient that is not finite never changes the weights. "error" then ends the run
            with exit status 1; "skip" goes on with the next step. Either names the step's images in log.jsonl.
        on_bad_image: "error" ends the run at a training image that cannot be read; "skip" takes another one in its place,
            drawn by seed, epoch and place, and names it in log.jsonl. In validation and test it is always an error.
    """

    epochs: int = 100
    batch_size: int = 64
    accumulate: int = 1
    precision: Precision = "auto"
    channels_last: bool = True
    compile: bool = False
    sync_batch_norm: bool = False
    seed: int = 0
    save_every: int = 0
    log_every: int = 10
    on_non_finite: OnFault = "error"
    on_bad_image: OnFault = "error"

    def __post_init__(self) -> None:
        check_at_least(self, "train.", epochs=1, batch_size=1, accumulate=1, seed=0, save_every=0, log_every=1)


@dataclass(frozen=True)
class Validation:
    """Result of a validation.

    Attributes:
        score: Higher is better; chooses the best checkpoint.
        values: Everything to log.
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
        folder: The run directory: last.safetensors, log.jsonl and TensorBoard events go there.
        validate: Called after each epoch, in every process.
        save_best: Called by the main process when a validation is the best so far, with the progress and its values.
        images: What each position in the data set is called in the log.
    """

    config: TrainConfig
    optim: OptimConfig
    processes: Processes
    folder: Path
    validate: Callable[[], Validation]
    save_best: Callable[[Progress, dict[str, float]], None]
    images: Sequence[object]

    def fit(self, objective: Objective, batches: Loader, resume: bool = False) -> Progress:
        """Train to the last epoch, from the beginning or from the run directory's last state.

        Args:
            objective: Model and losses, already on their device.
            batches: Training batches.
            resume: Whether to continue from folder/last.safetensors, or from the state before it if that is damaged.

        Returns:
            Steps done and the best score.

        Raises:
            InputError: The list is too short for one step; the state belongs to another run; ``sync_batch_norm`` is set for
                several processes without GPUs, or ``compile`` without a compiler.
            NotFinite: A loss, gradient or weight is not finite.
            Stopped: One of the processes got SIGTERM, SIGUSR1 or SIGHUP: the state is saved after the step that it came in,
                or after the validation.
        """
        config, is_main = self.config, self.processes.is_main
        steps_per_epoch = len(batches) // config.accumulate
        if steps_per_epoch == 0:
            raise InputError(
                f"train.batch_size: {config.batch_size} x {config.accumulate} accumulated x {self.processes.world_size} "
                "processes is more images than the training list has; reduce it"
            )
        optimizer, state = make_optimizer(objective, self.optim), self.folder / "last.safetensors"
        progress = self._load(objective, optimizer) if resume else Progress(steps_per_epoch=steps_per_epoch)
        if progress.steps_per_epoch != steps_per_epoch:
            raise InputError(
                f"{self.folder}: the run had {progress.steps_per_epoch} steps per epoch, but now there are {steps_per_epoch}; "
                "resume with the same list, batch size, accumulation and processes"
            )
        if config.compile:
            _check_compiler()
            objective.model.compile()
        wrapped, steps = self.processes.wrap(objective, config.sync_batch_norm), config.epochs * steps_per_epoch
        unread: list[_Taken] = []  # steps whose losses are still on the device
        shown: tuple[Any, Any] = _Console(sys.stdout), _Console(sys.stderr)
        with (
            redirect_stdout(shown[0]),
            redirect_stderr(shown[1]),
            _Log(self.folder, is_main, progress.step) as log,
            tqdm(total=steps, initial=progress.step, unit="step", disable=not is_main, smoothing=0.05) as bar,
            _stop_signals() as signals,
        ):
            while progress.step < steps:
                epoch, done = divmod(progress.step, steps_per_epoch)
                bar.set_description(f"epoch {epoch + 1}/{config.epochs}")
                objective.train()
                groups = _groups(batches.epoch(epoch, done * config.accumulate), config.accumulate)
                for group in itertools.islice(groups, steps_per_epoch - done):
                    rate = learning_rate_at(progress.step, steps, self.optim)
                    found = self._step(wrapped, objective, optimizer, group, progress.step, rate)
                    progress.step += 1
                    unread.append(_Taken(progress.step, group, found))
                    bar.update()
                    ends_epoch = progress.step % steps_per_epoch == 0
                    logs = progress.step % config.log_every == 0 or progress.step == 1
                    # At the end of an epoch the state is saved after validation, with its score.
                    stops = self.processes.any(bool(signals))
                    due = config.save_every > 0 and progress.step % config.save_every == 0
                    saves = (due or stops) and not ends_epoch
                    # Reading the losses waits for the device.
                    if logs or saves or ends_epoch or self.processes.device.type == "cpu":
                        *losses, _ = self._read(unread, log, bar)
                        values = dict(zip(objective.criterion.names, losses, strict=True))
                        unread = []
                    if saves or ends_epoch:
                        self._check_state(objective, optimizer, progress.step)
                    if logs:
                        bar.set_postfix(loss=f"{values['total']:.3f}")
                        log.write("train", progress.step, values | {"learning_rate": rate})
                    if saves and is_main:
                        log.check()
                        save_state(state, objective, optimizer, progress)
                    if stops and not ends_epoch:
                        self._stop(progress)
                self._validate(objective, progress, epoch, log, bar)
                if is_main:
                    save_state(state, objective, optimizer, progress)
                self.processes.wait()
                if self.processes.any(bool(signals)):
                    self._stop(progress)
        return progress

    def _load(self, objective: Objective, optimizer: torch.optim.Optimizer) -> Progress:
        """The last state that is whole, the same one in every process."""
        faults: list[str] = []
        for path in (self.folder / "last.safetensors", self.folder / PREVIOUS):
            fault = ""
            try:
                progress = load_state(path, objective, optimizer)
                if progress.step > (end := self.config.epochs * progress.steps_per_epoch):
                    fault = f"{path}: it is of step {progress.step}, but the run ends at step {end}"
            except InputError as error:
                fault = str(error)
            if not (fault := max(self.processes.gather(fault))):
                if faults and self.processes.is_main:
                    print(f"{faults[0]}; resuming from {path}, of step {progress.step}")
                    path.replace(self.folder / "last.safetensors")  # the next save would keep the damaged one instead
                return progress
            faults.append(fault)
        raise InputError("; ".join(faults))

    def _stop(self, progress: Progress) -> NoReturn:
        self.processes.wait()  # until the main process has saved the state
        raise Stopped(f"stopped by a signal after step {progress.step}; continue with --resume auto")

    def _step(
        self,
        wrapped: nn.Module,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        group: list[Any],
        step: int,
        rate: float,
    ) -> Tensor:
        """One optimiser step over the accumulation steps of ``group``, without effect if the loss or gradient is not finite.

        Returns:
            The losses over all processes, then the gradient norm.
        """
        processes, config = self.processes, self.config
        group = [batch.to(processes.device) for batch in group]
        counts = torch.stack([objective.counts(batch) for batch in group]).sum(dim=0)
        counts = processes.sum(counts.to(processes.device, non_blocking=True))
        total = torch.zeros(len(objective.criterion.names), device=processes.device)
        # The forward pass itself changes the statistics of batch norm.
        before = [buffer.clone() for buffer in objective.buffers()] if config.on_non_finite == "skip" else []
        for position, batch in enumerate(group):
            seed = _mix(config.seed, step * config.accumulate + position, processes.rank)
            torch.manual_seed(seed)
            generator = torch.Generator().manual_seed(seed)
            with without_sync(wrapped, last=position == len(group) - 1):
                with self.autocast():
                    losses = wrapped(batch, counts, generator)
                # Wrapping averages gradients over processes, but the losses already have the counts of all of them.
                (losses[0] * processes.world_size).backward()
            total += losses.detach()
        norm = nn.utils.clip_grad_norm_(objective.parameters(), self.optim.clip_norm or math.inf)
        # One sum, so that all processes decide alike.
        found = processes.sum(torch.cat([total, norm[None] / processes.world_size]))
        skips = ~found.isfinite().all()
        optimizer.found_inf = skips.float()  # type: ignore[attr-defined]  # the device decides, the host does not wait
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for buffer, kept in zip(objective.buffers(), before, strict=False):
            buffer.copy_(torch.where(skips, kept, buffer))
        return found

    def _read(self, steps: list[_Taken], log: _Log, bar: tqdm[Any]) -> list[float]:
        """Log the steps that had no effect and the images that could not be read; returns what the last step found."""
        rows: list[list[float]] = torch.stack([step.found for step in steps]).tolist()
        skips = self.config.on_bad_image == "skip"
        shards = self.processes.gather([step.unreadable for step in steps]) if skips else []
        for place, (step, row) in enumerate(zip(steps, rows, strict=True)):
            for index, reason in sorted(item for shard in shards for item in shard[place].items()):
                image = str(self.images[index])
                if self.processes.is_main and image not in log.unreadable:
                    log.unreadable.add(image)
                    log.write("unreadable", step.number, {"image": image, "reason": reason})
                    bar.write(f"{reason}; training takes another image in its place")
            if not all(map(math.isfinite, row)):
                images = [str(self.images[index]) for shard in self.processes.gather(step.indices) for index in shard]
                log.write("non_finite", step.number, {"images": images})
                shown = ", ".join(images[:3]) + (f" and {len(images) - 3} more (see log.jsonl)" if images[3:] else "")
                message = f"step {step.number}: loss {row[0]:.4g}, gradient norm {row[-1]:.4g}, with the images {shown}"
                if self.config.on_non_finite == "error":
                    raise NotFinite(
                        f"{message}; the step was not taken. Check these images; or start again with a lower "
                        "optim.learning_rate or with train.precision float32; or leave such steps out, with --resume auto "
                        "--train.on_non_finite skip"
                    )
                if self.processes.is_main:
                    bar.write(f"{message}; skipped")
        return rows[-1]

    def _check_state(self, objective: Objective, optimizer: torch.optim.Optimizer, step: int) -> None:
        moments = (tensor for state in optimizer.state.values() for tensor in state.values())
        finite = all(bool(tensor.isfinite().all()) for tensor in (*objective.state_dict().values(), *moments))
        if self.processes.any(not finite):
            raise NotFinite(
                f"after step {step} weights are not finite, and are not saved; start again, in another run directory, with a "
                "lower optim.learning_rate"
            )

    def _validate(self, objective: nn.Module, progress: Progress, epoch: int, log: _Log, bar: tqdm[Any]) -> None:
        objective.eval()
        self.processes.same_buffers(objective)
        with torch.inference_mode(), self.autocast():
            found = self.validate()
        values = found.values | {"epoch": epoch + 1}
        log.write("validation", progress.step, values)
        # A NaN as the first best score could never be beaten.
        best = not math.isnan(found.score) and (progress.best_score is None or found.score > progress.best_score)
        if best:
            progress.best_score = found.score
        if self.processes.is_main:
            shown = ", ".join(f"{name} {value:.4f}" for name, value in found.values.items())
            bar.write(f"epoch {epoch + 1}: {shown}{'  (best)' if best else ''}")
            if best:
                self.save_best(progress, values)

    def autocast(self) -> torch.autocast:
        """The precision in which the model computes."""
        device, precision = self.processes.device, self.config.precision
        enabled = precision == "bfloat16" or (precision == "auto" and _has_fast_bfloat16(device))
        return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _check_compiler() -> None:
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"train.compile: needs a C++ compiler, and there is no {compiler}; install it, or leave this key out"
        )


class _Taken:
    """A step: its number, what it found on the device, and of its images only what is needed to name them."""

    def __init__(self, number: int, group: list[Any], found: Tensor) -> None:
        self.number, self.found = number, found
        self.indices: list[int] = [index for batch in group for index in batch.indices.tolist()]
        self.unreadable: dict[int, str] = {index: why for batch in group for index, why in batch.unreadable.items()}


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect the signals to stop that this process gets; Python allows that in the main thread only."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # as nohup does with SIGHUP
            signal.signal(number, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Console:
    """A stream whose reader may be gone, as the terminal after SIGHUP; training goes on, and saves its state."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            with open(os.devnull, "w") as nowhere:  # also for what Python flushes when it exits
                os.dup2(nowhere.fileno(), self._stream.fileno())


def _has_fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    # Older versions of torch cannot tell.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _groups(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(batches)
    while len(group := list(itertools.islice(iterator, size))) == size:
        yield group


def _mix(*parts: int) -> int:
    """A 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


class _Log:
    """log.jsonl and TensorBoard events of the main process. A resumed run first drops the lines after its state."""

    def __init__(self, folder: Path, active: bool, step: int) -> None:
        self._active, self._folder, self.unreadable = active, folder, set[str]()
        if not active:
            return
        path = folder / "log.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= step] if path.exists() and step else []
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.unreadable = {line["image"] for line in kept if line["kind"] == "unreadable"}
        self._file = path.open("a")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, kind: str, step: int, values: dict[str, Any]) -> None:
        if not self._active:
            return
        line = {"kind": kind, "step": step, "time": round(time.time(), 1)} | values
        self.check()
        with naming(self._folder):
            self._file.write(to_json(line) + "\n")
            self._file.flush()
            for name, value in values.items():
                if isinstance(value, float | int):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def check(self) -> None:
        """Check that the run directory was not taken away, as writing a file would create it again without the others."""
        (self._folder / "log.jsonl").stat()

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            with naming(self._folder):
                self._file.close()
                self._board.flush()  # raises what its thread raised
                self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl: {"kind": ..., "step": ..., and the values}.

    The kinds are "train", "validation", "non_finite" (a step without effect: ``images``) and "unreadable" (a training image,
    at its first time: ``image``, ``reason``).
    Anything else is left out; the first such line is named.

    Raises:
        InputError: There is no such file.
    """
    lines, bad = [], []
    if not path.is_file():
        raise InputError(f"{path}: no such log; give the directory of a training run")
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1], start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and isinstance(line.get("step"), int) and isinstance(line.get("kind"), str):
            lines.append(line)
        else:
            bad.append(number)
    if bad:
        print(f"{path}: line {bad[0]} is not a line of a training log, {len(bad)} in all; they are left out")
    return lines


def count_skipped(folder: Path) -> dict[str, int]:
    """How many steps a run skipped and how many training images it could not read, for its metrics.json."""
    kinds = [line["kind"] for line in read_log(folder / "log.jsonl")]
    return {"skipped_steps": kinds.count("non_finite"), "unreadable_images": kinds.count("unreadable")}
