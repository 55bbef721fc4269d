"""Run directories: begun with config.yaml, resumed, and finished with metrics.json and run.html."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
import yaml

from medslip.config import config_to_dict, flat
from medslip.errors import InputError, one_line
from medslip.evaluation.run_page import METRICS_FORMAT, METRICS_VERSION, write_page
from medslip.evaluation.tables import to_records
from medslip.files import plain, read_json, write_text
from medslip.training.distributed import Processes
from medslip.version import __version__

RUNS = Path("runs")
"""Where runs go unless the user says otherwise."""

_LOCK = ".lock"

_BEGUN = frozenset({_LOCK, "config.yaml", "log.jsonl", "tensorboard"})
"""All that is left of a run that was stopped before its first save: nothing to resume, nothing to lose."""

_FIRST_BEST = frozenset({"best.safetensors", "best.json", "metrics.json"})
"""What the first validation adds, just before the first save."""

_LEFTOVER = re.compile(r"\.tmp\w{6}|\w+\.(yaml|jsonl?|safetensors|txt|csv|png|html)\.partial")
"""Temporary files of writes that were killed."""

Resume = bool | Literal["auto"]
"""Whether to resume the run in the output directory; "auto" starts it where there is none."""

_FREE_TO_CHANGE = frozenset(
    {"resume", "device", "patients", "data.workers"}
    | {f"train.{key}" for key in ("save_every", "log_every", "on_non_finite", "on_bad_image")}
)
"""Keys that may change when a run is resumed, because they change no number of the steps that were taken."""

_PACKAGES = ("torch", "torchvision", "transformers", "numpy", "scikit-learn", "pandas", "pydicom")


def timestamp() -> str:
    """Now, for the name of a run directory."""
    return datetime.now().strftime("%Y%m%d-%H%M%S")


def check_unused(folder: Path) -> None:
    """Check that a run can go into a folder; tasks do so before they compute anything.

    Raises:
        InputError: The folder holds more than the beginnings of a run, or is not a folder.
    """
    if folder.exists() and (not folder.is_dir() or _further(folder)):
        raise InputError(f"{folder}: exists and is not empty; choose another --output")


def _further(folder: Path) -> set[str]:
    """The names of what a folder holds that a run does not leave before its first save."""
    return {path.name for path in folder.iterdir() if not _LEFTOVER.fullmatch(path.name)} - _BEGUN


def _saved_nothing(folder: Path) -> bool:
    """Whether all that a folder holds is of a run that was killed before its first save."""
    further, log = _further(folder), folder / "log.jsonl"
    # More validations: a long run whose state is missing, and its best checkpoint is worth more than a fresh start.
    return not further or (further <= _FIRST_BEST and log.is_file() and log.read_bytes().count(b'"validation"') <= 1)


def agreed_folder(wanted: Path | None, task: str, world: Processes, resume: Resume = False) -> tuple[Path, bool]:
    """One run directory for all processes: the wanted one, or one named after the main process's time.

    With ``resume``, the temporary files of a killed run are removed, or all its files if it was killed before its first save.

    Args:
        wanted: The folder, in which {time} stands for the date and time; None for runs/TASK/{time}.
        task: The name of the folder of such runs.
        world: The processes.
        resume: Whether to resume a run that is in the folder.

    Returns:
        The folder, and whether to resume the run in it rather than to start one.

    Raises:
        InputError: In every process: the folder is in use, or there is nothing to resume.
    """
    folder = Path(str(wanted or RUNS / task / "{time}").replace("{time}", timestamp()))
    return world.from_main(lambda: (folder, _resumes(folder, wanted is not None, resume)))


def _resumes(folder: Path, given: bool, resume: Resume) -> bool:
    """Whether to resume the run in a folder, which is then locked and tidied, rather than to start one."""
    begun = given and folder.is_dir() and (_saved_nothing(folder) or (folder / "config.yaml").is_file())
    if not (resume and begun):
        if resume is True:
            raise InputError(f"resume: {f'{folder} contains no run to resume' if given else 'no --output is given'}")
        check_unused(folder)
        return False
    lock(folder)
    if _saved_nothing(folder):
        _empty(folder)
        return False
    for path in list(folder.rglob("*")):
        if _LEFTOVER.fullmatch(path.name) and path.is_file():
            path.unlink()
    return True


def lock(folder: Path) -> None:
    """Create a folder if necessary, and lock it until this process ends, however it ends.

    The lock is the process's, so that neither worker processes nor a file left by a killed run keep it. Where the file system
    has no locks, a warning is printed.

    Raises:
        InputError: Another process has locked the folder.
        OSError: The folder or the file in it that is locked cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, ours = folder / _LOCK, False
    while not ours:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # never closed, which would end the lock
        try:
            import fcntl  # not on Windows

            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = path.read_text() or "another process"
            raise InputError(
                f"{folder}: {owner} is writing to it; wait for its end, or choose another --output"
            ) from None
        except (ImportError, OSError) as error:
            print(f"{path}: cannot be locked ({error}); let no other run write to this folder", file=sys.stderr)
        # Another process may have removed the file between opening and locking it.
        ours = path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())


