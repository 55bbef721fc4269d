"""Paired differences between two runs on the same images, from the predictions.csv of each.

Both runs are scored under the same resamples of patients, and the interval is that of the difference, resample by resample: an
image that is hard for one run is hard for the other, so the interval is narrower than those of the two runs suggest. A
difference is clear if its 95 % interval excludes 0. No p-value is given: of many classes compared, 1 in 20 has a clear
difference by chance.

Runs of several seeds are compared seed by seed, under the same resamples, and the differences averaged. The interval then says
what other patients would change, not what other seeds would; ``by_seed`` shows those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.data.reading import read_cells
from medslip.errors import InputError, one_line
from medslip.evaluation import segmentation
from medslip.evaluation.bootstrap import Floats, Resampled, patient_index, resample_means
from medslip.evaluation.classification import MEAN, SCORES, mean_members, resample_scores, why_undefined
from medslip.evaluation.grounding_scores import CASE_SCORES, group_scores, size_groups

CLASSIFICATION = ("zero-shot classification", "fine-tuned classification")
GROUNDING = "grounding"
SEGMENTATION = "segmentation"

_COLUMNS = {
    **{task: ["image", "patient"] for task in CLASSIFICATION},
    GROUNDING: ["image", "patient", "class", "larger_than_a_patch", *(f"model_{score}" for score in CASE_SCORES)],
    SEGMENTATION: ["image", "patient", "marked_pixels", "dice", "iou"],
}
"""Task -> what its predictions.csv must have."""

_KINDS: dict[str, Any] = {"task": str, "seed": int, "seeds": list, "scores": list, "data": dict}
"""What is read of a metrics.json, all of which may be missing or null."""

_TEXTS = frozenset({"image", "patient", "class", "text", "side", "view", "sex"})


def _key(task: str, table: pd.DataFrame) -> list[str]:
    """The columns that name a row of predictions: an image, one of its classes, one of the sentences on it."""
    return ["image", *(name for name in ("class", "text") if task == GROUNDING and name in table.columns)]


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
            table["class"].unique().tolist()
            if self.task == GROUNDING
            else [str((self.metrics.get("data") or {}).get("finding"))]
        )

    @property
    def scored(self) -> set[str]:
        """The classes and means in its metrics.json; none in that of all seeds, which has no rows of classes."""
        rows = [row for row in self.metrics.get("scores") or () if isinstance(row, Mapping)]
        return {str(row["class"]) for row in rows if "class" in row}

    def of_classes(self, seed: int | None, classes: Sequence[str]) -> pd.DataFrame:
        """A seed's predictions, without findings of other classes."""
        table = self.predictions[seed]
        return table[table["class"].isin(classes)] if self.task == GROUNDING else table


def open_run(folder: Path, metrics: Mapping[str, Any]) -> Run:
    """Open a run of classification, grounding or segmentation.

    Args:
        folder: A run directory; of a fine-tuning, the one with every seed or that of one seed.
        metrics: Its metrics.json.

    Raises:
        InputError: It is not such a directory, or a file in it cannot be used.
    """
    for key, kind in _KINDS.items():
        if not isinstance(value := metrics.get(key), kind | None) or (
            key == "seeds" and value is not None and not (value and all(isinstance(seed, int) for seed in value))
        ):
            raise InputError(f"{folder}/metrics.json: {key} cannot be {one_line(repr(value), 80)}; get a new copy")
    if metrics.get("task") not in _COLUMNS:
        raise InputError(f"{folder}: cannot compare runs of {metrics.get('task')!r}, only of: {', '.join(_COLUMNS)}")
    seeds = metrics.get("seeds")
    folders = {metrics.get("seed"): folder} if seeds is None else {seed: folder / f"seed_{seed}" for seed in seeds}
    tables = {seed: _read(path / "predictions.csv", metrics["task"]) for seed, path in folders.items()}
    first = next(iter(tables.values()))
    for table in tables.values():
        if set(table["image"]) != set(first["image"]):
            raise InputError(
                f"{table.attrs['path']}: has other images than {first.attrs['path']}; seeds of a run share their test images"
            )
    return Run(folder, metrics, tables)


