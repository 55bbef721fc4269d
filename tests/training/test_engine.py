"""The loop, with a toy objective: batches however cut give the same training, and so does one that was interrupted.

Run as a script, this file is one of the two processes of the fixture two_processes.
"""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from medslip.errors import InputError, NotFinite, Stopped
from medslip.model.weights import read_tensors, write_tensors
from medslip.training import engine
from medslip.training.distributed import processes
from medslip.training.engine import TrainConfig, Trainer, Validation, read_log
from medslip.training.optim import OptimConfig, make_optimizer

N = 24

exact = partial(TrainConfig, precision="float32")
"""By itself the loop may compute in bfloat16, too coarse to compare."""


@dataclass
class Rows:
    """Inputs and targets; NaN targets are unknown."""

    x: torch.Tensor
    y: torch.Tensor
    indices: torch.Tensor
    unreadable: dict[int, str] = field(default_factory=dict)

    def to(self, device):
        return replace(self, x=self.x.to(device), y=self.y.to(device))


class RowBatches:
    """N rows in an order of their own each epoch, cut into batches; process r of w takes every w-th batch."""

    def __init__(self, batch, rank=0, world_size=1, poison=None):
        generator = torch.Generator().manual_seed(3)
        self.x, self.y = torch.randn(N, 3, generator=generator), torch.randn(N, generator=generator)
        # Unevenly known: a mean of the batches' means is another number than the mean.
        self.y[torch.rand(N, generator=generator) < 0.4] = torch.nan
        self.batch, self.rank, self.world_size, self.poison = batch, rank, world_size, poison

    def __len__(self):
        return N // (self.batch * self.world_size)

    def epoch(self, epoch, start=0):
        order = torch.from_numpy(np.random.default_rng(epoch).permutation(N))
        for index in range(start, len(self)):
            first = (index * self.world_size + self.rank) * self.batch
            rows = order[first : first + self.batch]
            x = self.x[rows] * (math.inf if (epoch, index) == self.poison else 1)
            # The first process finds the same row unreadable in each epoch.
            yield Rows(x, self.y[rows], rows, {} if self.rank else {7: "row 7: unreadable"})


class Toy(nn.Module):
    """Squared error of a small network over the known targets; ``noise`` is drawn from both sources of randomness."""

    def __init__(self, noise=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))
        self.noise = noise
        self.criterion = SimpleNamespace(names=("total", "error"))

    def counts(self, batch):
        return (~batch.y.isnan()).sum().float()[None]

    def forward(self, batch, counts, generator):
        known = ~batch.y.isnan()
        found = self.net(batch.x)[:, 0]
        found = found + self.noise * (torch.randn(len(found), generator=generator) + torch.randn(len(found)))
        loss = (found[known] - batch.y[known]).square().sum() / counts[0]
        return torch.stack([loss, loss])


def trainer(folder, world, config, scores=(), **optim):
    """A trainer whose validations find ``scores``, in turn."""
    folder.mkdir(exist_ok=True)
    found, saved = iter(scores), []

    def validate():
        score = next(found, 0.0)
        return Validation(score, {"validation_score": score})

    def save_best(progress, values):
        saved.append((progress.step, values["validation_score"], values["epoch"]))

    optim = {"learning_rate": 0.05, "warmup_steps": 2, "clip_norm": None} | optim
    made = Trainer(config, OptimConfig(**optim), world, folder, validate, save_best, [f"row {k}" for k in range(N)])
    made.saved = saved
    return made


def fit(folder, config=None, batch=8, poison=None, toy=None, resume=False, scores=(), **optim):
    """Train a toy alone; returns progress, toy and trainer."""
    config = config or exact(epochs=2, log_every=1)
    toy = toy or Toy()
    with processes("cpu") as world:
        made = trainer(folder, world, config, scores, **optim)
        return made.fit(toy, RowBatches(batch, poison=poison), resume), toy, made


def plain_sgd(monkeypatch):
    """AdamW forgives a gradient of another scale; this does not."""
    monkeypatch.setattr(
        engine, "make_optimizer", lambda model, config: torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    )


