"""Any CSV table of image paths and labels: one column a class, or one with a list of findings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.data.checks import refuse_repeated_files
from medslip.data.images import years
from medslip.data.labelled import LabelledImages
from medslip.data.splits import split_name
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT, UNKNOWN
from medslip.vocabulary import CXR14_CLASSES, PATHOLOGIES, pathology_of

_CODES = {
    "1": PRESENT, "1.0": PRESENT, "true": PRESENT,
    "0": ABSENT, "0.0": ABSENT, "false": ABSENT,
    "-1": UNKNOWN, "-1.0": UNKNOWN, "": UNKNOWN, "nan": UNKNOWN,
}  # fmt: skip


@dataclass(frozen=True)
class TableLayout:
    """Which column of a table holds what.

    A column that is None is taken where the table has one of that very name, and left empty otherwise; a
    column that is named must be there.

    Attributes:
        image: Column of image paths.
        findings: Column with a separated list of findings ("Edema|Effusion"). None: one column a class, with
            1, 0, and -1 or nothing for unknown.
        separator: What separates the findings of that list.
        no_finding: The word, in that list or as a column, for an image in which nothing was found.
        classes: Class -> pathology, for classes that are not named after a pathology or a ChestX-ray14 class.
            An empty text leaves the class out.
        patient: Column of patients.
        study: Column of studies. Without one, every image is a study of its own.
        split: Column of splits (train, valid, test).
        view: Column of view names.
        sex: Column of sexes: M or male, F or female, in any case; anything else is unknown.
        age: Column of ages in years, such as 43 or 43.5, or as DICOM writes them (043Y, 006M); nothing, "nan" or "unknown"
            is unknown.
    """

    image: str = "image"
    findings: str | None = None
    separator: str = "|"
    no_finding: str = "No Finding"
    classes: dict[str, str] = field(default_factory=dict)
    patient: str | None = None
    study: str | None = None
    split: str | None = None
    view: str | None = None
    sex: str | None = None
    age: str | None = None


@dataclass(frozen=True)
class ImageTable:
    """What a table says of its n images, in file order.

    Attributes:
        images: Paths, labels and patients.
        studies: n study names.
        splits: n of train, valid, test; None where the table has no split column.
        normal: n, whether the image is labelled to have no finding.
    """

    images: LabelledImages
    studies: list[str]
    splits: list[str] | None
    normal: npt.NDArray[np.bool_]


def read_cells(path: Path) -> pd.DataFrame:
    """A CSV file with every cell as text, empty where nothing stands; the first line names the columns.

    Raises:
        InputError: The file is missing, not CSV, has no row, or two columns of one name.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, header=None, skipinitialspace=True)
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
        EOFError,
        OSError,
        BadZipFile,
    ) as error:
        raise InputError(f"{path}: not a table in CSV form ({str(error).strip()})") from None
    if len(table) < 2:
        raise InputError(f"{path}: the table has no rows")
    header = table.iloc[0].str.lstrip("\ufeff").tolist()
    repeated = [name for name in header if name and header.count(name) > 1]
    if repeated:
        raise InputError(f"{path}: has several columns {repeated[0]!r}; rename all but one")
    return table.iloc[1:].set_axis(header, axis=1).reset_index(drop=True)