def _read(path: Path, task: str) -> pd.DataFrame:
    """A predictions.csv, checked, with numbers as numbers."""
    table = read_cells(path)
    if missing := [column for column in _COLUMNS[task] if column not in table.columns]:
        raise InputError(f"{path}: no column {missing[0]!r}")
    key = _key(task, table)
    for line, twice in table.loc[table.duplicated(key), key].iterrows():
        raise InputError(f"{path}: line {line}: {' '.join(twice)} occurs twice")
    for column in table.columns:
        if column in _TEXTS or column.endswith(("_box_confidences", "_box_found")):
            continue
        texts = table[column].replace("", "nan")
        is_label = column.startswith("label_")
        good = texts.isin(("1", "0", "-1")) if is_label else np.isfinite(pd.to_numeric(texts, errors="coerce"))
        if task == GROUNDING or column == "age":
            good |= texts == "nan"
        for line, text in table.loc[~good, column].items():
            what = "1, 0 or -1" if is_label else "a number"
            raise InputError(f"{path}: line {line}: {column} {text!r} is not {what}")
        # Python reads a number exactly as it was written; pandas' parser is off by the last bit.
        table[column] = [float(text) for text in texts]
    table.attrs["path"] = path
    return table


Pair = tuple[pd.DataFrame, pd.DataFrame]
"""The predictions of run A and of run B."""


@dataclass(frozen=True)
class Matched:
    """The predictions of two runs on the images that both have, row by row.

    Attributes:
        pairs: For each common seed, both runs' rows, in the same order.
        seeds: The common seeds.
        classes: The common classes.
        only_a: Images of run A alone.
        only_b: Images of run B alone.
        patients: One number per row, "" where unknown; of run B's patient where run A has none.
    """

    pairs: list[Pair]
    seeds: list[int | None]
    classes: list[str]
    only_a: list[str]
    only_b: list[str]
    patients: list[str]

    @property
    def units(self) -> list[str]:
        """What is resampled: each row's patient, or its image where the patient is unknown."""
        images = self.pairs[0][0]["image"]
        return [patient or image for patient, image in zip(self.patients, images, strict=True)]


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
    tables = [run.of_classes(seeds[0], classes) for run in (a, b)]
    names = match_images(*(table["image"].unique().tolist() for table in tables))
    if not names:
        raise InputError(f"{tables[0].attrs['path']} and {tables[1].attrs['path']} have no image in common")
    # The image's name in a run -> its name in run A, in the order that the rows are to have.
    name_in_a = [{pair[side]: pair[0] for pair in names} for side in (0, 1)]

    def rows(side: int, seed: int | None) -> pd.DataFrame:
        table = (a, b)[side].of_classes(seed, classes)
        image = pd.Categorical(table["image"].map(name_in_a[side]), list(name_in_a[0]))
        return table.assign(image=image).dropna(subset="image").sort_values(_key(a.task, table), ignore_index=True)

    pairs = [(rows(0, seed), rows(1, seed)) for seed in seeds]
    first, second = pairs[0]
    for table in (table for pair in pairs for table in pair):
        _check_same(first, table, a.task, classes)
    only_a, only_b = (sorted(set(table["image"]) - set(of)) for table, of in zip(tables, name_in_a, strict=True))
    # Numbered in the order of run A's file: names may be hashes, and with another key the resamples would be others.
    number = {name: f"{k:09}" for k, name in enumerate(dict.fromkeys(pd.concat(tables)["patient"])) if name}
    patients = [
        number.get(mine or theirs, "") for mine, theirs in zip(first["patient"], second["patient"], strict=True)
    ]
    return Matched(pairs, seeds, classes, only_a, only_b, patients)


