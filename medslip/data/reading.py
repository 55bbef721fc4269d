"""What readers of data sets share: tables with line numbers, and checks that name the file and line."""

from __future__ import annotations

import csv
import os
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import StringIO
from itertools import chain, islice
from math import isfinite
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from medslip.data.dicom import DICOM_SUFFIXES
from medslip.data.images import Header, is_dicom, years
from medslip.errors import InputError
from medslip.files import opened_text, read_text

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"}) | DICOM_SUFFIXES

_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
_NO_AGE = frozenset({"", "nan", "unknown"})
_CROWDED = 16  # a folder with at least so many of the listed files is read as a whole
_BLOCK = 1 << 17  # characters of a table that are read at a time
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
    delimiter = _delimiter(text.lstrip("\r\n").partition("\n")[0])
    parsed = _parsed(StringIO(text, newline=""), delimiter, path, 1)
    rows = {line: cells for line, _, cells in parsed if any(cells)}
    if not rows:
        raise InputError(f"{path}: is empty")
    return pd.Series(rows)


def _delimiter(line: str) -> str:
    return max(",;\t", key=line.count)


def _parsed(lines: Iterable[str], delimiter: str, path: Path, line: int) -> Iterator[tuple[int, int, list[str]]]:
    """The line where each row begins, how many lines have been read, and its stripped cells."""
    reader, begin = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True), line
    try:
        for row in reader:
            yield begin, reader.line_num, [cell.strip() for cell in row]
            begin = line + reader.line_num
    except csv.Error as error:
        raise InputError(
            f"{path}: line {begin}: not a row in CSV form ({error}); look for a quote that is not closed"
        ) from None


Block = tuple[Sequence[int], dict[str, list[str]]]
"""n line numbers, and column -> n cells."""


def read_blocks(path: Path, columns: Collection[str] = ()) -> Iterator[Block]:
    """Read a CSV file as ``read_cells`` does, but a part at a time: some thousands of rows.

    Raises:
        InputError: As for ``read_cells``.
    """
    header: list[str] = []
    delimiter, line, rows = "", 1, 0
    with opened_text(path) as file:
        while lines := _next_lines(file, path, _BLOCK if header else 1):
            delimiter = delimiter or (_delimiter(lines[0]) if lines[0].strip("\r\n") else "")
            numbers: Sequence[int] = range(line, line + len(lines))
            cells = _plain_columns(lines, delimiter, len(header))
            read = len(lines)
            if cells is None:
                numbers, cells, read = _parsed_columns(chain(lines, file), read, delimiter or ",", path, line, header)
            line += read
            if not numbers:
                continue
            if header:
                rows += len(numbers)
                yield numbers, dict(zip(header, cells, strict=True))
            else:
                header = [column[0] for column in cells]
                repeated = [name for name in header if name and header.count(name) > 1]
                if repeated:
                    raise InputError(f"{path}: has several columns {repeated[0]!r}; rename all but one")
                check_columns(header, columns, path)
    if not rows:
        raise InputError(f"{path}: the table has no rows" if header else f"{path}: is empty")


def _next_lines(file: TextIO, path: Path, characters: int) -> list[str]:
    try:
        return file.readlines(characters)
    except UnicodeDecodeError:
        read_text(path)  # raises it with the place in the file, not in a part of it
        raise


def _plain_columns(lines: list[str], delimiter: str, width: int) -> list[list[str]] | None:
    """The columns of lines that need no parser, several times as fast; None if a quote, blank or uneven row may need one."""
    text = "".join(lines)
    rows = text.split()
    if (
        width < 2
        or delimiter.isspace()
        or len(rows) != len(lines)
        or '"' in text
        or "\0" in text
        or {row.count(delimiter) for row in lines} != {width - 1}
        or delimiter * (width - 1) in rows
    ):
        return None
    cells = delimiter.join(rows).split(delimiter)
    return [cells[column::width] for column in range(width)]


def _parsed_columns(
    lines: Iterable[str], number: int, delimiter: str, path: Path, line: int, header: list[str]
) -> tuple[list[int], list[list[str]], int]:
    """Line numbers and columns of the rows that begin in the first ``number`` lines, and how many lines those take."""
    rows, read = {}, 0
    for begin, read, cells in _parsed(lines, delimiter, path, line):
        if any("\0" in cell for cell in cells):
            read_text(path)  # raises
        if header and any(cells[len(header) :]):
            raise InputError(
                f"{path}: line {begin}: has {len(cells)} cells, but the header has {len(header)}; "
                f"quote cells with {delimiter!r}"
            )
        if any(cells):
            rows[begin] = (cells + [""] * len(header))[: len(header) or None]
        if read >= number:
            break
    return list(rows), [list(column) for column in zip(*rows.values(), strict=True)], read


