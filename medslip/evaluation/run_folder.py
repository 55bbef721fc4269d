"""What an evaluation leaves in its folder: metrics.json, predictions.csv, and the table that it prints."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from medslip.evaluation.bootstrap import Interval
from medslip.evaluation.classification import SCORES, ClassScores, MacroScores, Scores, summarise
from medslip.version import __version__

_FORMAT, _VERSION = "medslip-metrics", 1
_PACKAGES = ("torch", "torchvision", "transformers", "numpy", "scikit-learn", "pandas", "pydicom")


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file, whole or not at all.

    Numpy numbers and arrays, paths and tuples become what JSON has for them; NaN and infinities become null.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    text = json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, np.ndarray | np.generic):
        return _plain(data.tolist())
    if isinstance(data, list | tuple | set | frozenset):
        return [_plain(value) for value in data]
    if isinstance(data, Path):
        return str(data)
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def environment(device: str = "cpu") -> dict[str, Any]:
    """What a run ran on and with.

    Args:
        device: The torch device of the run.

    Returns:
        Versions of medslip, python and the main packages, git revision and whether it was changed (None
        outside a checkout), platform, device, number of CPUs and of torch's threads.
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
    root = Path(__file__).parents[2]
    revision = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    changed = None if revision is None else bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return {"git_revision": revision, "git_changed": changed}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def write_metrics(
    folder: Path,
    task: str,
    data: Mapping[str, Any],
    scores: Scores,
    leave_out: Sequence[str] = (),
    device: str = "cpu",
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write metrics.json.

    Its shape, version 1: ``format``, ``version``, ``task``; ``data`` (as given, with ``images`` and
    ``patients``); ``bootstrap`` (``resamples``, ``seed``, ``unit``, ``level``); ``classes``, a list of
    ``name``, ``positives``, ``negatives``, ``undefined`` (why there are no scores, else null), ``auroc``,
    ``average_precision``, ``max_f1``, ``threshold``, ``accuracy``, and ``intervals`` (score -> ``low``,
    ``high``, ``resamples``, ``left_out``); ``macro``, the mean over all classes that have scores (``name``,
    ``classes``, ``left_out`` with reasons, the four scores, ``intervals``); ``macro_without``, class -> the
    mean without it; ``environment``; then ``extra``. What is not defined is null.

    Args:
        folder: The run's folder.
        task: For example "zero-shot classification".
        data: What was classified: name, list, and the like.
        scores: What ``classification.score`` returned.
        leave_out: Classes for which a second mean, without that class, is wanted. Those not there are
            ignored.
        device: The torch device of the run.
        extra: More top-level entries, such as the checkpoint and the prompts.

    Raises:
        ValueError: ``extra`` names an entry that is there already.
    """
    names = [entry.name for entry in scores.classes]
    metrics: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "task": task,
        "data": {**data, "images": scores.images, "patients": scores.patients},
        "bootstrap": {
            "resamples": len(scores.resampled),
            "seed": scores.seed,
            "unit": "patient",
            "level": 0.95,
        },
        "classes": [_class_entry(entry) for entry in scores.classes],
        "macro": asdict(summarise(scores)),
        "macro_without": {name: asdict(summarise(scores, (name,))) for name in leave_out if name in names},
        "environment": environment(device),
    }
    for key, value in (extra or {}).items():
        if key in metrics:
            raise ValueError(f"metrics.json has an entry {key!r} already")
        metrics[key] = value
    write_json(Path(folder) / "metrics.json", metrics)


def _class_entry(entry: ClassScores) -> dict[str, Any]:
    return {**asdict(entry), "undefined": entry.undefined}


def write_predictions(
    folder: Path,
    images: Sequence[Path | str],
    patients: Sequence[str],
    classes: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.int8] | None = None,
) -> None:
    """Write predictions.csv, one line an image.

    Columns: ``image``; ``patient`` (empty where unknown); one column a class, named after it, with the probability in
    digits enough to give the same number back; with labels, ``label_<class>`` each: 1 present, 0 absent, -1 unknown.

    Args:
        folder: The run's folder.
        images: n paths.
        patients: n names.
        classes: C names.
        probabilities: n x C.
        labels: n x C; None where there are none.
    """
    columns: dict[str, Any] = {"image": [str(image) for image in images], "patient": list(patients)}
    columns |= {name: probabilities[:, k] for k, name in enumerate(classes)}
    if labels is not None:
        columns |= {f"label_{name}": labels[:, k] for k, name in enumerate(classes)}
    path = Path(folder) / "predictions.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    pd.DataFrame(columns).to_csv(partial, index=False)
    partial.replace(path)


def score_table(scores: Scores, leave_out: Sequence[str] = (), beside: tuple[str, Scores] | None = None) -> str:
    """The scores as text: a line a class, then the means.

    Args:
        scores: What ``classification.score`` returned.
        leave_out: Classes to show a second mean without, each. Those not there are ignored.
        beside: Name and scores of a baseline on the same classes; its AUROC becomes the last column.

    Returns:
        Lines of equal columns: class, positives, AUROC [95 % interval], maximum F1, accuracy, average
        precision; below them, which classes the mean leaves out, and why.
    """
    names = [entry.name for entry in scores.classes]
    macros = [summarise(scores), *(summarise(scores, (name,)) for name in leave_out if name in names)]
    lines = [["class", "positives", "AUROC [95 % interval]", "max F1", "accuracy", "avg. precision"]]
    lines += [[entry.name, f"{entry.positives:,}", *_cells(entry)] for entry in scores.classes]
    lines += [[macro.name, "", *_cells(macro)] for macro in macros]
    if beside is not None:
        name, other = beside
        entries: list[ClassScores | MacroScores] = [
            *other.classes,
            summarise(other),
            *(summarise(other, (n,)) for n in leave_out if n in names),
        ]
        column = [name, *(_number(entry.auroc) for entry in entries)]
        lines = [[*line, cell] for line, cell in zip(lines, column, strict=True)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    text = ["  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in lines]
    rule = "-" * len(text[0])
    text = [text[0], rule, *text[1 : len(names) + 1], rule, *text[len(names) + 1 :]]
    text += [f"not in the mean: {name} ({why})" for name, why in macros[0].left_out.items()]
    return "\n".join(text)


def _cells(entry: ClassScores | MacroScores) -> list[str]:
    auroc, precision, f1, accuracy = (_number(getattr(entry, key)) for key in SCORES)
    return [f"{auroc} {_span(entry.intervals.get('auroc'))}".strip(), f1, accuracy, precision]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _span(interval: Interval | None) -> str:
    return "" if interval is None else f"[{interval.low:.3f}, {interval.high:.3f}]"
