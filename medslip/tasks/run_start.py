"""How every run begins: its folder, and the resolved config in it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from medslip.errors import InputError

RUNS = Path("runs")
"""Where runs go unless the user says otherwise."""

PHANTOM = Path("data_file/phantom")
"""Where phantom chests are drawn."""

PHANTOM_PREPARED = Path("data_file/phantom_prepared")
"""Where they are prepared for training."""


def timestamp() -> str:
    """Now, for the name of a run folder."""
    return datetime.now().strftime("%Y%m%d-%H%M%S")


def refuse_used(folder: Path) -> None:
    """Refuse a run folder that holds something already; a task asks this before it computes anything.

    Raises:
        InputError: The folder is not empty, or is no folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not empty; name another --output")


def begin_run(folder: Path, config: Any, resume: bool = False) -> Path:
    """Make the run folder and write config.yaml into it.

    Args:
        folder: Where the run goes. A folder that holds a run is refused, unless it is to be resumed.
        config: The resolved config dataclass; ``--config FOLDER/config.yaml`` repeats the run.
        resume: Whether to go on with the run that is there.

    Raises:
        InputError: The folder is in use, or holds nothing to resume.
    """
    folder = Path(folder)
    if not resume:
        refuse_used(folder)
    elif not (folder / "last.safetensors").is_file():
        raise InputError(f"{folder}: holds no last.safetensors to resume from")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from None
    text = yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True)
    (folder / "config.yaml").write_text(text)
    return folder


def config_to_dict(config: Any) -> Any:
    """A config dataclass as plain values, ready for YAML: what --config reads back."""
    if is_dataclass(config) and not isinstance(config, type):
        return {field.name: config_to_dict(getattr(config, field.name)) for field in fields(config)}
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, list | tuple):
        return [config_to_dict(item) for item in config]
    if isinstance(config, dict):
        return {key: config_to_dict(item) for key, item in config.items()}
    return config
