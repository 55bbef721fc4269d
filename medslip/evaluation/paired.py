"""Paired differences between two runs on the same images, from the predictions.csv of each.

Both runs are scored under the same resamples of patients, and the interval is that of the difference, resample by resample: an
image that is hard for one run is hard for the other, so the interval is narrower than those of the two runs suggest. A
difference is clear if its 95 % interval excludes 0. No p-value is given: of many classes compared, 1 in 20 has a clear
difference by chance.

Runs of several seeds are compared seed by seed, under the same resamples, and the differences averaged. The interval then says
what other patients would change, not what other seeds would; ``by_seed`` shows those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.data.reading import read_cells
from medslip.errors import InputError
from medslip.evaluation import segmentation
from medslip.evaluation.bootstrap import Floats, Resampled, patient_index, resample_means
from medslip.evaluation.classification import MEAN, SCORES, mean_members, resample_scores, why_undefined
from medslip.evaluation.grounding_scores import CASE_SCORES, size_groups

CLASSIFICATION = ("zero-shot classification", "fine-tuned classification")
GROUNDING = "grounding"
SEGMENTATION = "segmentation"
TASKS = (*CLASSIFICATION, GROUNDING, SEGMENTATION)

_TEXTS = frozenset({"image", "patient", "class", "view", "sex"})

Pair = tuple[pd.DataFrame, pd.DataFrame]
"""The predictions of run A and of run B."""


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        folder: As the user named it.
        metrics: Its metrics.json.
        predictions: Seed -> its predictions.csv; the key is None for a run without seeds.
    """

    folder: Path
    metrics: Mapping[str, Any]
    predictions: Mapping[int | None, pd.DataFrame]

    @property
    def task(self) -> str:
        """What the run did."""
        return str(self.metrics["task"])

    @property
    def classes(self) -> list[str]:
        """Classes with labels or findings; of a segmentation, its finding."""
        table = next(iter(self.predictions.values()))
        if self.task in CLASSIFICATION:
            return [name for name in table.columns if f"label_{name}" in table.columns]
        return (
            table["class"].unique().tolist() if self.task == GROUNDING else [str(self.metrics["data"].get("finding"))]
        )


def open_run(folder: Path, metrics: Mapping[str, Any]) -> Run:
    """Open a run of classification, grounding or segmentation.

    Args:
        folder: A run directory; of a fine-tuning, the one with every seed or that of one seed.
        metrics: Its metrics.json.

    Raises:
        InputError: It is not such a directory, or a file in it cannot be used.
    """
    if metrics.get("task") not in TASKS:
        raise InputError(f"{folder}: cannot compare runs of {metrics.get('task')!r}, only of: {', '.join(TASKS)}")
    seeds = metrics.get("seeds")
    folders = {metrics.get("seed"): folder} if seeds is None else {seed: folder / f"seed_{seed}" for seed in seeds}
    tables = {seed: _read(path / "predictions.csv", metrics["task"]) for seed, path in folders.items()}
    first = next(iter(tables.values()))
    for table in tables.values():
        if set(table["image"]) != set(first["image"]):
            raise InputError(
                f"{_path(table)}: has other images than {_path(first)}; seeds of a run share their test images"
            )
    return Run(folder, metrics, tables)


def _read(path: Path, task: str) -> pd.DataFrame:
    """A predictions.csv, checked, with numbers as numbers."""
    table = read_cells(path)
    key = ["image", "class"] if task == GROUNDING else ["image"]
    needed = [*key, "patient", *_columns(task)]
    if missing := [column for column in needed if column not in table.columns]:
        raise InputError(f"{path}: no column {missing[0]!r}")
    twice = table.duplicated(key)
    if twice.any():
        row = int(np.argmax(twice))
        raise InputError(f"{path}: line {table.index[row]}: {' '.join(table[key].iloc[row])} occurs twice")
    for column in table.columns:
        if column in _TEXTS or column.endswith(("_box_confidences", "_box_found")):
            continue
        texts = table[column].replace({"": "nan"})
        good = np.isfinite(pd.to_numeric(texts, errors="coerce").to_numpy(np.float64))
        if task == GROUNDING or column == "age":
            good |= (texts == "nan").to_numpy()
        if column.startswith("label_"):
            good &= texts.isin(("1", "0", "-1")).to_numpy()
        if not good.all():
            row = int(np.argmin(good))
            what = "1, 0 or -1" if column.startswith("label_") else "a number"
            raise InputError(f"{path}: line {table.index[row]}: {column} {table[column].iloc[row]!r} is not {what}")
        # Python reads a number exactly as it was written; pandas' parser is off by the last bit.
        table[column] = [float(text) for text in texts]
    table.attrs["path"] = path
    return table