def read_cells(path: Path, columns: Collection[str] = ()) -> pd.DataFrame:
    """A CSV file with every cell as stripped text, empty where there is none; the first row names the columns.

    Rows without any text are skipped. The index holds each row's line number in the file, so that messages can name it.

    Args:
        path: The file, as for ``read_rows``.
        columns: Columns that it must have; only these are read. Without any, all are.

    Raises:
        InputError: As for ``read_rows``; or the table lacks a column, has two of one name, or a row with too many cells.
    """
    blocks = list(read_blocks(path, columns))
    lines = np.concatenate([np.asarray(numbers) for numbers, _ in blocks])
    names = columns or blocks[0][1]
    cells = {name: list(chain.from_iterable(block[name] for _, block in blocks)) for name in names}
    return pd.DataFrame(cells, lines, dtype=str)


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
    if are_plain(texts := list(map(str, names))) and len(set(texts)) == len(texts):
        return
    seen: dict[str, int] = {}
    for line, name in names.items():
        if not str(name):
            raise InputError(f"{source}: line {line}: has no image path")
        spelt = os.path.normpath(str(name))
        if spelt in seen:
            raise InputError(f"{source}: line {line}: image {spelt} is listed twice, also in line {seen[spelt]}")
        seen[spelt] = int(str(line))


def are_plain(names: Iterable[str]) -> bool:
    """Whether each name is one that os.path.normpath would not change, without dots that lead elsewhere or a backslash."""
    text = "\n".join(["", *names, ""])
    return os.sep == "/" and not any(part in text for part in ("\n\n", "\n.", "/.", "//", "/\n", "\\"))


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


def check_files(
    paths: Sequence[str], lines: Sequence[int] | pd.Index, source: Path | str, what: str = "image", advice: str = ""
) -> None:
    """Check that listed files exist, before hours are spent on those that do.

    Args:
        paths: n file paths.
        lines: The line of each.
        source: The list, for messages.
        what: What they are, "image" or "mask".
        advice: What to do if one is missing, for the message.

    Raises:
        InputError: Naming the first file that is missing and its line, and how many more are missing.
    """
    unseen = np.flatnonzero(~_listed(paths)).tolist()
    bar = tqdm(unseen, desc=f"looking for {what}s", unit="file", disable=len(unseen) < 20_000, mininterval=1)
    missing = [index for index in bar if not os.path.isfile(paths[index])]
    if missing:
        more = f" ({len(missing) - 1:,} more are missing)" if len(missing) > 1 else ""
        advice = advice or f"give the folder of the {what}s (key data.{what}s)"
        first = missing[0]
        raise InputError(f"{source}: line {lines[first]}: {what} {paths[first]} not found; {advice}{more}")


def _listed(paths: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which of n files are found by reading each folder that has many of them, much faster than looking for them one by one.

    Hashes stand for the paths, so that a long list takes little memory.
    """
    keys, folders, found = array("q"), array("q"), array("q")
    rest = iter(paths)
    while part := list(islice(rest, 4096)):
        keys.extend(map(hash, part))
        folders.extend(hash(path.rpartition(os.sep)[0]) for path in part)
    _, first, count = np.unique(np.asarray(folders), return_index=True, return_counts=True)
    for index in first[count >= _CROWDED].tolist():
        folder, slash, _ = paths[index].rpartition(os.sep)
        with suppress(OSError), os.scandir(folder + slash or ".") as entries:
            found.extend(hash(folder + slash + entry.name) for entry in entries if entry.is_file())
    if not found:
        return np.zeros(len(paths), bool)
    present = np.sort(np.asarray(found))
    place = np.searchsorted(present, np.asarray(keys)).clip(max=len(present) - 1)
    return np.asarray(present[place] == np.asarray(keys))


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
    return os.path.join(_root(folder, source), name_in(folder, name, source, where))


def name_in(folder: Path | None, name: str, source: Path, where: str) -> str:
    """As ``path_in``, but a relative name stays relative to the folder."""
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
    return spelt


def _root(folder: Path | None, source: Path) -> str:
    root = str(source.parent if folder is None else folder)
    return "" if root == "." else root


def paths_in(folder: Path | None, names: pd.Series, source: Path) -> pd.Series:
    """``path_in`` for each row of a list; the index holds line numbers."""
    if are_plain(names) and not names.str.startswith("/").any():
        root = _root(folder, source)
        return (root if root.endswith("/") or not root else root + "/") + names
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
    check_files(paths.tolist(), paths.index, source)
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


def listed_or_found(names: pd.Series, folder: Path | None, source: Path) -> pd.Series:
    """``listed_images``; but names without a folder of which the first is not in the folder are looked up below it."""
    if (
        folder is None
        or names.str.contains(r"[/\\]").any()
        or os.path.exists(_file_of(os.path.join(folder, str(names.iat[0]))))
    ):
        return listed_images(names, folder, source)
    check_unique(names, source)
    return find_images(names, folder, source)


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
