"""Run folders side by side: what each left of every image, and which images both have."""

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
from medslip.evaluation.run_folder import read_metrics

CLASSIFICATION = ("zero-shot classification", "fine-tuned classification")
GROUNDING = "grounding"
SEGMENTATION = "segmentation"

_FILES = {**dict.fromkeys((*CLASSIFICATION, SEGMENTATION), "predictions.csv"), GROUNDING: "scores.csv"}
"""Kind of run -> the file that has a line an image or a finding."""


@dataclass(frozen=True)
class Table:
    """A run's lines, every cell as text.

    Attributes:
        path: The CSV file.
        cells: Columns image, patient and more.
    """

    path: Path
    cells: pd.DataFrame

    def numbers(self, column: str, blank: bool = False) -> npt.NDArray[np.float64]:
        """A column's numbers.

        Args:
            column: Its name.
            blank: Whether a cell may be empty, which is NaN.

        Raises:
            InputError: The column is not there, or a cell is no finite number.
        """
        if column not in self.cells.columns:
            raise InputError(f"{self.path}: has no column {column!r}")
        texts = self.cells[column].replace({"": "nan"})
        values = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
        good = np.isfinite(values) | (blank & (texts == "nan").to_numpy())
        if not good.all():
            row = int(np.argmin(good))
            raise InputError(f"{self.path}: line {row + 2}: {column} {self.cells[column].iloc[row]!r} is no number")
        # Python reads a number as it was written; pandas' parser is off by the last bit.
        return np.array([float(text) for text in texts], np.float64)

    def take(self, rows: Sequence[int]) -> Table:
        """The lines at these positions, in the order given."""
        return Table(self.path, self.cells.iloc[list(rows)].reset_index(drop=True))


@dataclass(frozen=True)
class Run:
    """A run folder, or all seeds of one.

    Attributes:
        folder: As the user named it.
        task: What was done, of metrics.json.
        tables: Seed -> lines; key None for a run without seeds.
        metrics: The folder's metrics.json.
    """

    folder: Path
    task: str
    tables: Mapping[int | None, Table]
    metrics: Mapping[str, Any]


def open_run(folder: Path) -> Run:
    """Open a run of classification, grounding or segmentation.

    Args:
        folder: A run folder; of a fine-tuning, the top folder with every seed's, or one seed's.

    Raises:
        InputError: It is no such folder, or a file in it cannot be used.
    """
    metrics = read_metrics(folder)
    task = str(metrics.get("task"))
    if task not in _FILES:
        raise InputError(f"{folder}: a run of {task!r} cannot be compared; one of: {', '.join(_FILES)}")
    if "seeds" in metrics:
        folders: dict[int | None, Path] = {seed: folder / f"seed_{seed}" for seed in metrics["seeds"]}
    else:
        folders = {metrics.get("seed"): folder}
    tables = {seed: _read_table(path / _FILES[task]) for seed, path in folders.items()}
    first = next(iter(tables.values()))
    for table in tables.values():
        if sorted(table.cells["image"]) != sorted(first.cells["image"]):
            raise InputError(
                f"{table.path}: is of other images than {first.path}; the seeds of a run share their test images"
            )
    return Run(folder, task, tables, metrics)


def _read_table(path: Path) -> Table:
    cells = read_cells(path).reset_index(drop=True)
    for column in ("image", "patient"):
        if column not in cells.columns:
            raise InputError(f"{path}: has no column {column!r}")
    return Table(path, cells)


def common_seeds(first: Run, second: Run) -> list[int | None]:
    """The seeds that both runs have.

    Raises:
        InputError: There is none.
    """
    seeds = [seed for seed in first.tables if seed in second.tables]
    if not seeds:
        has = [", ".join(map(str, run.tables)) for run in (first, second)]
        raise InputError(f"{first.folder} has seeds {has[0]}, {second.folder} {has[1]}: no seed is in both")
    return seeds


@dataclass(frozen=True)
class Matched:
    """Images of two runs.

    Attributes:
        both: (name in the first, name in the second) of each image that both have, sorted by file name.
        only_first: Images of the first alone.
        only_second: Images of the second alone.
    """

    both: list[tuple[str, str]]
    only_first: list[str]
    only_second: list[str]


def match_images(first: Sequence[str], second: Sequence[str]) -> Matched:
    """Find the images that both runs have.

    Images of the same path are the same. Of the others, two of the same file name are, where neither run has another image of
    that name: a data set may have moved.

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
    both.sort(key=lambda pair: (Path(pair[0]).name, pair[0]))
    left = [sorted(set(names) - {pair[which] for pair in both}) for which, names in enumerate((first, second))]
    return Matched(both, *left)
