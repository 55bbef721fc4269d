import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medslip.checkpoints import load_checkpoint
from medslip.cli import run_task
from medslip.config import parse
from medslip.data.augmentation import AugmentationConfig
from medslip.errors import InputError
from medslip.model.medslip import ModelConfig
from medslip.model.text_encoder import TextConfig
from medslip.model.weights import read_tensors
from medslip.tasks.pretrain import PretrainConfig, PretrainDataConfig, run
from medslip.training.criterion import Criterion
from medslip.training.engine import TrainConfig, Trainer, read_log
from medslip.training.optim import OptimConfig


def arguments(config: PretrainConfig) -> dict[str, Any]:
    """What a user would write in a file for that data set and encoder."""
    data = {name: str(getattr(config.data, name)) for name in ("train", "valid", "labels")}
    return {"data": data | {"side": 32, "workers": 0}, "text": {"encoder": config.text.encoder, "max_tokens": 32}}


@pytest.fixture
def config(tiny_prepared: Path, tiny_bert: Path, tmp_path: Path) -> PretrainConfig:
    return PretrainConfig(
        data=PretrainDataConfig(
            tiny_prepared / "train.csv", tiny_prepared / "valid.csv", tiny_prepared / "labels", side=32, workers=0
        ),
        model=ModelConfig(trunk="resnet18", width=32, decoder_layers=1, feed_forward=32),
        text=TextConfig(str(tiny_bert), max_tokens=32),
        augmentation=AugmentationConfig(scale_min=0.8),
        train=TrainConfig(epochs=3, batch_size=8, log_every=1),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=2),
        output=tmp_path / "run",
        device="cpu",
    )


def test_run_folder_holds_what_a_reader_needs(config, estimates_of):
    """A run that leaves out its config, scores or figures cannot be trusted or repeated."""
    best = run(config)
    names = {path.name for path in config.output.iterdir()}
    assert names >= {"config.yaml", "best.safetensors", "best.json", "last.safetensors", "log.jsonl", "losses.png"}
    assert names >= {"metrics.json", "tensorboard", "run.html"}
    assert not list(config.output.rglob("*.partial"))
    log = read_log(config.output / "log.jsonl")
    assert [line["step"] for line in log if line["kind"] == "train"] == list(range(1, 10))
    assert sum(line["kind"] == "validation" for line in log) == 3
    metrics = json.loads((config.output / "metrics.json").read_text())
    assert [row["class"] for row in metrics["scores"]] == ["effusion", "mean"]
    auroc = estimates_of(config.output)["/scores/mean/auroc"]
    assert (auroc["value"], auroc["low"]) == (metrics["validation"]["validation_auroc"], None)
    card = load_checkpoint(best).card
    assert card.transform.side == 32
    assert card.text is not None
    assert card.text.encoder == config.text.encoder
    assert parse(PretrainConfig, ["--config", str(config.output / "config.yaml")]) == config


