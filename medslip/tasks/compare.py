"""Two runs on the same images -> paired differences with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medslip.errors import InputError
from medslip.evaluation.bootstrap import count_patients, patient_index
from medslip.evaluation.classification import MEAN
from medslip.evaluation.figures import difference_plot
from medslip.evaluation.grounding_scores import ALL, CASE_SCORES
from medslip.evaluation.paired import (
    CLASSIFICATION,
    GROUNDING,
    Matched,
    Run,
    compare_cases,
    compare_classifiers,
    compare_segmenters,
    grounding_columns,
    match_runs,
    numbers,
    open_run,
)
from medslip.evaluation.tables import to_text, words, write_csv
from medslip.run_dir import (
    RUNS,
    begin,
    bootstrap_settings,
    check_at_least,
    check_unused,
    finish,
    read_metrics,
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
        output: The directory of the comparison; None takes runs/compare/DATE-TIME.
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
            f"{a.folder} is a run of {a.task}, {b.folder} of {b.task}: only runs of one task can be compared"
        )
    classes, only_a, only_b = _common_classes(a, b)
    matched = match_runs(a, b)
    compare: Callable[[Run, Run, Matched, Sequence[str], CompareConfig], pd.DataFrame] = (
        _classification if a.task in CLASSIFICATION else _grounding if a.task == GROUNDING else _segmentation
    )
    differences = compare(a, b, matched, classes, config)
    begin(output, replace(config, output=output))
    write_csv(differences.drop(columns="by_seed"), output / "differences.csv")
    panels = panels_of(differences)
    difference_plot(output / "differences.png", panels)
    data = {
        "images": matched.pairs[0][0]["image"].nunique(),
        "patients": count_patients(patient_index(matched.patients)),
        "images_only_a": matched.only_a,
        "images_only_b": matched.only_b,
        "classes_only_a": only_a,
        "classes_only_b": only_b,
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


def _common_classes(a: Run, b: Run) -> tuple[list[str], list[str], list[str]]:
    """The classes of both runs, and those of either alone; a segmentation's class is its finding."""

    def classes_of(side: Run) -> list[str]:
        table = next(iter(side.predictions.values()))
        if side.task in CLASSIFICATION:
            return [name for name in table.columns if f"label_{name}" in table.columns]
        return list(table["class"].unique()) if side.task == GROUNDING else [str(side.metrics["data"].get("finding"))]

    of_a, of_b = classes_of(a), classes_of(b)
    both = [name for name in of_a if name in of_b]
    if not both:
        has = [", ".join(names) or "no labelled class" for names in (of_a, of_b)]
        raise InputError(f"{a.folder} has {has[0]}, {b.folder} has {has[1]}: they have no class in common")
    return both, [name for name in of_a if name not in both], [name for name in of_b if name not in both]


def _of_runs(
    runs: tuple[Run, Run], matched: Matched, columns: Sequence[str], blank: bool = False
) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Columns of numbers of run A and of run B, for each common seed."""
    found = []
    for pair, seed in zip(matched.pairs, matched.seeds, strict=True):
        one, other = (numbers(table, columns, side.paths[seed], blank) for table, side in zip(pair, runs, strict=True))
        found.append((one, other))
    return found


def _check_same_labels(
    runs: tuple[Run, Run], matched: Matched, labels: list[tuple[pd.DataFrame, pd.DataFrame]]
) -> None:
    """Check that two runs, and all their seeds, were scored against the same labels."""
    first, image = labels[0][0], matched.pairs[0][0]["image"]
    for pair, seed in zip(labels, matched.seeds, strict=True):
        for table, side in zip(pair, runs, strict=True):
            wrong = np.argwhere(table.to_numpy() != first.to_numpy())
            if len(wrong):
                row, column = wrong[0]
                name = first.columns[column].removeprefix("label_")
                raise InputError(
                    f"{side.paths[seed]}: {image.iloc[row]} has {name} {table.iloc[row, column]:g}, but "
                    f"{first.iloc[row, column]:g} in {runs[0].paths[matched.seeds[0]]}: the runs were scored against "
                    "different labels"
                )


def _classification(a: Run, b: Run, matched: Matched, classes: Sequence[str], config: CompareConfig) -> pd.DataFrame:
    labels = _of_runs((a, b), matched, [f"label_{name}" for name in classes])
    _check_same_labels((a, b), matched, labels)
    first = labels[0][0].to_numpy()
    wrong = np.argwhere(~np.isin(first, (-1, 0, 1)))
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"{a.paths[matched.seeds[0]]}: {matched.pairs[0][0]['image'].iloc[row]}: label_{classes[column]} is "
            f"{first[row, column]:g}, not 1, 0 or -1"
        )
    pairs = [(one.to_numpy(), other.to_numpy()) for one, other in _of_runs((a, b), matched, classes)]
    without = f"{MEAN} without "
    rows = [{str(row["class"]) for row in side.metrics.get("scores", [])} for side in (a, b)]
    leave_out = [name for name in classes if without + name in rows[0] & rows[1]]
    return compare_classifiers(
        classes, first.astype(np.int8), pairs, matched.patients, leave_out, config.resamples, config.seed
    )


def _grounding(a: Run, b: Run, matched: Matched, classes: Sequence[str], config: CompareConfig) -> pd.DataFrame:
    # Models with other patches may divide the findings elsewhere: a finding is larger if both runs say so.
    sizes = _of_runs((a, b), matched, ["larger_than_a_patch"])[0]
    larger = ((sizes[0] > 0) & (sizes[1] > 0))["larger_than_a_patch"]
    keys, members = grounding_columns(matched.pairs[0][0].assign(larger_than_a_patch=larger))
    pairs = []
    for pair in _of_runs((a, b), matched, [f"model_{score}" for score in CASE_SCORES], blank=True):
        one, other = (
            np.stack(
                [np.where(inside, run[f"model_{key[2]}"], np.nan) for key, inside in zip(keys, members, strict=True)],
                axis=1,
            )
            for run in pair
        )
        pairs.append((one, other))
    return compare_cases(keys, pairs, matched.patients, config.resamples, config.seed)


def _segmentation(a: Run, b: Run, matched: Matched, classes: Sequence[str], config: CompareConfig) -> pd.DataFrame:
    pairs = _of_runs((a, b), matched, ["marked_pixels", "dice", "iou"])
    finding = f"label_a mask of {classes[0]}:"
    masks = [
        (one[["marked_pixels"]].gt(0).astype(int).set_axis([finding], axis=1),
         other[["marked_pixels"]].gt(0).astype(int).set_axis([finding], axis=1))
        for one, other in pairs
    ]  # fmt: skip
    _check_same_labels((a, b), matched, masks)
    return compare_segmenters(pairs, matched.patients, config.resamples, config.seed)


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
