"""Does a training run that is killed at any moment, and started again by the same command, end as if nothing had happened?

    python benchmarks/kill.py [--cases 50] [--case N] [--seed 0] [--real]

Pre-trains and fine-tunes tiny models on phantoms with ``--resume auto``. Each case ends one run by a signal, at start-up, in a
step, a save or a validation, between epochs or while the final scores are computed, and repeats the command. The second run
must exit with 0 and leave what the unbroken run left: every tensor, score, prediction, figure and line of the log, but for
times; and no temporary file and no process. Seed and number determine a case. Exits with 1 if a case fails.

A quarter of the cases are real commands: ``python scripts/TASK.py``, and torchrun for two processes. The others save the time
of the imports: they fork from a process that has imported torch, and call what the script calls. Two of those have no
torchrun; as it does, this script then ends the second process when the first fails.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from medslip.checkpoints import PREVIOUS
from medslip.cli import run_task
from medslip.data.datasets.mimic_cxr import MimicCxr
from medslip.model.weights import read_tensors
from medslip.tasks import finetune_cls, finetune_seg, make_phantom, prepare_data, pretrain

TASKS = tuple(
    task.__name__.rpartition(".")[2] for task in (pretrain, finetune_cls, finetune_seg)
)  # imported before forks
SHAPES = {
    "one": "--train.batch_size 8 --data.workers 0",
    "accumulate": "--train.batch_size 4 --train.accumulate 2 --data.workers 0",
    "workers": "--train.batch_size 8 --data.workers 2",
    "two ranks": "--train.batch_size 4 --data.workers 0",
}
SIGNALS = ("KILL", "TERM", "USR1", "INT", "HUP")
MOMENTS = ("start", "step", "save", "validation", "epoch", "scores")
SCRIPTS, FORK = Path(__file__).parents[1] / "scripts", multiprocessing.get_context("fork")
EPOCHS = 3
BLOCK = 60
"""Cases in which each moment, signal, task and shape is equally frequent."""


@dataclass(frozen=True)
class Case:
    """What is ended, when and how; ``where``: all processes get the signal, or only the first; ``damaged``: so is the state."""

    number: int
    task: str
    shape: str
    signal: str
    moment: str
    where: str
    real: bool
    damaged: bool
    random: np.random.Generator


def case(seed: int, number: int, real: bool) -> Case:
    """The case of a number."""
    block = np.random.default_rng([seed, number // BLOCK])

    def draw(choices: Any) -> Any:
        return block.permutation(np.resize(np.array(list(choices), dtype=object), BLOCK))[number % BLOCK]

    task, shape, name, moment = (draw(choices) for choices in (TASKS, SHAPES, SIGNALS, MOMENTS))
    where, is_real, damaged = draw(("all", "first")), draw((True, False, False, False)), draw((True, False, False))
    return Case(
        number, task, shape, name, moment, where, is_real or real, damaged, np.random.default_rng([seed, number])
    )


# Processes -----------------------------------------------------------------------------------------------------------


def descendants() -> list[int]:
    """All living processes below this one, which adopts those whose parent died."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z":
            children.setdefault(int(parent), []).append(int(path.parent.name))
    found = [os.getpid()]
    for process in found:
        found += children.get(process, [])
    return found[1:]


def forked(task: str, arguments: list[str], environment: dict[str, str], output: Path) -> None:
    """What a forked process does: the same as a script."""
    os.setsid()
    os.environ.update(environment)
    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.exit(run_task(task, arguments))