def test_resumed_run_equals_an_unbroken_one(config, monkeypatch, tmp_path):
    """Weights, optimiser and log must not depend on where a run was interrupted, even within an epoch."""
    train = replace(config.train, save_every=2)
    unbroken = replace(config, train=train, output=tmp_path / "unbroken")
    run(unbroken)
    broken = replace(config, train=train, output=tmp_path / "broken")
    step = Trainer._step

    def break_at_five(self, *args):
        if args[4] == 5:  # steps 0..4 are done, the last save is after step 4, in the middle of the second epoch
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(Trainer, "_step", break_at_five)
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    monkeypatch.undo()
    run(replace(broken, resume=True))
    expected, found = (read_tensors(tmp_path / name / "last.safetensors")[0] for name in ("unbroken", "broken"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("unbroken", "broken")]
    for line in logs[0] + logs[1]:
        line.pop("time")
    assert logs[0] == logs[1]


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it
from medslip.cli import run_task
from medslip.data import loading
from medslip.training.engine import Trainer

def slow(function, seconds):
    waits = iter(seconds)
    return lambda *arguments: (time.sleep(next(waits, 0)), function(*arguments))[1]

Trainer._step = slow(Trainer._step, [0.5] * 6)
loading._Batches.__getitem__ = slow(loading._Batches.__getitem__, [0, 0, float(sys.argv.pop(1))])
sys.exit(run_task("pretrain", sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGINT, 130)])
def test_a_signalled_run_resumes_to_the_same_weights(config, tmp_path, request, number, status):
    """Sent to all processes, as schedulers do: the main process still needs its workers.

    After SIGHUP the terminal is gone, so nothing it prints can be read. On SIGINT to it alone, it must not wait for a batch
    that a worker has begun.
    """
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(1)
    train = {"epochs": 2, "batch_size": 8, "log_every": 1}
    model = {"trunk": "resnet18", "width": 32, "decoder_layers": 1, "feed_forward": 32}
    given = arguments(config) | {"model": model, "train": train, "device": "cpu", "resume": "auto"}
    given["data"]["workers"] = 1
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given))
    command = ["--config", str(tmp_path / "config.yaml"), "--output"]
    assert run_task("pretrain", [*command, str(tmp_path / "whole")]) == 0
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml.partial").write_text("tra")
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "60" if number == signal.SIGINT else "0", *command, str(tmp_path / "broken")],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    log = tmp_path / "broken" / "log.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and not (log.is_file() and log.read_text()):
        time.sleep(0.05)
    if number == signal.SIGHUP:
        process.stdout.close()
        process.stdout = None
    (os.kill if number == signal.SIGINT else os.killpg)(process.pid, number)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == status, output
    assert "Traceback" not in (output or "")
    with pytest.raises(ProcessLookupError):  # no worker is left
        os.killpg(process.pid, 0)
    assert (tmp_path / "broken" / "last.safetensors").is_file() == (status == 75)
    assert run_task("pretrain", [*command, str(tmp_path / "broken")]) == 0
    for name in ("best", "last"):
        whole, broken = (read_tensors(tmp_path / run / f"{name}.safetensors")[0] for run in ("whole", "broken"))
        assert all(torch.equal(tensor, broken[key]) for key, tensor in whole.items())


def test_two_processes_train_under_torchrun(config, tmp_path):
    """The launch that the README names must work, and give one run folder with a checkpoint that loads."""
    model = {"trunk": "resnet18", "width": 32, "decoder_layers": 1, "feed_forward": 32}
    given = {**arguments(config), "model": model, "train": {"epochs": 1, "batch_size": 4}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(given))
    script = Path(__file__).parents[2] / "scripts" / "pretrain.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    command += ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "ddp"), "--device", "cpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    load_checkpoint(tmp_path / "ddp" / "best.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--data.train", "none.csv"], "none.csv: list not found"),
        (["--train.epochss", "3"], "epochss"),
        (["--model.trunk", "resnet5"], "model.trunk"),
        (["--train.batch_size", "1000"], "batch"),
        (["--text.encoder", "no/such-encoder"], "no/such-encoder"),
        (["--prompts.pathology", "none.json"], "none.json"),
    ],
)
def test_bad_input_is_one_line_and_status_2(config, tmp_path, capsys, change, words):
    (tmp_path / "good.yaml").write_text(yaml.safe_dump({**arguments(config), "output": str(tmp_path / "never")}))
    status = run_task("pretrain", ["--config", str(tmp_path / "good.yaml"), *change])
    error = capsys.readouterr().err
    assert status == 2
    assert words in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("image", "study", "message"),
    [
        ("nowhere.png", "", r"train\.csv: line 4: image .*nowhere\.png not found"),
        ("cut.png", "", r"train\.csv: line 4: .*cut\.png"),
        ("", "other", "line 4 is not of the study of its row"),
    ],
)
def test_a_bad_line_is_named_and_leaves_no_half_written_run(config, tmp_path, image, study, message):
    """A missing or truncated image, and the list of another preparation."""
    lines = [line.split(",") for line in config.data.train.read_text().splitlines()]
    folder = config.data.train.parent
    (tmp_path / "cut.png").write_bytes((folder / lines[3][0]).read_bytes()[:300])
    for cells in lines[1:]:
        cells[0] = str(folder / cells[0])
    lines[3][:2] = [image or lines[3][0], study or lines[3][1]]
    (tmp_path / "train.csv").write_text("\n".join(map(",".join, lines)) + "\n")
    with pytest.raises(InputError, match=message):
        run(replace(config, data=replace(config.data, train=tmp_path / "train.csv")))
    assert not config.output.exists()