def assert_same_weights(first, second, **tolerance):
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, **tolerance)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_batches_equal_one_big_batch(tmp_path, monkeypatch, accumulate):
    """Whoever has a smaller GPU must get the same model."""
    plain_sgd(monkeypatch)
    _, big, _ = fit(tmp_path / "big", batch=8)
    config = exact(epochs=2, log_every=1, accumulate=accumulate)
    _, small, _ = fit(tmp_path / "small", config, batch=8 // accumulate)
    assert_same_weights(big.state_dict(), small.state_dict(), rtol=1e-5, atol=1e-6)
    losses = [[line["total"] for line in train_lines(tmp_path / name)] for name in ("big", "small")]
    assert len(losses[0]) == 6
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_the_gradient_is_that_of_the_mean_over_known_targets(tmp_path, monkeypatch):
    """One step by hand: the loop must add no factor of its own."""
    plain_sgd(monkeypatch)
    expected, data = Toy(), next(iter(RowBatches(N).epoch(0)))
    expected(data, expected.counts(data), torch.Generator())[0].backward()
    _, toy, _ = fit(tmp_path, exact(epochs=1, accumulate=3), batch=8, learning_rate=0.1)
    for before, after in zip(expected.parameters(), toy.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.1 * before.grad)


def train_lines(folder):
    return [line for line in read_log(folder / "log.jsonl") if line["kind"] == "train"]


def one_process(folder):
    """What each of two processes runs, for the next tests."""
    folder = Path(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it
    with processes("cpu") as world:
        config = exact(epochs=2, accumulate=2, on_non_finite="skip", on_bad_image="skip")
        made = trainer(folder / "skip", world, config)
        toy = Toy()  # the second process meets a loss of NaN
        made.fit(toy, RowBatches(2, world.rank, world.world_size, (1, 2) if world.rank else None))
        same = world.gather([parameter.tolist() for parameter in toy.parameters()])
        assert same[0] == same[1]

        toy = Signalled(signal.SIGTERM, at=3) if world.rank else Toy(noise=0.3)
        made = trainer(folder / "stop", world, exact(epochs=2, accumulate=2))
        with pytest.raises(Stopped, match="after step 2;"):
            made.fit(toy, RowBatches(2, world.rank, world.world_size))

        engine.make_optimizer = lambda model, config: torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
        made = trainer(folder / "two", world, exact(epochs=2, log_every=1, accumulate=2), scores=(0.5, 0.7))
        made.fit(Toy(), RowBatches(2, world.rank, world.world_size))
        (folder / f"saved{world.rank}.json").write_text(json.dumps(made.saved))

        (folder / f"waits{world.rank}").touch()
        time.sleep(60 * world.rank)
        world.wait()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The folder of two processes that ran one_process until they were interrupted, with what they ended in."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            env=os.environ | environment | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    until = time.monotonic() + 240
    while time.monotonic() < until and len(list(folder.glob("waits*"))) < 2 and not any(p.poll() for p in started):
        time.sleep(0.1)
    time.sleep(0.5)
    for process in started:
        process.send_signal(signal.SIGINT)
    ended = [(process.communicate(timeout=10)[1], process.returncode) for process in started]
    assert len(list(folder.glob("waits*"))) == 2, ended
    return folder, [status for _, status in ended]


def test_a_signal_to_one_process_stops_all_at_the_same_step(two_processes):
    """The others would wait for it for ever."""
    progress = read_tensors(two_processes[0] / "stop" / "last.safetensors")[1]["progress"]
    assert json.loads(progress)["step"] == 2


def test_interrupted_processes_do_not_wait_for_each_other(two_processes):
    """The first one waits for the second, which sleeps."""
    assert two_processes[1] == [-signal.SIGINT] * 2  # 130 for a shell


def test_two_processes_equal_one_with_the_doubled_batch(two_processes, tmp_path, monkeypatch):
    """Gradients are averaged over processes, losses are shares of a global mean: a wrong factor shows here."""
    plain_sgd(monkeypatch)
    fit(tmp_path / "one", exact(epochs=2, log_every=1), batch=8)
    folders = tmp_path / "one", two_processes[0] / "two"
    one, two = (read_tensors(folder / "last.safetensors")[0] for folder in folders)
    assert_same_weights(one, two, rtol=1e-5, atol=1e-6)
    losses = [[line["total"] for line in train_lines(folder)] for folder in folders]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert json.loads((two_processes[0] / "saved0.json").read_text()) == [[3, 0.5, 1], [6, 0.7, 2]]
    assert json.loads((two_processes[0] / "saved1.json").read_text()) == []  # one process writes


class Interrupted(Toy):
    """Breaks off at a step, counted from the start of this process."""

    def __init__(self, at):
        super().__init__(noise=0.3)
        self.left = at

    def forward(self, batch, counts, generator):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().forward(batch, counts, generator)


class Signalled(Toy):
    """Sends its own process a signal in the forward pass of a batch, counted from 0."""

    def __init__(self, number, at):
        super().__init__(noise=0.3)
        self.number, self.left = number, at

    def forward(self, batch, counts, generator):
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        self.left -= 1
        return super().forward(batch, counts, generator)


@pytest.mark.parametrize(
    ("number", "at", "step"), [(signal.SIGTERM, 2, 2), (signal.SIGUSR1, 7, 4), (signal.SIGTERM, 5, 3)]
)
def test_a_signal_saves_the_state_of_the_present_step(tmp_path, number, at, step):
    """Epochs of 3 steps of two batches: a signal in the first or second batch of a step, and in an epoch's last step."""
    config, before = exact(epochs=3, log_every=1, accumulate=2), signal.getsignal(number)
    whole, toy, _ = fit(tmp_path / "whole", config, batch=4, toy=Toy(noise=0.3))
    with pytest.raises(Stopped, match=f"after step {step}; continue with --resume auto"):
        fit(tmp_path / "broken", config, batch=4, toy=Signalled(number, at))
    assert signal.getsignal(number) == before
    assert json.loads(read_tensors(tmp_path / "broken" / "last.safetensors")[1]["progress"])["step"] == step
    resumed, other, _ = fit(tmp_path / "broken", config, batch=4, toy=Toy(noise=0.3), resume=True)
    assert resumed == whole
    assert_same_weights(toy.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert log_without_time(tmp_path / "whole") == log_without_time(tmp_path / "broken")


NOISY = exact(epochs=3, save_every=2, log_every=1, seed=5)


def log_without_time(folder):
    return [{key: value for key, value in line.items() if key != "time"} for line in read_log(folder / "log.jsonl")]


@pytest.mark.parametrize("at", [2, 3, 5, 7])
def test_resumed_run_equals_an_unbroken_one(tmp_path, at):
    """Epochs of 3 steps, saves after each second step and each epoch: interrupted in every place between them."""
    scores = {"scores": (0.1, 0.3, 0.2)}
    whole, toy, unbroken = fit(tmp_path / "whole", NOISY, toy=Toy(noise=0.3), **scores)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "broken", NOISY, toy=Interrupted(at), **scores)
    left = {"scores": scores["scores"][at // 3 :]}
    resumed, other, made = fit(tmp_path / "broken", NOISY, toy=Toy(noise=0.3), resume=True, **left)
    assert resumed == whole
    assert_same_weights(toy.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert log_without_time(tmp_path / "whole") == log_without_time(tmp_path / "broken")
    assert unbroken.saved[-len(made.saved) :] == made.saved or not made.saved
    assert [entry[0] for entry in unbroken.saved] == [3, 6]


def test_interrupted_validation_is_done_again(tmp_path):
    """With a save at the epoch's last step, going on would skip its validation, and perhaps the best checkpoint."""
    config = replace(NOISY, save_every=3, epochs=2)
    whole, toy, _ = fit(tmp_path / "whole", config, toy=Toy(noise=0.3), scores=(0.1, 0.3))
    with processes("cpu") as world:
        made = trainer(tmp_path / "broken", world, config)
        made.validate = Mock(side_effect=[Validation(0.1, {"validation_score": 0.1}), KeyboardInterrupt])
        with pytest.raises(KeyboardInterrupt):
            made.fit(Toy(noise=0.3), RowBatches(8))
    resumed, other, made = fit(tmp_path / "broken", config, toy=Toy(noise=0.3), resume=True, scores=(0.3,))
    assert made.saved == [(6, 0.3, 2)]
    assert resumed == whole
    assert_same_weights(toy.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_seed_decides_everything_random(tmp_path):
    weights = [
        fit(tmp_path / str(index), replace(NOISY, seed=seed), toy=Toy(noise=0.3))[1].state_dict()["net.0.weight"]
        for index, seed in enumerate((5, 5, 6))
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_resuming_with_other_batches_is_bad_input(tmp_path):
    """The saved step would be another place in the epoch."""
    fit(tmp_path, NOISY)
    with pytest.raises(InputError, match="the run had 3 steps per epoch, but now there are 6"):
        fit(tmp_path, NOISY, batch=4, resume=True)


def test_too_few_images_for_one_step_are_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"train\.batch_size"):
        fit(tmp_path, exact(accumulate=4), batch=8)


class Normed(Toy):
    """With batch norm, whose statistics a forward pass changes, and with gradients that a hook can spoil."""

    def __init__(self, spoil=False):
        super().__init__()
        self.net.insert(0, nn.BatchNorm1d(3))
        self.spoil = spoil

    def forward(self, batch, counts, generator):
        losses = super().forward(batch, counts, generator)
        if self.spoil:
            losses.register_hook(lambda gradient: gradient * math.nan)
        return losses


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_no_weight_moment_or_statistic(tmp_path, spoilt, clip_norm, accumulate):
    """One NaN would be in every weight after the step, and in the moments of AdamW for ever."""
    toy = Normed()
    with processes("cpu") as world:
        config = exact(accumulate=accumulate, on_non_finite="skip")
        made = trainer(tmp_path, world, config, clip_norm=clip_norm)
        optimizer = make_optimizer(toy, made.optim)
        batches = list(RowBatches(4).epoch(0))[:accumulate]
        assert made._step(toy, toy, optimizer, batches, 0, 0.1).isfinite().all()
        before = deepcopy((toy.state_dict(), optimizer.state_dict()["state"]))
        toy.spoil = spoilt == "gradient"
        if spoilt == "loss":
            batches[-1].x[0] = math.inf
        found = made._step(toy, toy, optimizer, batches, 1, 0.1)
    assert found.isfinite().tolist() == [spoilt == "gradient"] * 2 + [False]
    torch.testing.assert_close((toy.state_dict(), optimizer.state_dict()["state"]), before, rtol=0, atol=0)


@pytest.mark.parametrize(("log_every", "save_every"), [(1, 0), (100, 0), (100, 2)])
def test_a_loss_that_is_not_finite_ends_the_run_naming_its_images(tmp_path, log_every, save_every):
    """A state of NaN would be resumed from, and never recover. Going on with "skip" is as if it had been chosen before."""
    config = exact(epochs=3, log_every=log_every, save_every=save_every)
    with pytest.raises(
        NotFinite, match=r"step 4: loss (nan|inf), gradient norm nan, with the images row \d+, .* and 5 more"
    ):
        fit(tmp_path / "run", config, poison=(1, 0))
    tensors, metadata = read_tensors(tmp_path / "run" / "last.safetensors")
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    assert json.loads(metadata["progress"])["step"] == 3
    (line,) = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "non_finite"]
    assert (line["step"], len(set(line["images"]))) == (4, 8)
    skipping = replace(config, on_non_finite="skip")
    resumed, toy, _ = fit(tmp_path / "run", skipping, poison=(1, 0), resume=True)
    whole, other, _ = fit(tmp_path / "whole", skipping, poison=(1, 0))
    assert resumed == whole
    assert whole.step == 9
    assert_same_weights(toy.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert log_without_time(tmp_path / "run") == log_without_time(tmp_path / "whole")
    assert engine.count_skipped(tmp_path / "run") == {"skipped_steps": 1, "unreadable_images": 0}


@pytest.mark.parametrize(("batch", "save_every"), [(N, 0), (8, 1)])
def test_weights_that_are_not_finite_are_neither_validated_nor_saved(tmp_path, batch, save_every):
    """An update can overflow although its gradient is finite."""
    with pytest.raises(NotFinite, match="after step 1 weights are not finite, and are not saved"):
        fit(tmp_path, exact(epochs=1, save_every=save_every), batch, warmup_steps=0, learning_rate=1e39)
    assert not (tmp_path / "last.safetensors").exists()


def test_all_processes_skip_the_same_step(two_processes):
    """Otherwise their weights would part. Epochs are of three steps; both processes' images are named."""
    folder = two_processes[0] / "skip"
    assert all(tensor.isfinite().all() for tensor in read_tensors(folder / "last.safetensors")[0].values())
    lines = [line for line in log_without_time(folder) if line["kind"] in ("non_finite", "unreadable")]
    assert lines[0] == {"kind": "unreadable", "step": 1, "image": "row 7", "reason": "row 7: unreadable"}
    assert [(line["step"], len(set(line["images"]))) for line in lines[1:]] == [(5, 8)]


def test_best_is_the_first_of_the_highest_scores_and_last_is_the_last(tmp_path):
    """Test scores are taken from the best by validation: a later equal or lower score must not replace it."""
    config = exact(epochs=5, log_every=1)
    progress, _, made = fit(tmp_path, config, scores=(math.nan, 0.2, 0.5, 0.5, 0.4))
    assert made.saved == [(6, 0.2, 2), (9, 0.5, 3)]
    assert (progress.step, progress.best_score) == (15, 0.5)
    assert json.loads(read_tensors(tmp_path / "last.safetensors")[1]["progress"])["step"] == 15
    assert not list(tmp_path.rglob("*.partial"))


def test_log_holds_losses_rates_and_validations(tmp_path):
    fit(tmp_path, exact(epochs=2, log_every=2), scores=(math.nan, 0.25), warmup_steps=0, final_learning_rate=0.0)
    log = read_log(tmp_path / "log.jsonl")
    assert [(line["kind"], line["step"]) for line in log] == [
        ("train", 1), ("train", 2), ("validation", 3), ("train", 4), ("train", 6), ("validation", 6),
    ]  # fmt: skip
    assert log[0].keys() == {"kind", "step", "time", "total", "error", "learning_rate"}
    assert [log[index]["learning_rate"] for index in (0, 4)] == pytest.approx([0.05, 0.0])
    assert [log[index]["validation_score"] for index in (2, 5)] == [None, 0.25]  # JSON has no NaN
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_run_ends_when_its_folder_is_taken_away(tmp_path, monkeypatch):
    """Its next state would be saved in a new folder, without the config and the log."""
    monkeypatch.setattr(engine, "save_state", lambda path, *_: path.parent.rename(tmp_path / "moved"))
    with pytest.raises(FileNotFoundError):  # of the log, or of TensorBoard's file if its thread notices first
        fit(tmp_path / "run", TrainConfig(epochs=2, save_every=1, log_every=100))
    assert not (tmp_path / "run").exists()


def test_what_is_no_line_of_a_log_is_told_and_left_out(tmp_path, capsys):
    """A damaged log would keep a run from being resumed. A last line that was cut is usual, and goes without a word."""
    lines = [{"kind": "train", "step": 1}, {"kind": "validation", "step": 3}]
    good = [json.dumps(line).encode() + b"\n" for line in lines]
    (tmp_path / "log.jsonl").write_bytes(good[0] + good[1] + b'{"step": 2, "tot')
    assert read_log(tmp_path / "log.jsonl") == lines
    assert not capsys.readouterr().out
    (tmp_path / "log.jsonl").write_bytes(
        good[0] + b'{"kind": \xff\n5\n{"step": 2}\n' + b"[" * 100_000 + b"\n" + good[1]
    )
    assert read_log(tmp_path / "log.jsonl") == lines
    assert "log.jsonl: line 2 is not a line of a training log, 4 in all; they are left out" in capsys.readouterr().out


def flip_a_byte(file):
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)


def zero_half(file):
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def lose_the_optimiser(file):
    tensors, metadata = read_tensors(file)
    write_tensors(file, {name: tensor for name, tensor in tensors.items() if "optimizer.0" not in name}, metadata)


def leap(file):
    tensors, metadata = read_tensors(file)
    write_tensors(file, tensors, {"progress": json.dumps(json.loads(metadata["progress"]) | {"step": 10**9})})


DAMAGES = {
    flip_a_byte: "is damaged: its content does not have the checksum in its header",
    zero_half: "not a complete safetensors file .*",
    lose_the_optimiser: "is incomplete: no optimizer state fits parameter 0 of 4",
    leap: "it is of step 1000000000, but the run ends at step 9",
    Path.unlink: "no such checkpoint",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_told_and_the_one_before_it_resumed(tmp_path, capsys, damage):
    """It would train on with wrong weights, or end at once as if it were complete."""
    whole, toy, _ = fit(tmp_path / "whole", NOISY, toy=Toy(noise=0.3))
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "broken", NOISY, toy=Interrupted(5))
    last, previous = (tmp_path / "broken" / name for name in ("last.safetensors", "previous.safetensors"))
    damage(last)
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "broken", NOISY, toy=Interrupted(0), resume=True)
    message = capsys.readouterr().out.split("\n")[0]
    read_tensors(last)  # is whole again, and stays as the previous one
    resumed, other, _ = fit(tmp_path / "broken", NOISY, toy=Toy(noise=0.3), resume=True)
    assert re.fullmatch(rf"{last}: {DAMAGES[damage]}; resuming from {previous}, of step 3", message)
    assert resumed == whole
    assert_same_weights(toy.state_dict(), other.state_dict(), rtol=0, atol=0)
    for file in (last, previous):
        damage(file)
    with pytest.raises(InputError, match=rf"^{last}: {DAMAGES[damage]}; {previous}: {DAMAGES[damage]}$"):
        fit(tmp_path / "broken", NOISY, toy=Toy(), resume=True)


def test_gradients_are_clipped(tmp_path, monkeypatch):
    plain_sgd(monkeypatch)
    before = Toy().state_dict()
    _, toy, _ = fit(tmp_path, exact(epochs=1, accumulate=3), clip_norm=0.01, learning_rate=1.0)
    moved = torch.cat([(toy.state_dict()[name] - before[name]).flatten() for name in before])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_precision_decides_autocast(tmp_path):
    with processes("cpu") as world:
        for precision, enabled in (("float32", False), ("bfloat16", True)):
            context = trainer(tmp_path, world, TrainConfig(precision=precision)).autocast()
            assert (context._enabled, context.fast_dtype) == (enabled, torch.bfloat16)


@pytest.mark.parametrize("key", ["epochs", "batch_size", "accumulate", "log_every"])
def test_impossible_setting_is_bad_input_that_names_the_key(key):
    """epochs 0 would end with status 0 and no checkpoint."""
    with pytest.raises(InputError, match=rf"train\.{key}: 0 is less than 1"):
        TrainConfig(**{key: 0})


if __name__ == "__main__":
    one_process(sys.argv[1])


def test_the_model_is_compiled_if_there_is_a_compiler(tmp_path, monkeypatch):
    """Without one, torch would end in pages of its own messages at the first step."""

    class Compilable(Toy):
        model = property(lambda self: self.net)

    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    monkeypatch.setenv("CXX", sys.executable)
    toy = fit(tmp_path / "yes", exact(epochs=1, compile=True), toy=Compilable())[1]
    assert compiled == [toy.net]
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match=r"train\.compile: .* no-such-compiler"):
        fit(tmp_path / "no", exact(epochs=1, compile=True), toy=Compilable())