def _empty(folder: Path) -> None:
    """Remove all that a locked folder holds but the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def begin(folder: Path, config: Any, resume: bool = False) -> Path:
    """Make and lock the run directory, and write config.yaml into it; a resumed run keeps its own.

    Args:
        folder: The run directory.
        config: The resolved config dataclass; ``--config FOLDER/config.yaml`` repeats the run.
        resume: Whether to resume the run that is in the folder.

    Raises:
        InputError: The folder is in use, holds nothing to resume, or was begun with another config.
    """
    folder = Path(folder)
    if resume:
        if not (folder / "last.safetensors").is_file():
            raise InputError(f"{folder}: no last.safetensors to resume from")
        check_same_config(folder, config)
        return folder
    check_unused(folder)
    lock(folder)
    check_unused(folder)  # again: until the lock, another run could be there
    _empty(folder)
    write_text(folder / "config.yaml", yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True))
    return folder


def discard_beginning(folder: Path) -> None:
    """Remove what is left of a run that was stopped before its first save; leave anything else."""
    if folder.is_dir() and not _further(folder):
        shutil.rmtree(folder)


@contextmanager
def removed_on_error(folder: Path) -> Iterator[None]:
    """Remove a run directory that was begun if bad input or a full disk ends it before it holds weights or results."""
    try:
        yield
    except (InputError, OSError):
        if not any(folder.rglob("*.safetensors")) and not (folder / "run.html").is_file():
            shutil.rmtree(folder, ignore_errors=True)
        raise


def changed_keys(folder: Path, config: Any) -> list[str]:
    """The keys in which a config differs from that of the run in a folder, without those that change no number.

    Raises:
        InputError: The folder's config.yaml cannot be read.
    """
    path = folder / "config.yaml"
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot read it ({one_line(error)}); choose another --output") from None
    old, new = flat(before), flat(config_to_dict(config))
    return sorted(key for key in (old.keys() | new.keys()) - _FREE_TO_CHANGE if old.get(key) != new.get(key))


def check_same_config(folder: Path, config: Any) -> None:
    """Check that a run is resumed with the config that it began with, apart from keys that change no number.

    Raises:
        InputError: Another key differs; the message names the first.
    """
    if changed := changed_keys(folder, config):
        raise InputError(
            f"{folder}: the run was started with another {changed[0]}; resume it with --config {folder}/config.yaml, or choose "
            "another --output"
        )


def write_metrics(
    folder: Path,
    task: str,
    data: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> None:
    """Write metrics.json; docs/metrics.md gives its form.

    Args:
        folder: The run directory.
        task: What the run did, such as "zero-shot classification".
        data: What it was scored on.
        tables: Name -> a table of results.
        settings: Further entries, such as the checkpoint and the bootstrap.
        device: The torch device of the run.

    Raises:
        ValueError: A setting has the name of another entry.
    """
    records = {name: to_records(table) for name, table in (tables or {}).items()}
    settings = settings or {}
    if twice := ({"format", "version", "task", "data", "environment"} | records.keys()) & settings.keys():
        raise ValueError(f"metrics.json has two entries {min(twice)!r}")
    about = {"format": METRICS_FORMAT, "version": METRICS_VERSION, "task": task, "data": data}
    write_json(folder / "metrics.json", {**about, **settings, **records, "environment": environment(device)})


def finish(
    folder: Path,
    task: str,
    data: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame] | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Path:
    """Write metrics.json and run.html, once everything else is in the run directory; returns the page's path.

    Args: as for ``write_metrics``.
    """
    write_metrics(folder, task, data, tables, settings, device)
    return write_page(folder)


def bootstrap_settings(resamples: int, seed: int, patients: pd.Series | list[str]) -> dict[str, Any]:
    """The entry ``bootstrap`` of metrics.json: what the intervals rest on.

    Args:
        resamples: Number of resamples.
        seed: Random seed.
        patients: The patient of each image, "" where unknown; images are resampled where no patient is known.
    """
    unit = "patient" if any(patients) else "image"
    return {"bootstrap": {"resamples": resamples, "seed": seed, "unit": unit, "level": 0.95}}


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file, whole or not at all.

    Numpy numbers and arrays, paths and tuples become what JSON has for them; NaN and infinities become null.
    """
    write_text(path, json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics.json of a run; docs/metrics.md gives its form.

    Raises:
        InputError: It is missing, or is not the metrics.json of a run.
    """
    path = folder / "metrics.json"
    metrics = read_json(path, "give the directory of a finished run")
    if not isinstance(metrics, dict) or metrics.get("format") != METRICS_FORMAT:
        raise InputError(f"{path}: is not the metrics.json of a run")
    return metrics


def environment(device: str = "cpu") -> dict[str, Any]:
    """What a run ran on.

    Args:
        device: The torch device of the run.

    Returns:
        Versions of medslip, python and the main packages; git revision and whether the checkout was changed (None outside a
        checkout); platform, device, number of CPUs and of torch's threads.
    """
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else platform.machine()
    return {
        "medslip": __version__,
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        **_checkout(),
        "platform": platform.platform(),
        "device": device,
        "device_name": name,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _checkout() -> dict[str, str | bool | None]:
    root = Path(__file__).parents[1]
    revision = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    changed = None if revision is None else bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return {"git_revision": revision, "git_changed": changed}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
