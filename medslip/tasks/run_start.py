"""How every run begins: its folder, and the resolved config in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from medslip.config import config_to_dict, flat
from medslip.errors import InputError, one_line
from medslip.files import write_text
from medslip.training.distributed import Processes

RUNS = Path("runs")
"""Where runs go unless the user says otherwise."""


def timestamp() -> str:
    """Now, for the name of a run folder."""
    return datetime.now().strftime("%Y%m%d-%H%M%S")


_STARTED = frozenset({"config.yaml", "log.jsonl", "tensorboard"})
"""All that a run which was stopped before its first save leaves behind: nothing to resume, nothing to lose."""

_FREE_TO_CHANGE = frozenset({"resume", "device", "data.workers", "train.save_every", "train.log_every"})
"""Keys that may differ when a run is resumed: they change no number."""


def refuse_less(config: Any, **least: int) -> None:
    """Refuse a config with a number that is too small.

    Args:
        config: A config dataclass.
        least: Key -> the smallest number that makes sense.

    Raises:
        InputError: Naming the key.
    """
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            raise InputError(f"{name}: {getattr(config, name)} is less than {smallest}")


def refuse_used(folder: Path) -> None:
    """Refuse a run folder that holds something already; a task asks this before it computes anything.

    Raises:
        InputError: The folder holds more than the beginnings of a run, or is no folder.
    """
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - _STARTED):
        raise InputError(f"{folder}: exists and is not empty; name another --output")


def agreed_folder(wanted: Path | None, task: str, world: Processes, resume: bool = False) -> Path:
    """One run folder for all processes: as wanted, or named after the main process's time.

    Args:
        wanted: The folder, in which {time} stands for the date and time; None takes runs/TASK/{time}.
        task: What the runs of this kind are called.
        world: The processes.
        resume: Whether a run is there, to go on with.

    Raises:
        InputError: In every process, where the folder is in use, or there is nothing to resume.
    """
    named = str(wanted or RUNS / task / "{time}").replace("{time}", timestamp())
    folder: Path = world.gather(Path(named))[0]
    if not resume:
        refuse_used(folder)
    elif wanted is None or not (folder / "config.yaml").is_file():
        raise InputError(
            f"resume: {'no --output is named' if wanted is None else f'{folder} holds no run'} to go on with"
        )
    return folder


def begin_run(folder: Path, config: Any, resume: bool = False) -> Path:
    """Make the run folder and write config.yaml into it; a resumed run keeps its own.

    Args:
        folder: Where the run goes. A folder that holds a run is refused, unless it is to be resumed.
        config: The resolved config dataclass; ``--config FOLDER/config.yaml`` repeats the run.
        resume: Whether to go on with the run that is there.

    Raises:
        InputError: The folder is in use, holds nothing to resume, or was begun with another config.
    """
    folder = Path(folder)
    if resume:
        if not (folder / "last.safetensors").is_file():
            raise InputError(f"{folder}: holds no last.safetensors to resume from")
        refuse_other_config(folder, config)
        return folder
    refuse_used(folder)
    discard_start(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from None
    write_text(folder / "config.yaml", yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True))
    return folder


def discard_start(folder: Path) -> None:
    """Remove what a run left that was stopped before its first save; leave anything else."""
    if folder.is_dir() and not {path.name for path in folder.iterdir()} - _STARTED:
        shutil.rmtree(folder)


@contextmanager
def nothing_half_written(folder: Path) -> Iterator[None]:
    """Remove a run folder again where its input is refused before it holds any weights: there is nothing to lose in it."""
    refuse_used(folder)
    try:
        yield
    except InputError:
        if not any(folder.rglob("best.safetensors")):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def differences(folder: Path, config: Any) -> list[str]:
    """The keys in which a config differs from the one that a run began with, but for those that change no number.

    Raises:
        InputError: The folder's config.yaml cannot be read.
    """
    path = folder / "config.yaml"
    try:
        before = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); name another --output") from None
    old, new = flat(before), flat(config_to_dict(config))
    return sorted(
        key for key in (old.keys() | new.keys()) - _FREE_TO_CHANGE if old.get(key, None) != new.get(key, None)
    )


def refuse_other_config(folder: Path, config: Any) -> None:
    """Refuse to go on with a run that began with another config, but for what changes no number.

    Raises:
        InputError: Naming the first key that differs.
    """
    if changed := differences(folder, config):
        raise InputError(
            f"{folder}: the run began with another {changed[0]}; resume it as it began (--config {folder}/config.yaml), "
            "or name another --output"
        )
