"""Two runs on the same images -> paired differences with intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from medslip.errors import InputError, check_at_least
from medslip.evaluation.bootstrap import count_patients, patient_index
from medslip.evaluation.classification import MEAN
from medslip.evaluation.figures import difference_plot
from medslip.evaluation.grounding_scores import ALL
from medslip.evaluation.paired import Run, compare_runs, match_runs, open_run
from medslip.evaluation.tables import to_text, words, write_csv
from medslip.run_dir import (
    RUNS,
    begin,
    bootstrap_settings,
    check_unused,
    finish,
    read_metrics,
    removed_on_error,
    timestamp,
)


@dataclass(frozen=True)
class CompareConfig:
    """Compare two runs of the same task on the images that both have: compare RUN_A RUN_B.

    Attributes:
        run_a: Run directory of a zero-shot classification, a grounding or a fine-tuning (with all its seeds, or of one seed).
        run_b: Run directory of the same task.
        resamples: Bootstrap resamples of patients, the same for both runs.
        seed: Random seed of the resamples.
        output: The directory of the comparison; None for runs/compare/DATE-TIME.
    """

    run_a: Path
    run_b: Path
    resamples: int = 1000
    seed: int = 0
    output: Path | None = None

    positional = ("run_a", "run_b")

    def __post_init__(self) -> None:
        check_at_least(self, resamples=0, seed=0)


def run(config: CompareConfig, show: bool = True) -> pd.DataFrame:
    """Compare; returns the differences.

    The directory then holds config.yaml, metrics.json, differences.csv (a row per score), differences.png and run.html.

    Args:
        config: Which runs.
        show: Whether to print the tables.

    Raises:
        InputError: A directory cannot be used, or the runs are of two tasks, have nothing in common, or disagree on a label.
    """
    output = config.output or RUNS / "compare" / timestamp()
    check_unused(output)
    a, b = (open_run(folder, read_metrics(folder)) for folder in (config.run_a, config.run_b))
    if a.task != b.task:
        raise InputError(
            f"{a.folder} is a run of {a.task}, {b.folder} of {b.task}: only runs of the same task can be compared"
        )
    matched = match_runs(a, b)
    differences = compare_runs(a, b, matched, config.resamples, config.seed)
    begin(output, replace(config, output=output))
    with removed_on_error(output):
        write_csv(differences.drop(columns="by_seed"), output / "differences.csv")
        panels = panels_of(differences)
        difference_plot(output / "differences.png", panels)
        data = {
            "images": matched.pairs[0][0]["image"].nunique(),
            "patients": count_patients(patient_index(matched.units)),
            "images_only_a": matched.only_a,
            "images_only_b": matched.only_b,
            "classes_only_a": [name for name in a.classes if name not in matched.classes],
            "classes_only_b": [name for name in b.classes if name not in matched.classes],
        }
        settings = bootstrap_settings(config.resamples, config.seed, matched.patients) | {
            "compared": a.task,
            "a": _about(a),
            "b": _about(b),
            "seeds": [seed for seed in matched.seeds if seed is not None],
            "seeds_only_a": [seed for seed in a.predictions if seed not in matched.seeds],
            "seeds_only_b": [seed for seed in b.predictions if seed not in matched.seeds],
        }
        page = finish(output, "comparison", data, {"differences": differences}, settings)
    if show:
        _show(panels, data, settings)
        print(f"all scores, metrics and figure: {output}\nrun page: {page}")
    return differences


def _about(side: Run) -> dict[str, Any]:
    return {"run": str(side.folder), **{key: side.metrics.get(key) for key in ("checkpoint", "init", "data")}}


_BY_CLASS = ("auroc", "average_precision", "pointing", "iou")
"""Scores that are shown class by class."""


def panels_of(differences: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Title -> the differences worth showing together: the main scores by class, and of each group every score of its mean.

    The first column of each names its rows.
    """
    panels: dict[str, pd.DataFrame] = {}
    for group, of_group in differences.groupby("group", sort=False):
        where = f"findings {group!s} than a patch" if group else ""
        means = [name for name in of_group["name"].unique() if name.startswith((MEAN, ALL))]
        for score in _BY_CLASS:
            rows = of_group[of_group["score"] == score]
            if len(rows) > 1:
                panels[", ".join(filter(None, [words(score), where]))] = rows.drop(columns=["group", "score"])
        mean = (means or [of_group["name"].iloc[-1]])[0]
        rows = of_group[of_group["name"] == mean].drop(columns=["group", "name"])
        panels[", ".join(filter(None, [mean, where]))] = rows
    return panels


_NAMED = 3


def _show(panels: dict[str, pd.DataFrame], data: dict[str, Any], about: dict[str, Any]) -> None:
    print(f"A  {about['a']['run']}\nB  {about['b']['run']}")
    print(f"{about['compared']}, {data['images']:,} images of both, {data['patients']:,} patients")
    if len(about["seeds"]) > 1:
        print(f"means over seeds {', '.join(map(str, about['seeds']))}, paired by number; intervals are over patients")
    left_out = {
        f"{what} only in {side.upper()}": data[f"{what}_only_{side}"] for side in "ab" for what in ("images", "classes")
    }
    left_out |= {f"seeds only in {side.upper()}": about[f"seeds_only_{side}"] for side in "ab"}
    for what, names in left_out.items():
        if names:
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            print(f"{len(names):,} {what}, left out: {', '.join(map(str, names[:_NAMED]))}{more}")
    for title, rows in panels.items():
        shown = rows.drop(columns="by_seed").assign(
            difference=[f"{entry:+.3f}" for entry in rows["difference"]],
            clear=["*" if clear else "" for clear in rows["clear"]],
        )
        print(f"\n{title}\n{to_text(shown)}")
    print("\n* the interval excludes 0; of many classes, 1 in 20 does by chance")


COMMAND = (CompareConfig, run)
