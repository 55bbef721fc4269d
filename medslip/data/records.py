"""The list: which image belongs to which study, patient and row of the label store. One CSV, one line an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from medslip.errors import InputError
from medslip.files import written_whole

COLUMNS = ("image", "study", "patient", "view", "sex", "age", "row")
"""Columns of a list file. `image` is a path, relative to the list's folder or absolute; view, sex and age may be empty."""


@dataclass(frozen=True)
class StudyList:
    """Images with their studies, in file order.

    Attributes:
        table: One line an image, columns COLUMNS; texts are str (empty where unknown), age float (NaN where
            unknown), row int64 (-1 where there is no label store).
        folder: What relative image paths start from.
        source: The file that it was read from, for messages.
    """

    table: pd.DataFrame
    folder: Path
    source: str

    def __len__(self) -> int:
        return len(self.table)

    def image_path(self, index: int) -> Path:
        """Path of the index-th image."""
        return self.folder / str(self.table["image"].iat[index])


def write_list(path: Path, table: pd.DataFrame) -> None:
    """Write a list file, whole or not at all. Columns beyond COLUMNS are refused, missing optional ones left empty."""
    unknown = set(table.columns) - set(COLUMNS)
    if unknown:
        raise ValueError(f"a list has no column {sorted(unknown)[0]!r}")
    with written_whole(path) as partial:
        table.reindex(columns=list(COLUMNS)).to_csv(partial, index=False)


def read_list(path: Path) -> StudyList:
    """Read a list file.

    Raises:
        InputError: The file is missing, empty, lacks a column, names an image twice, or has a row that is no number.
    """
    path = Path(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise InputError(f"{path}: list not found; make it with prepare_data.py") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a list in CSV form ({str(error).strip()})") from None
    for column in ("image", "study", "patient", "row"):
        if column not in table.columns:
            raise InputError(f"{path}: has no column {column!r}; a list has {', '.join(COLUMNS)}")
    table = table.reindex(columns=list(COLUMNS), fill_value="")
    row = pd.to_numeric(table["row"].replace("", "-1"), errors="coerce")
    fractional = row.isna() | (row % 1 != 0)
    if fractional.any():
        line = int(fractional.to_numpy().argmax()) + 2
        raise InputError(f"{path}: line {line}: row {table['row'].iat[line - 2]!r} is not a whole number")
    unnamed = table["image"].isna() | (table["image"] == "")
    if unnamed.any():
        raise InputError(f"{path}: line {int(unnamed.to_numpy().argmax()) + 2}: names no image")
    if table["image"].duplicated().any():
        line = int(table["image"].duplicated().to_numpy().argmax()) + 2
        raise InputError(f"{path}: line {line}: image {table['image'].iat[line - 2]} is listed twice")
    if not len(table):
        raise InputError(f"{path}: the list is empty")
    table["row"] = row.astype("int64")
    table["age"] = pd.to_numeric(table["age"], errors="coerce")
    return StudyList(table, path.parent, str(path))


def refuse_missing_images(studies: StudyList) -> None:
    """Look for every image of a list, before hours are spent on those that are there.

    Raises:
        InputError: An image does not exist; the message names the first one's line, and how many there are.
    """
    paths = [studies.folder / str(image) for image in studies.table["image"]]
    bar = tqdm(paths, desc="looking for images", unit="file", disable=len(paths) < 20_000, mininterval=1)
    missing = [line for line, path in enumerate(bar, start=2) if not path.is_file()]
    if missing:
        more = f", and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise InputError(
            f"{studies.source}: line {missing[0]}: image {paths[missing[0] - 2]} not found{more}; "
            "get the image, or take it out of the list"
        )