def read_table(
    path: Path,
    layout: TableLayout | None = None,
    images: Path | None = None,
    split: str | None = None,
    asked: Collection[str] = (),
) -> ImageTable:
    """Read a table of images and labels.

    Args:
        path: The CSV file.
        layout: Which column holds what; None takes the layout's defaults.
        images: Folder that the image paths start from; None takes the table's own folder.
        split: Keep only the rows of this split.
        asked: Classes that something else than a pathology answers for, in any case.

    Raises:
        InputError: A column, class, label or image file cannot be used; the message names the file and line.
    """
    path, layout = Path(path), layout or TableLayout()
    table = read_cells(path)
    columns = _columns(table, layout, path)
    known = frozenset(name.lower() for name in asked)
    # Of all rows: the splits of a table have the same classes, whatever each happens to hold.
    classes, labels, normal = (
        _listed_findings(table, layout, path, known) if layout.findings else _class_columns(table, layout, path, known)
    )
    if split is not None:
        kept = _rows_of_split(table, columns, split, path)
        table, labels, normal = table[kept], labels[kept], normal[kept]
    names = table[layout.image].tolist()
    splits = None
    if columns["split"]:
        splits = [split_name(text, f"{path}: line {line}") for line, text in _lines(table[columns["split"]])]
    return ImageTable(
        images=LabelledImages(
            name=path.stem if split is None else f"{path.stem} ({split})",
            classes=classes,
            paths=_image_paths(table, layout.image, Path(images) if images else path.parent, path),
            labels=labels,
            patients=_texts(table, columns["patient"]),
            views=_texts(table, columns["view"]),
            sexes=[_SEXES.get(text.lower(), "") for text in _texts(table, columns["sex"])],
            ages=_ages(table, columns["age"], path),
        ),
        studies=_texts(table, columns["study"]) if columns["study"] else names,
        splits=splits,
        normal=normal,
    )


_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F"}
_NO_AGE = frozenset({"", "nan", "unknown"})


def _ages(table: pd.DataFrame, column: str, path: Path) -> npt.NDArray[np.float64]:
    """Years, NaN where unknown."""
    found = np.full(len(table), np.nan)
    if not column:
        return found
    for row, (line, text) in enumerate(_lines(table[column].str.strip().str.lower())):
        if text in _NO_AGE:
            continue
        found[row] = years(text)
        if np.isnan(found[row]):
            raise InputError(
                f"{path}: line {line}, column {column!r}: {text!r} is no age; write years, or leave it empty where unknown"
            )
    return found


_OPTIONAL = ("patient", "study", "split", "view", "sex", "age")


def _columns(table: pd.DataFrame, layout: TableLayout, path: Path) -> dict[str, str]:
    """The table's column for each of the optional ones, empty where it has none."""
    has = ", ".join(repr(name) for name in table.columns[:20])
    columns = {}
    for what in _OPTIONAL:
        name = getattr(layout, what)
        if name is not None and name not in table.columns:
            raise InputError(f"{path}: has no column {name!r} for the {what}; it has {has}")
        columns[what] = name or (what if what in table.columns else "")
    for what, name in (("image path", layout.image), ("findings", layout.findings)):
        if name is not None and name not in table.columns:
            raise InputError(f"{path}: has no column {name!r} for the {what}; it has {has}")
    return columns


def _rows_of_split(table: pd.DataFrame, columns: Mapping[str, str], split: str, path: Path) -> npt.NDArray[np.bool_]:
    """Which rows are of a split."""
    if not columns["split"]:
        raise InputError(f"{path}: has no column 'split' to choose {split!r} from")
    wanted = split_name(split, "split")
    kept = [split_name(text, f"{path}: line {line}") == wanted for line, text in _lines(table[columns["split"]])]
    if not any(kept):
        raise InputError(f"{path}: no row is of the split {split!r}")
    return np.asarray(kept)


def _lines(column: pd.Series) -> list[tuple[int, str]]:
    """(line of the file, cell) of every row, also after rows were left out."""
    return list(zip((int(index) + 2 for index in column.index), column.tolist(), strict=True))


def _texts(table: pd.DataFrame, column: str) -> list[str]:
    return table[column].str.strip().tolist() if column else [""] * len(table)


def _image_paths(table: pd.DataFrame, column: str, folder: Path, source: Path) -> list[Path]:
    cells = _lines(table[column])
    paths = [folder / name for _, name in cells]
    for (line, name), image in zip(cells, paths, strict=True):
        if not name or not image.is_file():
            raise InputError(
                f"{source}: line {line}: image {image} not found; name the folder of the images (key images)"
            )
    refuse_repeated_files(paths, [line for line, _ in cells], source)
    return paths