def _check_same(first: pd.DataFrame, table: pd.DataFrame, task: str, classes: Sequence[str]) -> None:
    """Check that two tables have the same findings and labels."""
    path, of_first = table.attrs["path"], first.attrs["path"]
    different = "the runs were scored against different labels"
    if task == GROUNDING:
        keys = [set(each[_key(task, each)].itertuples(index=False, name=None)) for each in (first, table)]
        for image, *named in sorted(keys[0] ^ keys[1]):
            lacks, has = (path, of_first) if (image, *named) in keys[0] else (of_first, path)
            raise InputError(f"{lacks}: {image} has no {': '.join(named)}, but has one in {has}: {different}")
        return
    expected, found = (_labels(each, task, classes) for each in (first, table))
    for row, column in np.argwhere(expected.to_numpy() != found.to_numpy()):
        raise InputError(
            f"{path}: {table['image'][row]} has {expected.columns[column]} {found.iloc[row, column]:g}, but "
            f"{expected.iloc[row, column]:g} in {of_first}: {different}"
        )


def _labels(table: pd.DataFrame, task: str, classes: Sequence[str]) -> pd.DataFrame:
    """The labels of each class, or whether the image has a mask."""
    if task == SEGMENTATION:
        return pd.DataFrame({f"a mask of {classes[0]}:": (table["marked_pixels"] > 0).astype(int)})
    return table[[f"label_{name}" for name in classes]].set_axis(list(classes), axis=1)


def match_images(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """The name in the first run and in the second of each image that both have, sorted by file name; see ``match_runs``.

    Args:
        first: Different paths.
        second: Different paths.
    """
    a, b = (
        pd.DataFrame({"name": names, "path": [Path(name).resolve() for name in names]}) for names in (first, second)
    )
    a["file"], b["file"] = ([path.name for path in each["path"]] for each in (a, b))
    same = a.merge(b, on=["path", "file"])
    moved = a.drop_duplicates("file", keep=False).merge(b.drop_duplicates("file", keep=False), on="file")
    both = pd.concat([same, moved]).drop_duplicates("name_x").sort_values(["file", "name_x"])
    return list(zip(both["name_x"], both["name_y"], strict=True))


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
    tables = [
        _differences([("", name, score) for name in members], cases, [(one[:, s], other[:, s]) for one, other in found])
        for s, score in enumerate(SCORES)
    ]
    return pd.concat(tables, ignore_index=True)


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
    cases = np.max([(~np.isnan(one + other)).sum(axis=0) for one, other in pairs], axis=0)
    return _differences(keys, cases.tolist(), _means(pairs, patients, resamples, seed))


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
    columns = [(segmentation.score_columns(one), segmentation.score_columns(other)) for one, other in pairs]
    means = _means([(one.to_numpy(), other.to_numpy()) for one, other in columns], patients, resamples, seed)
    balanced = [(segmentation.with_balanced(one), segmentation.with_balanced(other)) for one, other in means]
    cases = [*columns[0][0].notna().sum(), len(patients)]
    return _differences([("", "all images", score) for score in segmentation.SCORES], cases, balanced)


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
        labels = _labels(pairs[0][0], a.task, classes).to_numpy(np.int8)
        probabilities = [(one[classes].to_numpy(), other[classes].to_numpy()) for one, other in pairs]
        leave_out = [name for name in classes if f"{MEAN} without {name}" in a.scored & b.scored]
        return compare_classifiers(classes, labels, probabilities, patients, leave_out, resamples, seed)
    # Models with other patches may divide the findings elsewhere: a finding is larger if both runs say so.
    first, second = pairs[0]
    larger = (first["larger_than_a_patch"] > 0) & (second["larger_than_a_patch"] > 0)
    groups = size_groups(first.assign(larger_than_a_patch=larger))
    scores = [tuple(group_scores(run, groups, ["model"]) for run in pair) for pair in pairs]
    keys = [(size, name, score) for size, name in groups for score in CASE_SCORES]
    values = [(one.to_numpy(), other.to_numpy()) for one, other in scores]
    return compare_cases(keys, values, matched.units, resamples, seed)


def _means(
    pairs: Sequence[tuple[Floats, Floats]], patients: Sequence[str], resamples: int, seed: int
) -> list[tuple[Resampled, Resampled]]:
    """For each seed, the K means of both runs over the cases of which both have a value."""
    owner = patient_index(patients)

    def means(values: Floats, others: Floats) -> Resampled:
        return resample_means(np.where(np.isnan(others), np.nan, values), owner, resamples, seed)

    return [(means(one, other), means(other, one)) for one, other in pairs]


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