@pytest.mark.parametrize("preload", [False, True])
def test_training_skips_broken_images_if_told_to_and_validation_does_not(config, tmp_path, preload):
    """Each is named once in the log and counted, over all epochs."""
    data = {}
    for name in ("train", "valid"):
        lines = [line.split(",") for line in getattr(config.data, name).read_text().splitlines()]
        for cells in lines[1:]:
            cells[0] = str(config.data.train.parent / cells[0])
        (tmp_path / f"{name}.png").write_bytes(Path(lines[1][0]).read_bytes()[:300])
        lines[1][0] = str(tmp_path / f"{name}.png")
        data[name] = tmp_path / f"{name}.csv"
        data[name].write_text("\n".join(map(",".join, lines)) + "\n")
    skipping = replace(config, train=replace(config.train, on_bad_image="skip"))
    run(replace(skipping, data=replace(config.data, train=data["train"], preload=preload)))
    (line,) = [line for line in read_log(config.output / "log.jsonl") if line["kind"] == "unreadable"]
    assert line["image"] == str(tmp_path / "train.png")
    assert "train.csv: line 2: " in line["reason"]
    metrics = json.loads((config.output / "metrics.json").read_text())
    assert (metrics["unreadable_images"], metrics["skipped_steps"]) == (1, 0)
    with pytest.raises(InputError, match=r"valid\.csv: line 2"):
        run(replace(skipping, data=replace(config.data, valid=data["valid"], preload=preload), output=tmp_path / "no"))


def test_a_loss_that_is_not_finite_is_one_line_and_status_1(config, tmp_path, capsys, monkeypatch):
    """It is neither bad input nor a fault of the program, and the run's files are those of the last save."""
    of_loss = Criterion.__call__
    monkeypatch.setattr(Criterion, "__call__", lambda *arguments: of_loss(*arguments) * math.nan)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(arguments(config) | {"train": {"batch_size": 8}}))
    status = run_task("pretrain", ["--config", str(tmp_path / "config.yaml"), "--output", str(config.output)])
    error = capsys.readouterr().err.splitlines()[-1]
    assert status == 1
    assert re.match(r"error: step 1: loss nan, gradient norm nan, with the images .*\.png, .* and 5 more", error)
    assert not list(config.output.glob("*.safetensors"))


def test_patients_of_both_lists_are_told(config, tmp_path, capsys):
    """Validation on what is learnt from looks like success."""
    lines = config.data.valid.read_text().splitlines()
    cells = config.data.train.read_text().splitlines()[1].split(",")
    lines[1] = ",".join([*lines[1].split(",")[:2], cells[2], *lines[1].split(",")[3:]])
    mixed = config.data.valid.with_name("mixed.csv")
    mixed.write_text("\n".join(lines) + "\n")
    data = replace(config.data, valid=mixed)
    run(replace(config, data=data, train=replace(config.train, epochs=1)))
    assert f"are also in {config.data.train}; the validation scores" in capsys.readouterr().out


def test_a_stopped_start_does_not_lock_the_folder_and_a_run_is_resumed_as_it_began(config):
    """Ctrl-C in the first epoch leaves a config and a log: the same command must work again.

    Another learning rate would make neither the old run nor a new one, under the name of both.
    """
    config = replace(config, train=replace(config.train, epochs=1))
    (config.output / "tensorboard").mkdir(parents=True)
    (config.output / "config.yaml").write_text("train: {}\n")
    (config.output / "log.jsonl").write_text("")
    run(config)
    assert (config.output / "best.safetensors").is_file()
    before = (config.output / "config.yaml").read_text()
    with pytest.raises(InputError, match=r"was started with another optim\.learning_rate"):
        run(replace(config, optim=replace(config.optim, learning_rate=1.0), resume=True))
    assert (config.output / "config.yaml").read_text() == before
