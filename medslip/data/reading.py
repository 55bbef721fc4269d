"""What readers of data sets share: tables with line numbers, and checks that name the file and line."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from medslip.data.dicom import DICOM_SUFFIXES
from medslip.data.images import Header, is_dicom, years
from medslip.errors import InputError
from medslip.files import read_text

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"}) | DICOM_SUFFIXES

_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
_NO_AGE = frozenset({"", "nan", "unknown"})
_ROUNDING = 1.0  # pixels that a box may reach over the edge: publishers round


def read_rows(path: Path, advice: str = "check the path") -> pd.Series:
    """The rows of a CSV file that have any text, as lists of stripped cells; the index holds the line where each begins.

    Cells are separated by commas, semicolons or tabs: whichever the first row has most of.

    Args:
        path: The file, which may be packed by gzip or alone in a zip archive.
        advice: What to do if there is no such file, for the message.

    Raises:
        InputError: The file is missing, is not text, has a quote that is not closed, or has no row.
    """
    text = read_text(path, advice)
    first = text.lstrip("\r\n").partition("\n")[0]
    lines = csv.reader(
        StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), skipinitialspace=True, strict=True
    )
    rows, line = {}, 1
    try:
        for row in lines:
            if any(cells := [cell.strip() for cell in row]):
                rows[line] = cells
            line = lines.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}: line {line}: not a row in CSV form ({error}); look for a quote that is not closed"
        ) from None
    if not rows:
        raise InputError(f"{path}: is empty")
    return pd.Series(rows)


def read_cells(path: Path, columns: Collection[str] = ()) -> pd.DataFrame:
    """A CSV file with every cell as stripped text, empty where there is none; the first row names the columns.

    Rows without any text are skipped. The index holds each row's line number in the file, so that messages can name it.

    Args:
        path: The file, as for ``read_rows``.
        columns: Columns that it must have; only these are read. Without any, all are.

    Raises:
        InputError: As for ``read_rows``; or the table lacks a column, has two of one name, or a row with too many cells.
    """
    header, *rows = (listed := read_rows(path))
    repeated = [name for name in header if name and header.count(name) > 1]
    if repeated:
        raise InputError(f"{path}: has several columns {repeated[0]!r}; rename all but one")
    check_columns(header, columns, path)
    if not rows:
        raise InputError(f"{path}: the table has no rows")
    wide = listed.map(lambda row: any(row[len(header) :]))
    if (line := first_line(wide)) is not None:
        raise InputError(
            f"{path}: line {line}: has {len(listed[line])} cells, but the header has {len(header)}; quote cells with commas"
        )
    cells = [(row + [""] * len(header))[: len(header)] for row in rows]
    table = pd.DataFrame(cells, listed.index[1:], header, dtype=str)
    return table[list(columns)] if columns else table


def check_columns(has: Sequence[str], needed: Iterable[str], source: Path) -> None:
    """Check that a table has some columns.

    Raises:
        InputError: Naming the first one that is missing, and those that are needed.
    """
    needed = list(needed)
    for name in needed:
        if name not in has:
            raise InputError(f"{source}: has no column {name!r}; it must have {', '.join(needed)}")


def read_lines(path: Path, advice: str = "check the path") -> pd.Series:
    """The lines of a text file that are not blank, stripped; the index holds their line numbers.

    Args:
        path: The file.
        advice: What to do if there is no such file, for the message.

    Raises:
        InputError: The file is missing, is not text, or has no line.
    """
    text = read_text(path, advice)
    lines = {number: line.strip() for number, line in enumerate(StringIO(text, newline=None), start=1) if line.strip()}
    if not lines:
        raise InputError(f"{path}: is empty")
    return pd.Series(lines)


def check_unique(names: pd.Series, source: Path | str) -> None:
    """Check that a list names every image, and each only once.

    Args:
        names: Image names or paths; the index holds line numbers. Two spellings of one path are the same.
        source: The list, for messages.

    Raises:
        InputError: Naming the image and both lines.
    """
    seen: dict[str, int] = {}
    for line, name in names.items():
        if not str(name):
            raise InputError(f"{source}: line {line}: has no image path")
        spelt = os.path.normpath(str(name))
        if spelt in seen:
            raise InputError(f"{source}: line {line}: image {spelt} is listed twice, also in line {seen[spelt]}")
        seen[spelt] = int(str(line))


def check_repeats(names: pd.Series, wrong: pd.Series, source: Path, what: str) -> None:
    """Check that a list repeats an image only to give another of its boxes or masks.

    Args:
        names: Image names; the index holds line numbers.
        wrong: Which rows may not be a repetition.
        source: The list, for messages.
        what: What each row has, "boxes" or "masks".

    Raises:
        InputError: Naming the image and both lines.
    """
    if (line := first_line(wrong & names.duplicated())) is not None:
        first = names.index[names == names[line]][0]
        raise InputError(
            f"{source}: line {line}: {names[line]} is already in line {first}; only rows with different {what} may repeat an "
            "image"
        )


def check_files(paths: pd.Series, source: Path | str, what: str = "image", advice: str = "") -> None:
    """Check that listed files exist, before hours are spent on those that do.

    Args:
        paths: File paths; the index holds line numbers.
        source: The list, for messages.
        what: What they are, "image" or "mask".
        advice: What to do if one is missing, for the message.

    Raises:
        InputError: Naming the first file that is missing and its line, and how many more are missing.
    """
    bar = tqdm(paths, desc=f"looking for {what}s", unit="file", disable=len(paths) < 20_000, mininterval=1)
    missing = paths[[not os.path.isfile(path) for path in bar]]
    if len(missing):
        more = f" ({len(missing) - 1:,} more are missing)" if len(missing) > 1 else ""
        advice = advice or f"give the folder of the {what}s (key data.{what}s)"
        raise InputError(f"{source}: line {missing.index[0]}: {what} {missing.iat[0]} not found; {advice}{more}")


def path_in(folder: Path | None, name: str, source: Path, where: str) -> str:
    """The path of a file that a list names; links in the folder may lead anywhere, but the name must stay inside it.

    Args:
        folder: What names are relative to; None takes the list's own folder, and then names may also be absolute.
        name: With /, or with a backslash instead if there is no file of that literal name.
        source: The list.
        where: The row, for the message, such as "line 3".

    Raises:
        InputError: The name leaves the folder.
    """
    # Texts instead of path objects, which take most of the time of a long list.
    root = str(source.parent if folder is None else folder)
    if "\\" in name and not os.path.exists(os.path.join(root, name)):
        name = name.replace("\\", "/")
    spelt = os.path.normpath(name)
    if os.path.isabs(spelt):
        outside = folder is not None and not Path(spelt).is_relative_to(os.path.abspath(folder))
    else:
        outside = spelt.split(os.sep, 1)[0] == ".."
    if outside:
        advice = "files inside it, or absolute paths" if folder is None else "only files inside it"
        raise InputError(f"{source}: {where}: {name} is outside the folder {root}; list {advice}")
    return spelt if root == "." else os.path.join(root, spelt)


def paths_in(folder: Path | None, names: pd.Series, source: Path) -> pd.Series:
    """``path_in`` for each row of a list; the index holds line numbers."""
    paths = [path_in(folder, name, source, f"line {line}") for line, name in names.items()]
    return pd.Series(paths, names.index, dtype=object)


def listed_images(names: pd.Series, folder: Path | None, source: Path) -> pd.Series:
    """The paths, as texts, of images that a list names by their place in a folder.

    Args:
        names: Paths; the index holds line numbers.
        folder: See ``path_in``.
        source: The list.

    Raises:
        InputError: A row names no image, one that does not exist or is outside the folder, or one that another row names.
    """
    check_unique(names, source)
    paths = paths_in(folder, names, source).map(_file_of)
    check_files(paths, source)
    check_unique(paths, source)
    return paths


def _file_of(path: str) -> str:
    """The path, or if it has no suffix of images and only with one is there a file, that file."""
    given = os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES or os.path.isfile(path)
    suffixed = () if given else (path + suffix for suffix in sorted(IMAGE_SUFFIXES))
    return next(filter(os.path.isfile, suffixed), path)


def find_images(names: pd.Series, folder: Path, source: Path) -> pd.Series:
    """Look images up in a folder and its subfolders by their names, with or without suffix.

    Args:
        names: Image names, or paths, of which only the name counts; the index holds line numbers.
        folder: Where the files may be.
        source: The table that names them, for messages.

    Returns:
        Paths as texts, with the same index.

    Raises:
        InputError: A name has no file, or several that could be meant; or two names have the same file.
    """
    files: dict[str, list[str]] = {}
    for path in files_below(folder):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            files.setdefault(path.name, []).append(str(path))
            files.setdefault(path.stem, []).append(str(path))
    names = names.map(lambda name: name if name in files else re.split(r"[/\\]", name)[-1])
    for line, name in names.items():
        if name not in files:
            raise InputError(f"{source}: line {line}: image {name} is not in {folder}; download it, or give its folder")
        if len(files[name]) > 1:
            both = " or ".join(sorted(files[name])[:2])
            raise InputError(f"{source}: line {line}: image {name} may be {both}; give the folder of the right one")
    found = names.map(lambda name: files[name][0])
    check_unique(found, source)
    return found


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, linked folders included, except for hidden ones."""
    seen = {os.path.realpath(folder)}
    for path, folders, names in os.walk(folder, followlinks=True):
        # A link to a folder above would be followed for ever.
        visible = {os.path.realpath(Path(path, name)): name for name in folders if not name.startswith(".")}
        folders[:] = [name for real, name in visible.items() if real not in seen]
        seen |= visible.keys()
        yield from (Path(path, name) for name in names if not name.startswith("."))


