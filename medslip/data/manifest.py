"""The lists of a prepared data set: which image belongs to which study, patient and row of the label store."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from medslip.data.reading import check_columns, check_unique, first_line, read_cells
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.files import written_whole

COLUMNS = ("image", "study", "patient", "view", "sex", "age", "row")
"""Columns of a list. `image` is a path, relative to the list's folder or absolute; view, sex and age may be empty."""


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
        InputError: The file is missing, empty, lacks a column, names an image twice, or has a row that is not a number.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: list not found; make it with prepare_data.py")
    cells = read_cells(path)
    check_columns(cells.columns.tolist(), ("image", "study", "patient", "row"), path)
    row = pd.to_numeric(cells["row"].replace("", "-1"), errors="coerce")
    if (line := first_line(row.isna() | (row % 1 != 0))) is not None:
        raise InputError(f"{path}: line {line}: row {cells['row'][line]!r} is not a whole number")
    check_unique(cells["image"], path)
    cells = cells.reindex(columns=list(COLUMNS), fill_value="")
    age = pd.to_numeric(cells["age"], errors="coerce").astype(float)
    paths = [str(path.parent / name) for name in cells["image"]]
    images = cells.drop(columns="image").assign(path=paths, age=age, row=row.astype("int64"), line=cells.index)
    name = f"{path.resolve().parent.name} ({path.name})"
    return ImageTable(name, images, source=str(path))
