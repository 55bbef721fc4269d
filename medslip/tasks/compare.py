"""Two runs on the same images -> paired differences with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medslip.errors import InputError
from medslip.evaluation.bootstrap import count_patients, patient_index, resampled_unit
from medslip.evaluation.comparison import Difference, Key, compare_answers, compare_cases, compare_segmentations
from medslip.evaluation.comparison_report import Panel, panels_of, show_differences, write_comparison
from medslip.evaluation.figures import difference_plot
from medslip.evaluation.grounding_report import ALL, SIZES
from medslip.evaluation.grounding_scores import CASE_SCORES
from medslip.evaluation.paired_runs import (
    CLASSIFICATION,
    GROUNDING,
    Matched,
    Run,
    Table,
    common_seeds,
    match_images,
    open_run,
)
from medslip.evaluation.report import write_report
from medslip.tasks.run_start import RUNS, begin_run, refuse_less, refuse_used, timestamp


@dataclass(frozen=True)
class CompareConfig:
    """Compare two runs of one kind on the images that both have: compare RUN_A RUN_B.

    Attributes:
        run_a: Run folder of a zero-shot classification, a grounding or a fine-tuning (with all its seeds, or one of them).
        run_b: Run folder of the same kind.
        resamples: Bootstrap resamples of patients, the same for both runs.
        seed: Of the resamples.
        output: The folder of the comparison; None takes runs/compare/DATE-TIME.
    """

    run_a: Path
    run_b: Path
    resamples: int = 1000
    seed: int = 0
    output: Path | None = None

    positional = ("run_a", "run_b")

    def __post_init__(self) -> None:
        refuse_less(self, resamples=0, seed=0)


class _Compared(NamedTuple):
    """What a comparison found.

    Attributes:
        differences: Of every score.
        images: The images' match.
        patients: One name an image or finding.
        only_a: Classes of run A alone.
        only_b: Classes of run B alone.
    """

    differences: list[Difference]
    images: Matched
    patients: list[str]
    only_a: list[str]
    only_b: list[str]


_Seeds = Sequence[tuple[Table, Table]]


def run(config: CompareConfig, show: bool = True) -> list[Difference]:
    """Compare; returns the differences.

    The folder then holds config.yaml, metrics.json, differences.csv (a line a score), differences.png and report.html.

    Args:
        config: Which runs.
        show: Whether to print the tables.

    Raises:
        InputError: A folder cannot be used, or the runs are of two kinds, have nothing in common, or disagree on a label.
    """
    output = config.output or RUNS / "compare" / timestamp()
    refuse_used(output)
    a, b = open_run(config.run_a), open_run(config.run_b)
    if a.task != b.task:
        raise InputError(
            f"{a.folder} is a run of {a.task}, {b.folder} of {b.task}: only runs of one kind can be compared"
        )
    seeds = common_seeds(a, b)
    pairs = [(a.tables[seed], b.tables[seed]) for seed in seeds]
    found = _kind(a)(pairs, a, b, config)
    begin_run(output, replace(config, output=output))
    about = {
        "compared": a.task,
        "a": _about(a),
        "b": _about(b),
        "seeds": [seed for seed in seeds if seed is not None],
        "seeds_only_a": [seed for seed in a.tables if seed not in seeds],
        "seeds_only_b": [seed for seed in b.tables if seed not in seeds],
        "data": {
            "images": len(found.images.both),
            "patients": count_patients(patient_index(found.patients)),
            "images_only_a": found.images.only_first,
            "images_only_b": found.images.only_second,
            "classes_only_a": found.only_a,
            "classes_only_b": found.only_b,
        },
    }
    unit = resampled_unit(found.patients)
    write_comparison(output, found.differences, config.resamples, config.seed, unit, about)
    panels = panels_of(found.differences)
    difference_plot(
        output / "differences.png",
        {panel.title: list(zip(panel.names, panel.entries, strict=True)) for panel in panels},
    )
    write_report(output)
    if show:
        _show(found, panels, about, output)
    return found.differences


def _kind(a: Run) -> Callable[[_Seeds, Run, Run, CompareConfig], _Compared]:
    if a.task in CLASSIFICATION:
        return _classification
    return _grounding if a.task == GROUNDING else _segmentation


def _about(side: Run) -> dict[str, Any]:
    return {
        "run": str(side.folder),
        "checkpoint": side.metrics.get("checkpoint"),
        "init": side.metrics.get("init", side.metrics.get("start")),
        "data": side.metrics.get("data"),
    }


def _classification(pairs: _Seeds, a: Run, b: Run, config: CompareConfig) -> _Compared:
    matched, aligned = _align(pairs)
    classes, only_a, only_b = _common(_classes(aligned[0][0]), _classes(aligned[0][1]), a, b)
    first = aligned[0][0]
    labels = _labels(first, classes)
    for table in (table for pair in aligned for table in pair):
        _refuse_other(labels, _labels(table, classes), classes, first, table)
    answers = [tuple(np.stack([table.numbers(name) for name in classes], axis=1) for table in pair) for pair in aligned]
    patients = _patients(aligned)
    both = [set(side.metrics.get("macro_without", {})) for side in (a, b)]
    leave_out = [name for name in classes if name in both[0] & both[1]]
    differences = compare_answers(
        classes, labels, [(x, y) for x, y in answers], patients, leave_out, config.resamples, config.seed
    )
    return _Compared(differences, matched, patients, only_a, only_b)


def _classes(table: Table) -> list[str]:
    return [name for name in table.cells.columns if f"label_{name}" in table.cells.columns]


def _labels(table: Table, classes: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int8]]:
    values = np.stack([table.numbers(f"label_{name}") for name in classes], axis=1)
    wrong = np.argwhere(~np.isin(values, (-1, 0, 1)))
    if len(wrong):
        row, column = wrong[0]
        image = table.cells["image"].iloc[row]
        raise InputError(f"{table.path}: {image}: label_{classes[column]} is {values[row, column]:g}, not 1, 0 or -1")
    return values.astype(np.int8)


def _refuse_other(labels: Any, others: Any, names: Sequence[str], first: Table, table: Table) -> None:
    """Refuse two tables that say different things of one image."""
    wrong = np.argwhere(labels != others)
    if len(wrong):
        row, column = wrong[0]
        raise InputError(
            f"{table.path}: {table.cells['image'].iloc[row]} has {names[column]} {others[row, column]:g}, but "
            f"{labels[row, column]:g} in {first.path}: the runs were scored against different labels"
        )


def _grounding(pairs: _Seeds, a: Run, b: Run, config: CompareConfig) -> _Compared:
    tables = [_unique_findings(table) for table in pairs[0]]
    classes, only_a, only_b = _common(_found(tables[0]), _found(tables[1]), a, b)
    rows = [
        {
            (image, name): row
            for row, (image, name) in enumerate(zip(table.cells["image"], table.cells["class"], strict=True))
            if name in classes
        }
        for table in tables
    ]
    images = [list(dict.fromkeys(image for image, _ in found)) for found in rows]
    matched = _matched(match_images(*images), *tables)
    chosen: list[tuple[int, int]] = []
    for in_a, in_b in matched.both:
        for name in sorted(classes):
            row_a, row_b = rows[0].get((in_a, name)), rows[1].get((in_b, name))
            if (row_a is None) != (row_b is None):
                lacks, has = (tables[0], tables[1]) if row_a is None else (tables[1], tables[0])
                raise InputError(
                    f"{lacks.path}: {in_a} has no {name}, but has one in {has.path}: the runs were scored against "
                    "different labels"
                )
            if row_a is not None and row_b is not None:
                chosen.append((row_a, row_b))
    first, second = (table.take([pair[side] for pair in chosen]) for side, table in enumerate(tables))
    # Runs of models with other patches may part findings elsewhere: a finding is larger where both say so.
    larger = (first.numbers("larger_than_a_patch") > 0) & (second.numbers("larger_than_a_patch") > 0)
    names = first.cells["class"].to_numpy()
    keys, masks = [], []
    for size, of_size in zip(SIZES, (larger, ~larger), strict=True):
        present = sorted(set(names[of_size].tolist()))
        for name in [*present, ALL] if present else []:
            members = of_size & ((names == name) | (name == ALL))
            keys += [Key(size, name, score) for score in CASE_SCORES]
            masks += [members] * len(CASE_SCORES)
    columns = []
    for table in (first, second):
        scores = {score: table.numbers(f"model_{score}", blank=True) for score in CASE_SCORES}
        columns.append(
            np.stack([np.where(mask, scores[key.score], np.nan) for key, mask in zip(keys, masks, strict=True)], axis=1)
        )
    patients = _patients([(first, second)])
    differences = compare_cases(keys, [(columns[0], columns[1])], patients, config.resamples, config.seed)
    return _Compared(differences, matched, patients, only_a, only_b)


def _found(table: Table) -> list[str]:
    """The classes that have findings."""
    return list(dict.fromkeys(table.cells["class"]))


def _unique_findings(table: Table) -> Table:
    if "class" not in table.cells.columns:
        raise InputError(f"{table.path}: has no column 'class'")
    twice = table.cells.duplicated(["image", "class"]).to_numpy()
    if twice.any():
        row = int(np.argmax(twice))
        raise InputError(
            f"{table.path}: line {row + 2}: {table.cells['image'].iloc[row]} has {table.cells['class'].iloc[row]} twice"
        )
    return table


def _segmentation(pairs: _Seeds, a: Run, b: Run, config: CompareConfig) -> _Compared:
    matched, aligned = _align(pairs)
    findings = [str(side.metrics.get("data", {}).get("finding")) for side in (a, b)]
    if findings[0] != findings[1]:
        raise InputError(f"{a.folder} segments {findings[0]}, {b.folder} {findings[1]}: nothing in common to compare")
    first = aligned[0][0]
    marked = first.numbers("marked_pixels") > 0
    for table in (table for pair in aligned for table in pair):
        other = table.numbers("marked_pixels") > 0
        _refuse_other(
            marked[:, None].astype(int), other[:, None].astype(int), [f"a mask of {findings[0]}:"], first, table
        )
    dice, iou = ([(x.numbers(name), y.numbers(name)) for x, y in aligned] for name in ("dice", "iou"))
    patients = _patients(aligned)
    differences = compare_segmentations(dice, iou, marked, patients, config.resamples, config.seed)
    return _Compared(differences, matched, patients, [], [])


def _align(pairs: _Seeds) -> tuple[Matched, list[tuple[Table, Table]]]:
    """Each table's lines of the common images, in one order."""
    for table in (table for pair in pairs for table in pair):
        twice = table.cells["image"].duplicated().to_numpy()
        if twice.any():
            row = int(np.argmax(twice))
            raise InputError(f"{table.path}: line {row + 2}: {table.cells['image'].iloc[row]} is there twice")
    first, second = pairs[0]
    matched = _matched(match_images(first.cells["image"].tolist(), second.cells["image"].tolist()), first, second)
    sides = list(zip(*matched.both, strict=True))
    aligned = []
    for pair in pairs:
        rows = [{image: row for row, image in enumerate(table.cells["image"])} for table in pair]
        x, y = (table.take([at[image] for image in side]) for table, at, side in zip(pair, rows, sides, strict=True))
        aligned.append((x, y))
    return matched, aligned