def may_be_image(path: Path) -> bool:
    """By its suffix; a file with another suffix or none, as in archives of DICOM files, by its content. A DICOMDIR is not."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    return path.name.upper() != "DICOMDIR" and path.is_file() and path.stat().st_size > 0 and is_dicom(path)


def first_line(wrong: pd.Series) -> Any:
    """The line, from the index, of the first row that is wrong; None if no row is."""
    return wrong.idxmax() if wrong.any() else None


def codes_of(column: pd.Series, codes: Mapping[str, int], source: Path, expected: str) -> npt.NDArray[np.int8]:
    """Label codes of a column of texts, in any case.

    Args:
        column: The cells; the index holds line numbers.
        codes: Text in lower case -> 1 present, 0 absent, -1 unknown.
        source: The table, for messages.
        expected: The texts that are allowed, in words.

    Raises:
        InputError: Naming the line, the column and the text.
    """
    found = column.str.strip().str.lower().map(codes)
    if (line := first_line(found.isna())) is not None:
        raise InputError(f"{source}: line {line}, column {column.name!r}: {column[line]!r} is not {expected}")
    return np.asarray(found, np.int8)


def sexes_of(column: pd.Series) -> pd.Series:
    """Sexes as "M", "F", or empty for anything else; M, male, F, female are understood in any case."""
    return column.str.strip().str.lower().map(_SEXES).fillna("")


def ages_of(column: pd.Series, source: Path) -> pd.Series:
    """Years, as numbers or in DICOM's form (043Y); NaN where empty, "nan" or "unknown".

    Raises:
        InputError: Naming the line of any other text.
    """
    texts = column.str.strip().str.lower()
    ages = texts.map(years)
    if (line := first_line(ages.isna() & ~texts.isin(_NO_AGE))) is not None:
        raise InputError(
            f"{source}: line {line}, column {column.name!r}: {texts[line]!r} is not an age; write years, or leave it empty "
            "where unknown"
        )
    return ages.astype(float)


def header_columns(headers: Sequence[Header]) -> dict[str, list[Any]]:
    """The columns of an image table that the image files themselves give: view, sex, age, height and width."""
    return {name: [getattr(header, name) for header in headers] for name in ("view", "sex", "age", "height", "width")}


Box = tuple[float, float, float, float]


def read_box(cells: Sequence[str | float], where: str, height: int, width: int) -> Box:
    """A box of four cells: x, y, width, height in pixels.

    Args:
        cells: Texts or numbers.
        where: File and line, for messages.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Raises:
        InputError: They are not four numbers, or the box is empty or lies outside the image.
    """
    shown = ", ".join(map(str, cells))
    try:
        x, y, w, h = (float(cell) for cell in cells)
    except ValueError:
        raise InputError(f"{where}: the box {shown} is not four numbers: x, y, width, height") from None
    if not all(map(isfinite, (x, y, w, h))) or min(w, h) <= 0:
        raise InputError(f"{where}: the box {shown} is empty or infinite; width and height must be above 0")
    over = min(x, y) < -_ROUNDING or x + w > width + _ROUNDING or y + h > height + _ROUNDING
    if over or x >= width or y >= height or min(x + w, y + h) <= 0:
        raise InputError(
            f"{where}: the box {shown} (x, y, width, height) lies outside the image of {width} x {height} pixels; correct "
            "it, or leave the row out"
        )
    return x, y, w, h