def send(number: int, pids: list[int]) -> None:
    """Send a signal to those that still run."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class Run:
    """The processes of a command."""

    def __init__(self, task: str, arguments: list[str], ranks: int, real: bool, output: Path) -> None:
        self.started, self._polls, self.pids = time.monotonic(), list[Callable[[], int | None]](), list[int]()
        if real:
            torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if ranks == 2 else []
            command = [sys.executable, *torchrun, str(SCRIPTS / f"{task}.py"), *arguments]
            with output.open("a") as file:
                process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
            self._polls, self.pids = [process.poll], [process.pid]
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        for rank in range(ranks):
            world = {"WORLD_SIZE": str(ranks), "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            fork = FORK.Process(target=forked, args=(task, arguments, world, output))
            fork.start()
            self._polls.append(partial(getattr, fork, "exitcode"))
            self.pids.append(fork.pid or 0)

    def statuses(self) -> list[int | None]:
        """Exit status per process; None while it runs."""
        return [poll() for poll in self._polls]

    def wait(self, seconds: float = 300) -> list[int | None]:
        """Wait for all, ending the others as torchrun does when one fails; then statuses, None after so many seconds."""
        began, failed = time.monotonic(), 0.0
        while None in (statuses := self.statuses()) and (now := time.monotonic()) < began + seconds:
            running = [pid for pid, status in zip(self.pids, statuses, strict=True) if status is None]
            if any(statuses) and not failed:
                failed = now
                send(signal.SIGTERM, running)
            if failed and now > failed + 30:
                send(signal.SIGKILL, running)
            time.sleep(0.01)
        return statuses


# Moments -------------------------------------------------------------------------------------------------------------


def log_lines(folder: Path, seed: int = -1) -> list[dict[str, Any]]:
    """The log so far, for fine-tuning that of the first or the latest seed; the last line may be half written."""
    try:
        lines = sorted(folder.rglob("log.jsonl"))[seed].read_text().split("\n")[:-1]
    except (IndexError, OSError):
        return []
    return [json.loads(line) for line in lines]


def temporary(folder: Path) -> set[str]:
    """The temporary files in a folder."""
    return {path.name for path in folder.rglob("*") if path.name.startswith(".tmp") or path.name.endswith(".partial")}


def reached(case: Case, folder: Path, before_log: float, steps: int) -> Iterator[bool]:
    """Yield False until a random time at the moment of a case, then True."""
    random, began = case.random, time.monotonic()
    if case.moment == "start":
        seconds = random.uniform(0, before_log)
        while True:
            yield time.monotonic() - began >= seconds
    if case.moment == "save":
        wanted, found, before = int(random.integers(2, 12)), 0, set[str]()
        while True:
            now = temporary(folder)
            found, before = found + len(now - before), now
            yield found >= wanted
    seed = 0 if case.task == "pretrain" else int(random.integers(2))
    epoch = EPOCHS if case.moment == "scores" else random.integers(1, EPOCHS)
    step = random.integers(1, steps) if case.moment == "step" else epoch * steps // EPOCHS
    kind = "train" if case.moment in ("step", "validation") else "validation"
    while not any((line["kind"], line["step"]) == (kind, step) for line in log_lines(folder, seed)):
        yield False
    time.sleep(random.uniform(0, {"step": 0.1, "validation": 0.05}.get(case.moment, 0.4)))
    yield True


# Comparison ----------------------------------------------------------------------------------------------------------

TIMES = re.compile(rb'"(time|created|resume|git_\w+)": [^,}]*|resume: \w+|\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?')


def content(path: Path) -> Any:
    """What must be equal in a file: tensors as bytes, and all else but times and whether the run was resumed."""
    if path.suffix != ".safetensors":
        return TIMES.sub(b"", path.read_bytes())
    tensors, metadata = read_tensors(path)
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, TIMES.sub(b"", repr(metadata).encode())


def contents(folder: Path) -> dict[str, Any]:
    """File -> what must be equal in it. The second run adds another file of TensorBoard events."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and "tfevents" not in path.name and path.name != ".lock"
    ]
    return {str(path.relative_to(folder)): content(path) for path in files}


# Cases ---------------------------------------------------------------------------------------------------------------