def _columns(task: str) -> list[str]:
    """What predictions.csv must have besides the names of its rows."""
    if task in CLASSIFICATION:
        return []
    cases = ["larger_than_a_patch", *(f"model_{score}" for score in CASE_SCORES)]
    return cases if task == GROUNDING else ["marked_pixels", "dice", "iou"]


def _path(table: pd.DataFrame) -> Path:
    path: Path = table.attrs["path"]
    return path


@dataclass(frozen=True)
class Matched:
    """The predictions of two runs on the images that both have, row by row.

    Attributes:
        pairs: For each common seed, both runs' rows, in the same order.
        seeds: The common seeds.
        classes: The common classes.
        only_a: Images of run A alone.
        only_b: Images of run B alone.
        patients: One name per row; run B's where run A has none.
    """

    pairs: list[Pair]
    seeds: list[int | None]
    classes: list[str]
    only_a: list[str]
    only_b: list[str]
    patients: list[str]


def match_runs(a: Run, b: Run) -> Matched:
    """Pair the rows of two runs of the same task.

    Images of the same path are the same. Of the others, two of the same file name are, if neither run has another image of that
    name: a data set may have been moved.

    Raises:
        InputError: The runs have no seed, class or image in common, or were scored against different labels.
    """
    seeds = [seed for seed in a.predictions if seed in b.predictions]
    classes = [name for name in a.classes if name in b.classes]
    for what, common, has in (
        ("class", classes, [", ".join(run.classes) or "no labelled class" for run in (a, b)]),
        ("seed", seeds, [f"seeds {', '.join(map(str, run.predictions))}" for run in (a, b)]),
    ):
        if not common:
            raise InputError(f"{a.folder} has {has[0]}, {b.folder} has {has[1]}: they have no {what} in common")
    key = ["image", "class"] if a.task == GROUNDING else ["image"]

    def of_classes(run: Run, seed: int | None) -> pd.DataFrame:
        table = run.predictions[seed]
        return table[table["class"].isin(classes)] if a.task == GROUNDING else table

    of_a, of_b = (of_classes(run, seeds[0])["image"].unique().tolist() for run in (a, b))
    names = match_images(of_a, of_b)
    if not names:
        raise InputError(
            f"{_path(a.predictions[seeds[0]])} and {_path(b.predictions[seeds[0]])} have no image in common"
        )
    order = {name: k for k, (name, _) in enumerate(names)}
    to_a = {theirs: ours for ours, theirs in names}

    def rows(run: Run, seed: int | None) -> pd.DataFrame:
        table = of_classes(run, seed)
        kept = table[table["image"].isin(order if run is a else to_a)]
        kept = kept.assign(image=kept["image"].map(lambda name: name if run is a else to_a[name]))
        place = kept.assign(_place=kept["image"].map(order)).sort_values(["_place", *key], kind="stable")
        return place.drop(columns="_place").reset_index(drop=True)

    pairs = [(rows(a, seed), rows(b, seed)) for seed in seeds]
    first, second = pairs[0]
    for table in (table for pair in pairs for table in pair):
        _check_same(first, table, key, a.task, classes)
    patients = [mine or theirs for mine, theirs in zip(first["patient"], second["patient"], strict=True)]
    return Matched(pairs, seeds, classes, sorted(set(of_a) - set(order)), sorted(set(of_b) - set(to_a)), patients)