def _matched(found: Matched, first: Table, second: Table) -> Matched:
    if not found.both:
        raise InputError(f"{first.path} and {second.path} have no image in common")
    return found


def _common(of_a: Sequence[str], of_b: Sequence[str], a: Run, b: Run) -> tuple[list[str], list[str], list[str]]:
    """The classes of both runs, and those of either alone."""
    both = [name for name in of_a if name in of_b]
    if not both:
        has = [", ".join(names) or "no labelled class" for names in (of_a, of_b)]
        raise InputError(f"{a.folder} has {has[0]}; {b.folder} has {has[1]}: no class is in both")
    return both, [name for name in of_a if name not in both], [name for name in of_b if name not in both]


def _patients(aligned: _Seeds) -> list[str]:
    """Run A's patients; run B's where A knows none."""
    first, second = (table.cells["patient"].tolist() for table in aligned[0])
    return [a or b for a, b in zip(first, second, strict=True)]


_NAMED = 3


def _show(found: _Compared, panels: Sequence[Panel], about: Mapping[str, Any], output: Path) -> None:
    data = about["data"]
    print(f"A  {about['a']['run']}\nB  {about['b']['run']}")
    print(f"{about['compared']}, {data['images']:,} images of both, {data['patients']:,} patients")
    if len(about["seeds"]) > 1:
        print(f"means over seeds {', '.join(map(str, about['seeds']))}, paired by number; intervals are over patients")
    for side in "ab":
        for what in ("images", "classes"):
            _show_left_out(f"{what} only in {side.upper()}, left out", data[f"{what}_only_{side}"])
        _show_left_out(f"seeds only in {side.upper()}, left out", about[f"seeds_only_{side}"])
    print(f"\n{show_differences(panels)}")
    print("\n* the interval leaves out 0; of many classes, 1 in 20 does by chance")
    print(f"all scores, metrics, figure and report: {output}")


def _show_left_out(what: str, names: Sequence[Any]) -> None:
    if names:
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        print(f"{len(names):,} {what}: {', '.join(map(str, names[:_NAMED]))}{more}")


COMMAND = (CompareConfig, run)
