"""The prepared data set: a folder with a label store, a list of images per split, and a summary of what was made."""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pandas as pd

from medslip.data.reading import (
    are_plain,
    check_columns,
    check_unique,
    first_line,
    name_in,
    paths_in,
    read_blocks,
    read_cells,
)
from medslip.data.splits import SPLITS
from medslip.data.table import ImageTable
from medslip.data.texts import Texts
from medslip.errors import InputError
from medslip.files import naming, to_json, write_text, written_whole
from medslip.labels import LabelStore, LabelStoreWriter
from medslip.labels.store import study_key
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

COLUMNS = ("image", "study", "patient", "view", "sex", "age", "row")
"""Columns of a list. `image` is a path, relative to the list's folder or absolute; view, sex and age may be empty."""

_NEEDED = ("image", "study", "patient", "row")

_BEGUN, _WHOLE = ".partial", ".new"
"""Folders in a prepared folder: a preparation while it is written, and one that only has to be moved to its place."""

FREQUENT_PAIRS = 20
"""How many of the most frequent (anatomy, pathology) pairs a summary names."""


def write_list(path: Path, images: pd.DataFrame) -> None:
    """Write a list, whole or not at all.

    Args:
        path: The CSV file.
        images: The columns COLUMNS, one row per image; missing columns are left empty.
    """
    with written_whole(path) as partial:
        images.reindex(columns=list(COLUMNS)).to_csv(partial, index=False)


def read_list(path: Path) -> ImageTable:
    """Read a list.

    Returns:
        An image table with two more columns: ``row``, the study's row in the label store (-1 if there is none), and ``line``.

    Raises:
        InputError: The file is missing, empty, lacks a column, names an image twice, or has a row that is not a number; or its
            folder is not whole.
    """
    path = Path(path)
    _check_whole(path)
    cells = read_cells(path)
    check_columns(cells.columns.tolist(), _NEEDED, path)
    row = _numbers(cells["row"].tolist(), cells.index, path)
    check_unique(cells["image"], path)
    cells = cells.reindex(columns=list(COLUMNS), fill_value="")
    age = pd.to_numeric(cells["age"], errors="coerce").astype(float)
    paths = paths_in(None, cells["image"], path)
    images = cells.drop(columns="image").assign(path=paths, age=age, row=row, line=cells.index)
    name = f"{path.resolve().parent.name} ({path.name})"
    return ImageTable(name, images, source=str(path))


@dataclass(frozen=True)
class ImageList:
    """A list as pre-training holds it: about 120 bytes per image, most of them its path; an image table takes 2,000.

    Attributes:
        source: The file, for messages.
        images: n values each of ``path``, ``patient``, ``row`` and ``line`` as in the table of ``read_list``, and ``key``, the
            study_key of each study.
    """

    source: str
    images: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.images["path"])


def read_image_list(path: Path) -> ImageList:
    """Read a list in little time and memory; what it means and the errors are those of ``read_list``."""
    _check_whole(path)
    folder = os.path.join(path.parent, "")
    names, patients = Texts(prefix="" if folder == "./" else folder), Texts()
    rows, lines, keys, hashes = array("q"), array("i"), array("I"), array("q")
    for numbers, cells in read_blocks(path, _NEEDED):
        image, index = cells["image"], pd.Index(numbers)
        rows.extend(_numbers(cells["row"], index, path))
        if not are_plain(image):
            check_unique(pd.Series(image, index), path)
            image = [name_in(None, name, path, f"line {line}") for line, name in zip(numbers, image, strict=True)]
        names.extend(image)
        patients.extend(cells["patient"])
        lines.extend(numbers)
        keys.extend(map(study_key, cells["study"]))
        hashes.extend(map(hash, image))
    sorted_hashes = np.asarray(hashes)
    sorted_hashes.sort()
    if (sorted_hashes[1:] == sorted_hashes[:-1]).any():
        read_list(path)  # raises, and names both lines
    arrays = {"row": np.asarray(rows), "line": np.asarray(lines), "key": np.asarray(keys)}
    return ImageList(str(path), {"path": names, "patient": patients, **arrays})