def _check_same(first: pd.DataFrame, table: pd.DataFrame, key: list[str], task: str, classes: Sequence[str]) -> None:
    """Check that two tables have the same findings and labels."""
    keys = [set(map(tuple, each[key].to_numpy())) for each in (first, table)]
    if task == GROUNDING and keys[0] != keys[1]:
        image, name = min(keys[0] ^ keys[1])
        lacks, has = (table, first) if (image, name) in keys[0] else (first, table)
        raise InputError(
            f"{_path(lacks)}: {image} has no {name}, but has one in {_path(has)}: the runs were scored against different labels"
        )
    labels = {name: f"label_{name}" for name in classes} if task in CLASSIFICATION else {}
    labels |= {f"a mask of {classes[0]}:": "marked_pixels"} if task == SEGMENTATION else {}
    for name, column in labels.items():
        expected, found = (
            (each[column] > 0).astype(int) if task == SEGMENTATION else each[column] for each in (first, table)
        )
        if (expected != found).any():
            row = int(np.argmax(expected != found))
            raise InputError(
                f"{_path(table)}: {table['image'][row]} has {name} {found[row]:g}, but {expected[row]:g} in {_path(first)}: "
                "the runs were scored against different labels"
            )


def match_images(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """The name in the first run and in the second of each image that both have, sorted by file name; see ``match_runs``.

    Args:
        first: Different paths.
        second: Different paths.
    """
    paths = [{Path(name).resolve(): name for name in names} for names in (first, second)]
    both = [(name, paths[1][path]) for path, name in paths[0].items() if path in paths[1]]
    counts = [Counter(path.name for path in found) for found in paths]
    unique = [
        {path.name: name for path, name in found.items() if count[path.name] == 1}
        for found, count in zip(paths, counts, strict=True)
    ]
    done = {name for name, _ in both}
    both += [(name, unique[1][file]) for file, name in unique[0].items() if file in unique[1] and name not in done]
    return sorted(both, key=lambda pair: (Path(pair[0]).name, pair[0]))


def compare_classifiers(
    classes: Sequence[str],
    labels: npt.NDArray[np.int8],
    pairs: Sequence[tuple[npt.NDArray[np.floating], npt.NDArray[np.floating]]],
    patients: Sequence[str],
    leave_out: Sequence[str] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare two classifiers: each class and the means over classes, each of classification.SCORES.

    Args:
        classes: C names.
        labels: n x C: 1 present, 0 absent, -1 unknown.
        pairs: For each seed, the n x C probabilities of both runs.
        patients: n names, "" where unknown; images of unknown patients are resampled one by one.
        leave_out: Classes without which a second mean is taken, each.
        resamples: Number of resamples; 0 for no intervals.
        seed: Random seed.

    Returns:
        The differences, see ``_differences``: by score, then every class and the means.
    """
    owner = patient_index(patients)
    known = (labels >= 0).sum(axis=0)
    notes = [why_undefined(int((column == 1).sum()), int((column == 0).sum())) for column in labels.T]
    members = {name: [k] for k, name in enumerate(classes)} | mean_members(classes, notes, leave_out)
    cases = [*known.tolist(), *[len(labels)] * (len(members) - len(classes))]

    def scores(probabilities: npt.NDArray[np.floating]) -> Resampled:
        found = resample_scores(labels, probabilities, owner, resamples, seed)
        return Resampled.stack([found[chosen].mean() for chosen in members.values()])

    found = [(scores(one), scores(other)) for one, other in pairs]
    return pd.concat(
        [
            _differences([("", name, score) for name in members], cases, [(x[:, s], y[:, s]) for x, y in found])
            for s, score in enumerate(SCORES)
        ],
        ignore_index=True,
    )


def compare_cases(
    keys: Sequence[tuple[str, str, str]],
    pairs: Sequence[tuple[Floats, Floats]],
    patients: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare means over cases, such as findings.

    Args:
        keys: (group, name, score) of each of K columns.
        pairs: For each seed, the n x K values of both runs; NaN where a case is left out of a mean. A case counts if both runs
            have a value.
        patients: n names, "" where unknown; a case of an unknown patient is resampled by itself.
        resamples: Number of resamples; 0 for no intervals.
        seed: Random seed.
    """
    owner = patient_index(patients)
    cases = np.max([(~np.isnan(one + other)).sum(axis=0) for one, other in pairs], axis=0)
    return _differences(keys, cases.tolist(), [_means(one, other, owner, resamples, seed) for one, other in pairs])


def compare_segmenters(
    pairs: Sequence[Pair], patients: Sequence[str], resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Compare two segmenters by each of segmentation.SCORES.

    Args:
        pairs: For each seed, both runs' ``marked_pixels``, ``dice`` and ``iou`` of n images.
        patients: n names, "" where unknown.
        resamples: Number of resamples; 0 for no intervals.
        seed: Random seed.
    """
    owner = patient_index(patients)
    columns = [[segmentation.score_columns(run).to_numpy() for run in pair] for pair in pairs]
    cases = [*(~np.isnan(columns[0][0])).sum(axis=0).tolist(), len(owner)]
    found = [
        tuple(map(segmentation.with_balanced, _means(one, other, owner, resamples, seed))) for one, other in columns
    ]
    keys = [("", "all images", score) for score in segmentation.SCORES]
    return _differences(keys, cases, [(one, other) for one, other in found])


def compare_runs(a: Run, b: Run, matched: Matched, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Compare two runs of the same task by all its scores.

    Args:
        a: The first run.
        b: The second run.
        matched: What ``match_runs`` returned.
        resamples: Number of resamples; 0 for no intervals.
        seed: Random seed.
    """
    pairs, classes, patients = matched.pairs, matched.classes, matched.patients
    if a.task == SEGMENTATION:
        return compare_segmenters(pairs, patients, resamples, seed)
    if a.task in CLASSIFICATION:
        labels = pairs[0][0][[f"label_{name}" for name in classes]].to_numpy(np.int8)
        probabilities = [(one[classes].to_numpy(), other[classes].to_numpy()) for one, other in pairs]
        means = [{str(row["class"]) for row in run.metrics.get("scores", [])} for run in (a, b)]
        leave_out = [name for name in classes if f"{MEAN} without {name}" in means[0] & means[1]]
        return compare_classifiers(classes, labels, probabilities, patients, leave_out, resamples, seed)
    # Models with other patches may divide the findings elsewhere: a finding is larger if both runs say so.
    first, second = pairs[0]
    larger = (first["larger_than_a_patch"] > 0) & (second["larger_than_a_patch"] > 0)
    groups = size_groups(first.assign(larger_than_a_patch=larger))
    keys = [(size, name, score) for size, name in groups for score in CASE_SCORES]
    members = [inside for inside in groups.values() for _ in CASE_SCORES]

    def columns(run: pd.DataFrame) -> Floats:
        values = [run[f"model_{score}"].where(inside) for (_, _, score), inside in zip(keys, members, strict=True)]
        return np.stack(values, axis=1)

    return compare_cases(keys, [(columns(one), columns(other)) for one, other in pairs], patients, resamples, seed)


def _means(
    one: Floats, other: Floats, owner: npt.NDArray[np.intp], resamples: int, seed: int
) -> tuple[Resampled, Resampled]:
    """The K means of both runs over the cases of which both have a value."""
    missing = np.isnan(one) | np.isnan(other)
    first, second = (resample_means(np.where(missing, np.nan, run), owner, resamples, seed) for run in (one, other))
    return first, second


def _differences(
    keys: Sequence[tuple[str, str, str]], cases: Sequence[int], pairs: Sequence[tuple[Resampled, Resampled]]
) -> pd.DataFrame:
    """One row per column of the scores of both runs (a pair per seed).

    Returns:
        ``group``, ``name``, ``score``; ``cases``; ``a`` and ``b``, means over seeds; ``difference`` (Estimate), b - a;
        ``clear``, whether its interval excludes 0; ``by_seed``, b - a of each seed.
    """
    each = Resampled.stack([other - one for one, other in pairs])
    table = pd.DataFrame(keys, columns=["group", "name", "score"])
    table["cases"] = cases
    for side, name in enumerate("ab"):
        table[name] = np.mean([pair[side].values for pair in pairs], axis=0)
    table["difference"] = each.mean().estimates()
    table["clear"] = [entry.excludes_zero for entry in table["difference"]]
    table["by_seed"] = each.values.T.tolist()
    return table
