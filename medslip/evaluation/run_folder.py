"""What an evaluation leaves in its folder: metrics.json, predictions.csv, and the table that it prints."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from medslip.data.attributes import Attributes
from medslip.errors import InputError
from medslip.evaluation.classification import SCORES, ClassScores, MacroScores, Scores, summarise
from medslip.evaluation.estimates import with_scores
from medslip.evaluation.judgement import Judgement
from medslip.evaluation.operating_points import OperatingPoint
from medslip.evaluation.subgroups import AttributeScores, Comparison
from medslip.evaluation.text_table import aligned, number, with_interval
from medslip.files import plain, write_text, written_whole
from medslip.version import __version__

METRICS_FORMAT = "medslip-metrics"
"""What every metrics.json calls itself."""

METRICS_VERSION = 3
"""Of every metrics.json; docs/metrics.md says when it is raised."""

_PACKAGES = ("torch", "torchvision", "transformers", "numpy", "scikit-learn", "pandas", "pydicom")


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file, whole or not at all.

    Numpy numbers and arrays, paths and tuples become what JSON has for them; NaN and infinities become null.
    """
    write_text(path, json.dumps(plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics.json of a run; its shape is in docs/metrics.md.

    Raises:
        InputError: It is missing or is none.
    """
    path = folder / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: file not found; give the folder of a finished run") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(metrics, dict) or metrics.get("format") != METRICS_FORMAT:
        raise InputError(f"{path}: is no metrics.json of a run")
    return metrics


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
    judgement: Judgement | None = None,
) -> None:
    """Write metrics.json of a classification; its shape is in docs/metrics.md.

    Args:
        folder: The run's folder.
        task: For example "zero-shot classification".
        data: What was classified: name, list, and the like.
        scores: What ``classification.score`` returned.
        leave_out: Classes for which a second mean, without that class, is wanted. Those not there are
            ignored.
        device: The torch device of the run.
        extra: More top-level entries, such as the checkpoint and the prompts.
        judgement: Calibration, operating points and subgroups of the same images.

    Raises:
        ValueError: ``extra`` names an entry that is there already.
    """
    names = [entry.name for entry in scores.classes]
    metrics: dict[str, Any] = {
        "format": METRICS_FORMAT,
        "version": METRICS_VERSION,
        "task": task,
        "data": {**data, "images": scores.images, "patients": scores.patients},
        "bootstrap": {
            "resamples": len(scores.resampled),
            "seed": scores.seed,
            "unit": scores.unit,
            "level": 0.95,
        },
        "classes": [_class_entry(entry) for entry in scores.classes],
        "macro": with_scores(summarise(scores), SCORES),
        "macro_without": {name: with_scores(summarise(scores, (name,)), SCORES) for name in leave_out if name in names},
        **(judgement.entries() if judgement else dict.fromkeys(("calibration", "operating_points", "subgroups"))),
        "environment": environment(device),
    }
    for key, value in (extra or {}).items():
        if key in metrics:
            raise ValueError(f"metrics.json has an entry {key!r} already")
        metrics[key] = value
    write_json(Path(folder) / "metrics.json", metrics)


def write_unscored_metrics(
    folder: Path, task: str, data: Mapping[str, Any], device: str = "cpu", extra: Mapping[str, Any] | None = None
) -> None:
    """Write metrics.json of images without labels; its shape is in docs/metrics.md.

    Args:
        folder: The run's folder.
        task: As for ``write_metrics``.
        data: What was classified.
        device: The torch device of the run.
        extra: More top-level entries.
    """
    head = {"format": METRICS_FORMAT, "version": METRICS_VERSION, "task": task, "data": data}
    write_json(Path(folder) / "metrics.json", {**head, "environment": environment(device), **(extra or {})})


def _class_entry(entry: ClassScores) -> dict[str, Any]:
    return {**with_scores(entry, SCORES), "undefined": entry.undefined}


def write_predictions(
    folder: Path,
    images: Sequence[Path | str],
    patients: Sequence[str],
    classes: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.int8] | None = None,
    attributes: pd.DataFrame | Attributes | None = None,
) -> None:
    """Write predictions.csv, one line an image.

    Columns: ``image``; ``patient`` (empty where unknown); one column a class, named after it, with the probability in
    digits enough to give the same number back; with labels, ``label_<class>`` each: 1 present, 0 absent, -1 unknown;
    then ``view``, ``sex`` and ``age`` (years), each only where it is known of an image, and empty where it is not.

    Args:
        folder: The run's folder.
        images: n paths.
        patients: n names.
        classes: C names.
        probabilities: n x C.
        labels: n x C; None where there are none.
        attributes: View, sex and age of the n images.
    """
    columns: dict[str, Any] = {"image": [str(image) for image in images], "patient": list(patients)}
    columns |= {name: probabilities[:, k] for k, name in enumerate(classes)}
    if labels is not None:
        columns |= {f"label_{name}": labels[:, k] for k, name in enumerate(classes)}
    columns |= {} if attributes is None else attribute_columns(attributes)
    with written_whole(Path(folder) / "predictions.csv") as partial:
        pd.DataFrame(columns).to_csv(partial, index=False)


def attribute_columns(attributes: pd.DataFrame | Attributes) -> dict[str, Any]:
    """The columns ``view``, ``sex`` and ``age`` (years) of a table of images or findings, without those that nobody knows.

    Args:
        attributes: View, sex and age of n lines.

    Returns:
        Name -> n entries, NaN where unknown.
    """
    columns = {name: attributes[name].replace("", np.nan).reset_index(drop=True) for name in ("view", "sex", "age")}
    return {name: column for name, column in columns.items() if column.notna().any()}


def score_table(scores: Scores, leave_out: Sequence[str] = (), beside: tuple[str, Scores] | None = None) -> str:
    """The scores as text: a line a class, then the means.

    Args:
        scores: What ``classification.score`` returned.
        leave_out: Classes to show a second mean without, each. Those not there are ignored.
        beside: Name and scores of a baseline on the same classes; its AUROC becomes the last column.

    Returns:
        Lines of equal columns: class, positives, AUROC [95 % interval], maximum F1, accuracy, average
        precision; below them, which classes the mean leaves out, and why, and which leave it without an interval.
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
        column = [name, *(number(entry.auroc) for entry in entries)]
        lines = [[*line, cell] for line, cell in zip(lines, column, strict=True)]
    text = aligned(lines)
    text.insert(len(names) + 2, text[1])
    text += [f"not in the mean: {name} ({why})" for name, why in macros[0].left_out.items()]
    lone = [name for name, few in zip(names, scores.carriers, strict=True) if few < 2 and name in macros[0].classes]
    if lone and len(scores.resampled):
        text.append(
            f"no interval of the mean: all positives, or all negatives, of {', '.join(lone)} are of one patient"
        )
    return "\n".join(text)


def judgement_table(judgement: Judgement) -> str:
    """The judgement as text.

    Returns:
        A line a class: ECE [95 % interval], the ECE of a perfectly calibrated model, the ECE after recalibration, Brier score,
        then, of the threshold at the specificity, the threshold and its scores. Below them a line an attribute: each compared
        group's mean AUROC, the gap, and what is compared.
    """
    chosen = bool(judgement.points)
    lines = [["class", "ECE [95 % interval]", "if perfect", *(["recalibrated"] if chosen else []), "Brier"]]
    for entry in judgement.calibration:
        cells = with_interval(entry.ece, entry.intervals.get("ece")), number(entry.chance_ece)
        lines.append([entry.name, *cells, *([""] if chosen else []), number(entry.brier)])
    for line, platt, after in zip(lines[1:], judgement.platt, judgement.recalibrated, strict=False):
        line[3] = "-" if platt is None else number(after.ece)
    if chosen:
        lines[0] += ["threshold", "sensitivity [95 % interval]", "specificity", "PPV", "NPV"]
        for line, points in zip(lines[1:], judgement.points, strict=True):
            line += _point_cells(points.at_specificity)
    text = aligned(lines)
    if chosen:
        known = (judgement.validation or {})["name"]
        text.append(f"thresholds: specificity of at least {judgement.specificity:g} on {known}")
        without = [
            each.name
            for each in judgement.points
            if not each.undefined and each.at_specificity.chosen.threshold is None
        ]
        if without:
            text.append(f"no threshold: with that specificity no positive is found there, of {', '.join(without)}")
    return "\n".join([*text, *subgroup_lines(judgement.subgroups, "auroc", "AUROC")])


def subgroup_lines(subgroups: Mapping[str, AttributeScores], score: str, called: str) -> list[str]:
    """A line an attribute whose groups can be compared: each group's mean, the gap, and what is compared.

    Args:
        subgroups: Attribute -> its scores.
        score: The key of the comparison.
        called: What people call the score.
    """
    lines = []
    for attribute, scores in subgroups.items():
        if score in scores.comparisons:
            comparison = scores.comparisons[score]
            there = [mean.group for mean in comparison.means]
            small = ", ".join(group.name for group in scores.groups if group.name not in there)
            left_out = f"; too few images of: {small}" if small else ""
            lines.append(f"{called} by {attribute}: {_comparison(comparison)}{left_out}")
    return lines


def _point_cells(point: OperatingPoint) -> list[str]:
    sensitivity = with_interval(point.sensitivity, point.intervals.get("sensitivity"))
    others = (point.specificity, point.ppv, point.npv)
    return [number(point.chosen.threshold), sensitivity, *map(number, others)]


def _comparison(comparison: Comparison) -> str:
    means = ", ".join(f"{mean.group} {with_interval(mean.value, mean.interval)}" for mean in comparison.means)
    count = len(comparison.classes)
    classes = f" (mean of {count} class{'' if count == 1 else 'es'})" if count else ""
    gap = "" if comparison.gap is None else f"; gap {with_interval(comparison.gap, comparison.interval)}"
    return f"{means}{gap}{classes}"


def _cells(entry: ClassScores | MacroScores) -> list[str]:
    others = (entry.max_f1, entry.accuracy, entry.average_precision)
    return [with_interval(entry.auroc, entry.intervals.get("auroc")), *map(number, others)]