def _check_whole(path: Path) -> None:
    if (path.parent / _WHOLE).exists():
        raise InputError(f"{path.parent}: its preparation was interrupted; run the same prepare_data.py command again")
    if not path.is_file():
        raise InputError(f"{path}: list not found; make it with prepare_data.py")


def _numbers(cells: list[str], lines: pd.Index, path: Path) -> list[int]:
    """The rows in the label store; -1 for an empty cell."""
    digits = "".join(cells)
    if digits.isascii() and digits.isdecimal() and all(0 < len(cell) < 16 for cell in cells):
        return list(map(int, cells))
    numbers = pd.to_numeric(pd.Series(cells, lines).replace("", "-1"), errors="coerce")
    if (line := first_line(numbers.isna() | (numbers % 1 != 0) | (numbers.abs() > 1e15))) is not None:
        raise InputError(f"{path}: line {line}: row {cells[lines.get_loc(line)]!r} is not the number of a row")
    return numbers.astype("int64").tolist()


@dataclass(frozen=True)
class PreparationSummary:
    """What a preparation made, for a reader and for summary.json.

    Attributes:
        source: What was read, such as "MIMIC-CXR-JPG".
        studies: Rows of the label store.
        images: List name (train, valid, test) -> images in it.
        present: Cells that are 1, over all studies.
        absent: Cells that are 0.
        cells_mean: Mentioned cells per study, mean.
        cells_median: The same, median.
        cells_max: The same, largest.
        pairs: The most frequent pairs, most frequent first: anatomy, pathology, and how many studies have them present and
            absent.
        left_out: What was left out, with its reason -> how many.
        notes: Further remarks, one sentence each.
    """

    source: str
    studies: int
    images: dict[str, int]
    present: int
    absent: int
    cells_mean: float
    cells_median: float
    cells_max: int
    pairs: list[dict[Any, Any]]
    left_out: dict[str, int]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        images = ", ".join(f"{name} {count:,}" for name, count in self.images.items())
        lines = [
            f"{self.source}: {self.studies:,} studies, {sum(self.images.values()):,} images ({images})",
            f"cells per study: mean {self.cells_mean:.1f}, median {self.cells_median:g}, "
            f"largest {self.cells_max} ({self.present:,} present, {self.absent:,} absent)",
        ]
        if self.pairs:
            lines += ["most frequent pairs", pd.DataFrame(self.pairs).to_string(index=False)]
        if any(self.left_out.values()):
            lines.append("left out")
            lines += [f"  {count:>9,}  {reason}" for reason, count in self.left_out.items() if count]
        return "\n".join([*lines, *self.notes])


def check_output(folder: Path) -> None:
    """Check that a data set can be prepared into a folder, and finish or remove what a killed preparation left in it.

    Raises:
        InputError: It has a folder labels that is not a label store.
        OSError: It cannot be created or written to.
    """
    labels = folder / "labels"
    with naming(folder):
        _put_in_place(folder)
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        TemporaryFile(dir=existing).close()
    if labels.exists() and not (labels / "meta.json").exists():
        raise InputError(f"{labels}: exists and is not a label store; choose another output")


def _put_in_place(folder: Path) -> None:
    """Replace an earlier preparation by one that is whole; begins again where a killed process stopped."""
    shutil.rmtree(folder / _BEGUN, ignore_errors=True)
    whole = folder / _WHOLE
    if (summary := whole / "summary.json").is_file():
        for split in set(SPLITS) - json.loads(summary.read_text(encoding="utf-8"))["images"].keys():
            (folder / f"{split}.csv").unlink(missing_ok=True)
        for path in sorted(whole.iterdir(), key=lambda path: path == summary):  # the summary last
            if path.is_dir() and (folder / path.name).exists():
                shutil.rmtree(folder / path.name)
            path.replace(folder / path.name)
    if whole.exists():
        whole.rmdir()