class Bench:
    """Prepares data and unbroken runs in a folder, and runs cases."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / "run"
        self._whole: dict[tuple[str, str], tuple[dict[str, Any], float, int]] = {}
        if not (root / "prepared" / "summary.json").is_file():
            make = FORK.Process(target=prepare, args=(root,))
            make.start()
            make.join()
            assert make.exitcode == 0

    def start(self, task: str, shape: str, real: bool = False) -> Run:
        """Start a command, always the same for a task and shape."""
        arguments = f"{settings(self.root)[task]} {SHAPES[shape]}".split()
        return Run(task, arguments, 2 if shape == "two ranks" else 1, real, self.root / "output.txt")

    def whole(self, task: str, shape: str) -> tuple[dict[str, Any], float, int]:
        """What an unbroken run leaves, its seconds before the first line of the log, and its steps."""
        if (task, shape) not in self._whole:
            shutil.rmtree(self.folder, ignore_errors=True)
            run = self.start(task, shape)
            while not log_lines(self.folder) and None in run.statuses():
                time.sleep(0.002)
            seconds = time.monotonic() - run.started
            assert not any(run.wait()), (self.root / "output.txt").read_text()[-2000:]
            self._whole[task, shape] = contents(self.folder), seconds, log_lines(self.folder)[-1]["step"]
            if (task, shape) == ("pretrain", "one"):
                shutil.copy(self.folder / "best.safetensors", self.root)
        return self._whole[task, shape]

    def run(self, case: Case) -> tuple[str, list[str]]:
        """End one run and repeat its command; the row of the table, and what went wrong."""
        whole, before_log, steps = self.whole(case.task, case.shape)
        for folder in self.folder, self.root / "output.txt":
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink(missing_ok=True)
        run, before_log = self.start(case.task, case.shape, case.real), before_log + 4 * case.real
        come = reached(case, self.folder, before_log, steps)
        while not next(come) and None in run.statuses():
            time.sleep(0.001)
        # torchrun passes on what it handles; of the others, as of SIGKILL, it would die and leave its processes behind.
        torchrun = case.real and case.shape == "two ranks"
        everyone = case.where == "all" or (torchrun and case.signal in ("KILL", "USR1"))
        lines, began, number = log_lines(self.folder), time.monotonic(), getattr(signal, f"SIG{case.signal}")
        send(number, descendants() if everyone else run.pids[:1])
        statuses, seconds = run.wait(60), time.monotonic() - began
        wrong = [f"exit status {statuses}"] if not expected(case, statuses, lines, steps) else []
        wrong += [f"{seconds:.1f} s to exit"] if seconds > (10 if case.signal == "INT" else 30) else []
        step = max((line["step"] for line in lines), default=0)
        if set(statuses) == {75} and not step <= (saved := saved_step(self.folder)) <= step + 2:
            wrong.append(f"saved step {saved}, but {step} was logged")
        wrong += self.leftovers("first")
        moment = case.moment + (" + damaged state" if case.damaged and damage(self.folder) else "")
        again = self.start(case.task, case.shape, case.real)
        wrong += [f"second exit status {again.statuses()}"] if any(again.wait()) else []
        wrong += self.leftovers("second") + [f"temporary {name}" for name in temporary(self.folder)]
        found = contents(self.folder)
        wrong += [
            f"{name} differs" for name in sorted(whole.keys() | found.keys()) if whole.get(name) != found.get(name)
        ]
        to = f"{case.signal} to {'all' if everyone else 'first'}"
        cells = (case.number, case.task, case.shape, "real" if case.real else "fork", moment, to, f"after step {step}")
        end = (" ".join(map(str, statuses)), f"{seconds:.1f}", "; ".join(wrong) or "yes")
        row = f"| {' | '.join(map(str, (*cells, *end)))} |"
        return row, wrong

    def leftovers(self, which: str) -> list[str]:
        """Processes that outlive a command; DataLoader's workers look for their parent every 5 s."""
        until = time.monotonic() + 12
        while (left := descendants()) and time.monotonic() < until:
            time.sleep(0.05)
        send(signal.SIGKILL, left)
        return [f"{len(left)} processes left by the {which}"] if left else []


