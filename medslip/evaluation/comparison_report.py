"""What a comparison of two runs leaves: metrics.json, differences.csv, and the tables that it prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medslip.evaluation.comparison import Difference
from medslip.evaluation.estimates import estimate
from medslip.evaluation.grounding_report import ALL, GROUNDING_WORDS
from medslip.evaluation.run_folder import METRICS_FORMAT, METRICS_VERSION, environment, write_json
from medslip.evaluation.text_table import aligned, number
from medslip.files import written_whole

SCORE_WORDS = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "max_f1": "maximum F1",
    "accuracy": "accuracy there",
    **GROUNDING_WORDS,
    "dice_marked": "Dice, images with a mask",
    "iou_marked": "IoU, images with a mask",
    "empty_right": "images without a mask left empty",
    "dice_balanced": "Dice, both kinds weighing alike",
}
"""Score -> what people call it."""

_BY_CLASS = ("auroc", "average_precision", "pointing", "iou")
"""Scores that are shown class by class."""


@dataclass(frozen=True)
class Panel:
    """Some differences that are shown together.

    Attributes:
        title: What they are of.
        names: A name a line.
        entries: The differences.
    """

    title: str
    names: list[str]
    entries: list[Difference]


def panels_of(differences: Sequence[Difference]) -> list[Panel]:
    """What is worth showing: the main scores class by class; for each group all scores of its last line, the mean or "all"."""
    panels = []
    for group in dict.fromkeys(entry.key.group for entry in differences):
        of_group = [entry for entry in differences if entry.key.group == group]
        where = f", findings {group} than a patch" if group else ""
        classes = dict.fromkeys(entry.key.name for entry in of_group)
        for score in _BY_CLASS:
            entries = [entry for entry in of_group if entry.key.score == score]
            if len(classes) > 1 and entries:
                panels.append(Panel(f"{SCORE_WORDS[score]}{where}", [entry.key.name for entry in entries], entries))
        mean = means_among(list(classes))[0]
        entries = [entry for entry in of_group if entry.key.name == mean]
        title = f"{mean} {group} than a patch" if group else mean
        panels.append(Panel(title, [SCORE_WORDS[entry.key.score] for entry in entries], entries))
    return panels


def means_among(names: Sequence[str]) -> list[str]:
    """Those names that are of all classes or findings, not of one; the last name where none says so."""
    return [name for name in names if name.startswith("mean of") or name == ALL] or list(names[-1:])


def show_differences(panels: Sequence[Panel]) -> str:
    """A table a panel: name, n, A, B, B - A [95 % interval], a star where that leaves out 0."""
    return "\n\n".join(_table(panel) for panel in panels)


def _table(panel: Panel) -> str:
    lines = [[panel.title, "n", "A", "B", "B - A [95 % interval]", ""]]
    for name, entry in zip(panel.names, panel.entries, strict=True):
        lines.append([name, f"{entry.cases:,}", number(entry.a), number(entry.b), _signed(entry), "*" * entry.clear])
    return "\n".join(aligned(lines))


def _signed(entry: Difference) -> str:
    if entry.value is None:
        return "-"
    span = "" if entry.interval is None else f" [{entry.interval.low:+.3f}, {entry.interval.high:+.3f}]"
    return f"{entry.value:+.3f}{span}"


def write_comparison(
    folder: Path, differences: Sequence[Difference], resamples: int, seed: int, unit: str, about: Mapping[str, Any]
) -> None:
    """Write metrics.json, whose shape is in docs/metrics.md, and differences.csv, a line a difference.

    Args:
        folder: Where.
        differences: What was found.
        resamples: Of the bootstrap.
        seed: Of the resamples.
        unit: What was resampled, "patient" or "image".
        about: The runs, and what of them was compared.
    """
    entries = [
        {
            **entry.key._asdict(),
            "cases": entry.cases,
            "a": estimate(entry.a),
            "b": estimate(entry.b),
            "difference": estimate(entry.value, entry.interval),
            "clear": entry.clear,
            "by_seed": entry.by_seed,
        }
        for entry in differences
    ]
    metrics = {
        "format": METRICS_FORMAT,
        "version": METRICS_VERSION,
        "task": "comparison",
        **about,
        "bootstrap": {"resamples": resamples, "seed": seed, "unit": unit, "level": 0.95},
        "differences": entries,
        "environment": environment(),
    }
    write_json(folder / "metrics.json", metrics)
    rows = [
        {
            **entry.key._asdict(),
            "cases": entry.cases,
            "a": entry.a,
            "b": entry.b,
            "difference": entry.value,
            "low": entry.interval and entry.interval.low,
            "high": entry.interval and entry.interval.high,
            "clear": int(entry.clear),
        }
        for entry in differences
    ]
    with written_whole(folder / "differences.csv") as partial:
        pd.DataFrame(rows).to_csv(partial, index=False)