def write_prepared(
    folder: Path,
    source: str,
    store: LabelStoreWriter,
    images: pd.DataFrame,
    left_out: Mapping[str, int],
    notes: tuple[str, ...] = (),
    cached: Callable[[list[Path]], list[Path]] = list,
) -> PreparationSummary:
    """Write train.csv, valid.csv, test.csv (those with images), labels/ and summary.json, all or none of them.

    An earlier preparation is replaced; its cache and other files in the folder stay.

    Args:
        folder: Where they go; the store is in its folder labels.
        source: What was read, for the summary.
        store: The labels of all studies, not yet written.
        images: The images of an image table, each with its split and its study's ``row`` in the store.
        left_out: For the summary.
        notes: For the summary.
        cached: Called once these have been checked; gives the images that the lists shall name in place of the images.

    Raises:
        InputError: No images are left, or a study belongs to two patients. Nothing is written in that case.
    """
    if not len(images):
        reasons = "; ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
        raise InputError(f"{source}: no images are left to prepare ({reasons or 'none were listed'})")
    owners = images.drop_duplicates(["study", "patient"])
    if len(several := owners[owners["study"].duplicated(keep=False)]):
        shared = several["path"][several["study"] == several["study"].iat[0]]
        raise InputError(f"{source}: {' and '.join(map(str, shared))} are of one study, but of different patients")
    root = Path(os.path.abspath(folder))
    paths = [Path(os.path.abspath(path)) for path in cached(images["path"].tolist())]
    # Relative where they lie in the folder, so that it can be moved with its cache.
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path) for path in paths]
    images = images.assign(image=names).sort_values("row", kind="stable")
    lists = {split: images[images["split"] == split] for split in SPLITS}
    numbers = {split: len(rows) for split, rows in lists.items() if len(rows)}
    if "train" not in numbers:
        notes = (*notes, "The train list is empty: there is nothing to pre-train on.")
    _put_in_place(folder)
    begun = folder / _BEGUN
    try:
        for split in numbers:
            write_list(begun / f"{split}.csv", lists[split])
        store.write(begun / "labels", [f"{split}.csv" for split in numbers])
        summary = summarise(LabelStore(begun / "labels"), source, numbers, left_out, notes)
        write_text(begun / "summary.json", to_json(asdict(summary), indent=1) + "\n")
    except BaseException:
        shutil.rmtree(begun, ignore_errors=True)
        raise
    begun.replace(folder / _WHOLE)
    _put_in_place(folder)
    return summary


def summarise(
    store: LabelStore,
    source: str,
    images: Mapping[str, int],
    left_out: Mapping[str, int],
    notes: tuple[str, ...] = (),
) -> PreparationSummary:
    """Count what a store holds; the other arguments are attributes of the summary."""
    sizes, counts = store.sizes(), store.counts()
    absent, present = counts.reshape(2, -1)
    anatomies, pathologies = np.repeat(ANATOMIES, len(PATHOLOGIES)), np.tile(PATHOLOGIES, len(ANATOMIES))
    pairs = pd.DataFrame({"anatomy": anatomies, "pathology": pathologies, "present": present, "absent": absent})
    pairs = pairs.iloc[np.argsort(-(present + absent), kind="stable")[:FREQUENT_PAIRS]]
    pairs = pairs[(pairs["present"] > 0) | (pairs["absent"] > 0)]
    return PreparationSummary(
        source=source,
        studies=len(store),
        images=dict(images),
        present=int(present.sum()),
        absent=int(absent.sum()),
        cells_mean=float(sizes.mean()),
        cells_median=float(np.median(sizes)),
        cells_max=int(sizes.max()),
        pairs=pairs.to_dict("records"),
        left_out=dict(left_out),
        notes=notes,
    )