def damage(folder: Path) -> bool:
    """Change a bit of the last state, if the one before it is there."""
    for state in folder.rglob("last.safetensors"):
        if (state.parent / PREVIOUS).is_file():
            data = bytearray(state.read_bytes())
            data[len(data) // 2] ^= 1
            state.unlink()  # the one before it may be the same file
            state.write_bytes(data)
            return True
    return False


def saved_step(folder: Path) -> int:
    """Steps done in the state that a run saved."""
    return int(json.loads(read_tensors(next(folder.rglob("last.safetensors")))[1]["progress"])["step"])


def expected(case: Case, statuses: list[int | None], lines: list[dict[str, Any]], steps: int) -> bool:
    """Whether the first run ended as documented: 75 or 130 in training, else by the signal or with 0 if it was too late."""
    died = -getattr(signal, f"SIG{case.signal}")
    if set(statuses) == {0}:
        return case.moment in ("scores", "save", "start")
    if case.signal == "KILL":
        return died in statuses
    if case.signal == "INT":
        return statuses[0] in (130, died) or (case.real and case.shape == "two ranks" and statuses[0] == 1)
    if case.real and case.shape == "two ranks":
        return statuses[0] in (1, died)
    in_training = lines and (lines[-1]["step"] < steps or lines[-1]["kind"] == "train")
    return set(statuses) == {75} if in_training else bool(set(statuses) & {75, died})


def settings(root: Path) -> dict[str, str]:
    """What each task is run with."""
    data = f"--data.train.path {root}/corpus"
    finetune = f"--checkpoint {root}/best.safetensors --resamples 20 --seeds [0,1] --data.valid_fraction 0.3 "
    finetune += "--data.test_fraction 0.3 --data.train.split valid+test"
    given = {
        "pretrain": f"--data.train {root}/prepared/train.csv --data.valid {root}/prepared/valid.csv "
        f"--data.labels {root}/prepared/labels --text.encoder {root}/bert --text.max_tokens 32 --model.trunk resnet18 "
        "--model.width 32 --model.decoder_layers 1 --model.feed_forward 32",
        "finetune_cls": f"{finetune} --data.train.kind csv {data}/findings.csv",
        "finetune_seg": f"{finetune} --data.train.kind coco {data}/coco --finding nodule --bridge 16",
    }
    common = (
        f"--train.epochs {EPOCHS} --train.save_every 2 --train.log_every 1 --train.precision float32 --data.side 32 "
    )
    common += f"--device cpu --resume auto --output {root}/run"
    return {task: f"{keys} {common}" for task, keys in given.items()}


def prepare(root: Path) -> None:
    """Draw phantoms, prepare them, and write a text encoder of random weights."""
    make_phantom.run(make_phantom.MakePhantomConfig(root / "corpus", 72, 0.2, 0.5, side=64, workers=1))
    mimic = MimicCxr(path=root / "corpus" / "mimic_cxr", graphs=root / "corpus" / "radgraph" / "MIMIC-CXR_graphs.json")
    prepare_data.run(prepare_data.PrepareConfig(mimic, root / "prepared"))
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(f"{sharp}{letter}" for sharp in ("", "##") for letter in ascii_lowercase),
    ]
    (root / "bert").mkdir()
    (root / "bert" / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(root / "bert" / "vocab.txt")).save_pretrained(root / "bert")
    torch.manual_seed(0)
    bert = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(bert).save_pretrained(root / "bert")


def main() -> int:
    """Run the cases and print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--first", type=int, default=0, help="number of the first case, to continue")
    parser.add_argument("--case", type=int, help="run this one alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="no forks: every case is a real command")
    parser.add_argument("--output", type=Path, default=Path("runs/kill"))
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, as SIGHUP under nohup is
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: adopt the processes that outlive a command
    os.environ |= {"OMP_NUM_THREADS": "1", "MEDSLIP_PATIENT_KEY": "the same for both commands"}
    torch.set_num_threads(1)
    numbers = range(options.first, options.cases) if options.case is None else [options.case]
    bench, failed = Bench(options.output.resolve()), 0
    bench.whole("pretrain", "one")  # fine-tuning starts from its weights
    print("| case | task | shape | how | moment | signal | logged | exit status | seconds to exit | identical |")
    print("|---" * 10 + "|", flush=True)
    for number in numbers:
        row, wrong = bench.run(case(options.seed, number, options.real))
        failed += bool(wrong)
        print(row, flush=True)
    print(f"{len(numbers) - failed} of {len(numbers)} ended like the unbroken run")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
