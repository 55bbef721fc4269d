"""The command line: one command per task, and the one place that turns user errors into one line.

``medslip TASK ...`` and ``python scripts/TASK.py ...`` are the same. Exit status: 0; 2 for bad input; 75 when a signal
stopped a training run that can be resumed; 130 when interrupted, 143 when SIGTERM ends another task; 1 for any other failure,
such as a full disk. Only running a task imports torch; ``--help`` and ``--version`` do not.
"""

from __future__ import annotations

import difflib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from medslip.errors import InputError, NotFinite, Stopped, one_line
from medslip.version import __version__

GROUPS: dict[str, dict[str, str]] = {
    "Start here": {
        "demo": "the whole workflow on phantoms: draw, prepare, pre-train, classify, ground, fine-tune",
    },
    "Data": {
        "prepare_data": "prepare a public data set, or your own, for pre-training",
        "make_phantom": "draw a corpus of phantoms (synthetic radiographs) with reports, graphs, masks and boxes",
    },
    "Training": {
        "pretrain": "pre-train on prepared images and the labels from their reports",
        "finetune_cls": "fine-tune a classifier on labelled images and score it on test images",
        "finetune_seg": "fine-tune a segmenter on images with masks and score it on test images",
    },
    "Evaluation": {
        "zeroshot_cls": "classify images zero-shot, and score the predictions where there are labels",
        "ground": "ground findings zero-shot, and score the attention maps against boxes or masks",
        "evaluate_all": "evaluate a model zero-shot on all data sets that you have, in one table",
        "app": "look at radiographs on a page in the browser: probabilities, heat maps, free-text queries",
        "compare": "compare two runs on the same images: paired differences with confidence intervals",
    },
    "Weights": {
        "convert_authors_release": "convert the authors' .pth to a folder in the form of the Hugging Face Hub",
    },
}
"""Heading -> task -> what it does. A task is a module of medslip.tasks with COMMAND: a config class and the function that runs
it."""

_EXAMPLES = """
Examples:
  medslip demo
  medslip zeroshot_cls --checkpoint runs/mimic --data.kind folder --data.path my_images
  medslip ground --config configs/ground/rsna.yaml --checkpoint runs/mimic"""

TASKS: dict[str, str] = {task: what for tasks in GROUPS.values() for task, what in tasks.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``medslip TASK [SUBCOMMAND] [--config FILE] [--key value ...]``; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: medslip TASK [--config FILE] [--key value ...]\n       medslip TASK --help explains every option")
        print("       medslip --print_completion SHELL prints a completion script for bash, zsh, ...")
        for heading, tasks in GROUPS.items():
            print(f"\n{heading}:", *(f"  {name:25}{what}" for name, what in tasks.items()), sep="\n")
        print(_EXAMPLES)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    return run_task(arguments[0], arguments[1:])


def script(task: str) -> NoReturn:
    """Run a task with the arguments of this process, and exit; what each file in scripts/ does."""
    sys.exit(run_task(task, sys.argv[1:]))


def run_task(task: str, arguments: Sequence[str]) -> int:
    """Parse a task's arguments and run it; returns the exit status."""
    threading.excepthook = _thread_failed
    try:
        with _sigterm_interrupts(not _trains(task)):
            _run(task, list(arguments))
    except InputError as error:
        return _fail(str(error))
    except Stopped as stopped:
        return _fail(str(stopped), status=75)
    except NotFinite as error:
        return _fail(str(error), status=1)
    except KeyboardInterrupt as stopped:
        _end_workers()
        again = "continue with --resume true" if _trains(task) else "run the same command again"
        return _fail(f"interrupted; {again}", status=128 + (*stopped.args, signal.SIGINT)[0])
    except (OSError, RuntimeError) as error:
        message = _from_outside(error, task)
        if message is None:
            raise
        _end_workers()
        return _fail(message, status=1)
    return 0


def _run(task: str, arguments: list[str]) -> None:
    if task == "--print_completion":
        from medslip.config import completion

        classes = {name: importlib.import_module(f"medslip.tasks.{name}").COMMAND[0] for name in TASKS}
        print(completion(classes, "".join(arguments) or "bash"))
        return
    if task not in TASKS:
        close = difflib.get_close_matches(task, TASKS, n=1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"unknown task {task!r}; {guess}choose one of {', '.join(TASKS)}")
    # Idle OpenMP threads wait instead of spinning, so that two programs on one machine do not stop each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported here because these bring in jsonargparse, torch and everything else.
    from medslip.config import parse, phantom_config, phantom_file

    config_class, run = importlib.import_module(f"medslip.tasks.{task}").COMMAND
    command, packaged = f"medslip {task}", phantom_file(task)
    if packaged and not arguments:
        where = _shortest(packaged)
        print(f"No arguments: running on the phantom data with {where}; --help explains the options", flush=True)
        with _hint("phantom", "; make the phantom data and model first: python scripts/demo.py (or: medslip demo)"):
            run(phantom_config(config_class, task))
        return
    with _hint(": not given", f" (without any arguments, {command} runs on the phantom data)" if packaged else ""):
        config = parse(config_class, arguments, command)
    run(config)


def _trains(task: str) -> bool:
    """Whether a task saves a state from which it can be resumed."""
    return task in GROUPS.get("Training", ())


@contextmanager
def _sigterm_interrupts(wanted: bool) -> Iterator[None]:
    """Let SIGTERM end this process as an interruption does, so that it removes what it has half written."""

    def interrupt(number: int, _: object) -> NoReturn:
        raise KeyboardInterrupt(number)

    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _hint(words: str, hint: str) -> Iterator[None]:
    """Add a hint to an error whose message contains some words."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}{hint if words in str(error) else ''}") from None


def _shortest(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _from_outside(error: OSError | RuntimeError, task: str) -> str | None:
    """One line about an error of the disk or of a killed worker process, which is neither the input's fault nor ours."""
    again = f"and run it again{' with --resume auto' if _trains(task) else ''}"
    if isinstance(error, OSError) and error.errno:
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror}; check that the folder is there, can be written to and has space, {again}"
    if isinstance(error, BrokenExecutor) or str(error).startswith("DataLoader worker"):
        return f"{one_line(error).rstrip('.')}; if memory ran out, choose fewer workers or a smaller batch, {again}"
    if "by peer" in str(error):  # as gloo says it
        return "another process of this run ended; its own message says why"
    return None


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Print no traceback of a thread whose OSError the main thread raises too, as TensorBoard's do."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


def _end_workers() -> None:
    """Kill worker processes: waiting for what they have begun can take minutes."""
    for worker in multiprocessing.active_children():
        worker.kill()


def _fail(message: str, status: int = 2) -> int:
    rank = int(os.environ.get("RANK", "0"))
    # Under torchrun, only the process that meets an error, such as a broken image among its own, can name it.
    where = f" (process {rank})" if rank else ""
    print(f"error{where}: {one_line(message)}", file=sys.stderr, flush=True)
    return status
