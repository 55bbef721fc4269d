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
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.data.reading import read_cells
from medslip.errors import InputError
from medslip.evaluation import segmentation
from medslip.evaluation.bootstrap import Floats, Resampled, patient_index, resample_means
from medslip.evaluation.classification import SCORES, mean_members, resample_scores, why_undefined
from medslip.evaluation.grounding_scores import CASE_SCORES, size_groups

CLASSIFICATION = ("zero-shot classification", "fine-tuned classification")
GROUNDING = "grounding"
SEGMENTATION = "segmentation"
TASKS = (*CLASSIFICATION, GROUNDING, SEGMENTATION)

Pair = tuple[pd.DataFrame, pd.DataFrame]
"""The predictions of run A and of run B."""


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        folder: As the user named it.
        metrics: Its metrics.json.
        predictions: Seed -> its predictions.csv, every cell a text; the key is None for a run without seeds.
        paths: Seed -> that file.
    """

    folder: Path
    metrics: Mapping[str, Any]
    predictions: Mapping[int | None, pd.DataFrame]
    paths: Mapping[int | None, Path]

    @property
    def task(self) -> str:
        """What the run did."""
        return str(self.metrics.get("task"))


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
    paths = {seed: path / "predictions.csv" for seed, path in folders.items()}
    by_class = ["class"] if metrics["task"] == GROUNDING else []
    tables = {seed: _read(path, ["image", *by_class]) for seed, path in paths.items()}
    first = next(iter(tables))
    for seed, table in tables.items():
        if set(table["image"]) != set(tables[first]["image"]):
            raise InputError(
                f"{paths[seed]}: has other images than {paths[first]}; seeds of a run share their test images"
            )
    return Run(folder, metrics, tables, paths)


def _read(path: Path, key: list[str]) -> pd.DataFrame:
    table = read_cells(path)
    for column in (*key, "patient"):
        if column not in table.columns:
            raise InputError(f"{path}: no column {column!r}")
    twice = table.duplicated(key)
    if twice.any():
        row = int(np.argmax(twice))
        raise InputError(f"{path}: line {table.index[row]}: {' '.join(table[key].iloc[row])} occurs twice")
    return table


def numbers(table: pd.DataFrame, columns: Sequence[str], path: Path, blank: bool = False) -> pd.DataFrame:
    """Columns of a table of texts as numbers.

    Args:
        table: With ``image``, and the columns.
        columns: Their names.
        path: The table's file, for messages.
        blank: Whether a cell may be empty, which is NaN.

    Raises:
        InputError: A column is missing, or a cell is not a finite number.
    """
    found = {}
    for column in columns:
        if column not in table.columns:
            raise InputError(f"{path}: no column {column!r}")
        texts = table[column].replace({"": "nan"})
        values = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
        good = np.isfinite(values) | (blank & (texts == "nan").to_numpy())
        if not good.all():
            row = int(np.argmin(good))
            raise InputError(
                f"{path}: {table['image'].iloc[row]}: {column} {table[column].iloc[row]!r} is not a number"
            )
        # Python reads a number exactly as it was written; pandas' parser is off by the last bit.
        found[column] = [float(text) for text in texts]
    return pd.DataFrame(found)


@dataclass(frozen=True)
class Matched:
    """The predictions of two runs on the images that both have, row by row.

    Attributes:
        pairs: For each common seed, both runs' rows, in the same order.
        seeds: The common seeds.
        only_a: Images of run A alone.
        only_b: Images of run B alone.
        patients: One name per row; run B's where run A has none.
    """

    pairs: list[Pair]
    seeds: list[int | None]
    only_a: list[str]
    only_b: list[str]
    patients: list[str]


def match_runs(a: Run, b: Run) -> Matched:
    """Pair the rows of two runs of the same task.

    Images of the same path are the same. Of the others, two of the same file name are, if neither run has another image of that
    name: a data set may have been moved.

    Raises:
        InputError: The runs have no seed, image or class in common.
    """
    seeds = [seed for seed in a.predictions if seed in b.predictions]
    if not seeds:
        has = [", ".join(map(str, run.predictions)) for run in (a, b)]
        raise InputError(f"{a.folder} has seeds {has[0]}, {b.folder} {has[1]}: they have no seed in common")
    of_a, of_b = (run.predictions[seeds[0]] for run in (a, b))
    grounding = a.task == GROUNDING
    if grounding:
        common = set(of_a["class"]) & set(of_b["class"])
        of_a, of_b = (table[table["class"].isin(common)] for table in (of_a, of_b))
    names = match_images(of_a["image"].unique().tolist(), of_b["image"].unique().tolist())
    if not names:
        raise InputError(f"{a.paths[seeds[0]]} and {b.paths[seeds[0]]} have no image in common")
    to_a = {in_b: in_a for in_a, in_b in names}
    order = {in_a: k for k, (in_a, _) in enumerate(names)}
    key = ["image", "class"] if grounding else ["image"]

    def common_rows(table: pd.DataFrame, rename: Mapping[str, str] | None = None) -> pd.DataFrame:
        kept = table.assign(image=table["image"].map(rename)) if rename else table
        kept = kept[kept["image"].isin(order)]
        if grounding:
            kept = kept[kept["class"].isin(common)]
        place = kept["image"].map(order)
        kept = kept.assign(_place=place).sort_values(["_place", *key[1:]], kind="stable")
        return kept.drop(columns="_place").reset_index(drop=True)

    pairs = [(common_rows(a.predictions[seed]), common_rows(b.predictions[seed], to_a)) for seed in seeds]
    for one, other in pairs:
        if list(map(tuple, one[key].to_numpy())) != list(map(tuple, other[key].to_numpy())):
            _raise_finding_missing(one, other, a.paths[seeds[0]], b.paths[seeds[0]])
    first, second = pairs[0]
    return Matched(
        pairs,
        seeds,
        sorted(set(of_a["image"]) - set(order)),
        sorted(set(of_b["image"]) - set(to_a)),
        [mine or theirs for mine, theirs in zip(first["patient"], second["patient"], strict=True)],
    )


def _raise_finding_missing(one: pd.DataFrame, other: pd.DataFrame, path: Path, other_path: Path) -> None:
    keys = [set(zip(table["image"], table["class"], strict=True)) for table in (one, other)]
    image, name = min(keys[0] ^ keys[1])
    lacks, has = (other_path, path) if (image, name) in keys[0] else (path, other_path)
    raise InputError(
        f"{lacks}: {image} has no {name}, but has one in {has}: the runs were scored against different labels"
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
        return _stack([found[chosen].mean() for chosen in members.values()])

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


def grounding_columns(cases: pd.DataFrame) -> tuple[list[tuple[str, str, str]], list[npt.NDArray[np.bool_]]]:
    """(size, class, score) of each comparison of two groundings, and which cases it is over.

    Args:
        cases: One row per case: ``class`` and ``larger_than_a_patch``.
    """
    groups = size_groups(cases)
    keys = [(size, name, score) for size, name in groups for score in CASE_SCORES]
    return keys, [inside for inside in groups.values() for _ in CASE_SCORES]


def _means(
    one: Floats, other: Floats, owner: npt.NDArray[np.intp], resamples: int, seed: int
) -> tuple[Resampled, Resampled]:
    """The K means of both runs over the cases of which both have a value."""
    missing = np.isnan(one) | np.isnan(other)
    first, second = (resample_means(np.where(missing, np.nan, run), owner, resamples, seed) for run in (one, other))
    return first, second


def _stack(parts: Sequence[Resampled]) -> Resampled:
    return Resampled(
        np.stack([part.values for part in parts]),
        np.stack([part.drawn for part in parts], axis=1),
        np.stack([part.carriers for part in parts]),
    )


def _differences(
    keys: Sequence[tuple[str, str, str]], cases: Sequence[int], pairs: Sequence[tuple[Resampled, Resampled]]
) -> pd.DataFrame:
    """One row per column of the scores of both runs (a pair per seed).

    Returns:
        ``group``, ``name``, ``score``; ``cases``; ``a`` and ``b``, means over seeds; ``difference`` (Estimate), b - a;
        ``clear``, whether its interval excludes 0; ``by_seed``, b - a of each seed.
    """
    each = [other - one for one, other in pairs]
    count = len(pairs)
    fewest = reduce(np.minimum, [part.carriers for part in each])
    mean = Resampled(
        np.mean([part.values for part in each], axis=0), np.mean([part.drawn for part in each], axis=0), fewest
    )
    table = pd.DataFrame(keys, columns=["group", "name", "score"])
    table["cases"] = cases
    for side, name in enumerate("ab"):
        table[name] = sum(pair[side].values for pair in pairs) / count
    table["difference"] = mean.estimates()
    table["clear"] = [entry.excludes_zero for entry in table["difference"]]
    table["by_seed"] = np.stack([part.values for part in each], axis=1).tolist()
    return table