_Labels = tuple[tuple[str, ...], npt.NDArray[np.int8], npt.NDArray[np.bool_]]


def _listed_findings(table: pd.DataFrame, layout: TableLayout, path: Path, asked: Collection[str]) -> _Labels:
    """Classes, labels, "no finding" from lists of findings: what one omits is absent; empty is unknown."""
    listed = []
    for line, text in _lines(table[str(layout.findings)]):
        findings = [word for word in (part.strip() for part in text.split(layout.separator)) if word]
        for name in findings:
            mapped = name in (*layout.classes, layout.no_finding) or name.lower() in asked
            if not mapped and pathology_of(name) is None:
                raise InputError(
                    f"{path}: line {line}: unknown class {name!r}; map it to a pathology (key classes), as in "
                    f"{{{name}: opacity}}, or leave it out with an empty text"
                )
        if layout.no_finding in findings and len(findings) > 1:
            raise InputError(f"{path}: line {line}: {layout.no_finding!r} stands beside other findings")
        listed.append(findings)
    found = {name for findings in listed for name in findings} - {layout.no_finding}
    classes = _in_order([name for name in found if layout.classes.get(name) != ""])
    labels = np.zeros((len(listed), len(classes)), np.int8)
    for row, findings in enumerate(listed):
        labels[row] = [PRESENT if name in findings else ABSENT for name in classes]
        if not findings:
            labels[row] = UNKNOWN
    return classes, labels, np.array([layout.no_finding in findings for findings in listed], bool)


def _in_order(classes: Sequence[str]) -> tuple[str, ...]:
    """ChestX-ray14 classes as published, then pathologies as in the vocabulary, then others by name."""
    order = {name: index for index, name in enumerate((*CXR14_CLASSES, *PATHOLOGIES))}
    return tuple(sorted(classes, key=lambda name: (order.get(name, len(order)), name)))


def _class_columns(table: pd.DataFrame, layout: TableLayout, path: Path, asked: Collection[str]) -> _Labels:
    """Classes, labels and "no finding" from one column a class."""
    for name in layout.classes:
        if name not in table.columns:
            raise InputError(f"{path}: has no column {name!r} for that class")
    taken = {layout.image, layout.no_finding, *(getattr(layout, what) or what for what in _OPTIONAL)}
    classes = []
    for name in (column for column in table.columns if column not in taken):
        if layout.classes.get(name) or (name not in layout.classes and (pathology_of(name) or name.lower() in asked)):
            classes.append(name)
        elif name not in layout.classes and name and _looks_like_labels(table[name]):
            raise InputError(
                f"{path}: column {name!r} holds labels of an unknown class; map it to a pathology (key classes), as in "
                f"{{{name}: opacity}}, or leave it out with an empty text"
            )
    if not classes:
        raise InputError(
            f"{path}: no column is named after a class; map columns to pathologies, or name the column "
            "with the list of findings"
        )
    labels = np.stack([_codes(table[name], path) for name in classes], axis=1)
    normal = np.zeros(len(table), bool)
    if layout.no_finding in table.columns:
        normal = _codes(table[layout.no_finding], path) == PRESENT
    return tuple(classes), labels, normal


def _looks_like_labels(column: pd.Series) -> bool:
    cells = set(column.str.strip().str.lower())
    return cells <= _CODES.keys() and bool(cells & {"1", "1.0", "true", "0", "0.0", "false"})


def _codes(column: pd.Series, path: Path) -> npt.NDArray[np.int8]:
    codes = column.str.strip().str.lower().map(_CODES)
    if codes.isna().any():
        line, text = _lines(column)[int(codes.isna().to_numpy().argmax())]
        raise InputError(f"{path}: line {line}, column {column.name!r}: {text!r} is not 1, 0, -1 or empty")
    return np.asarray(codes, np.int8)
