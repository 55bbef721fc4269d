"""NIH ChestX-ray14 in the publisher's layout, and the list form of the method's authors.

Layout: Data_Entry_2017*.csv, train_val_list.txt, test_list.txt, BBox_List_2017.csv, images_*/images/*.png.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.data.boxes import Box, read_box
from medslip.data.checks import refuse_duplicates, refuse_repeated_files
from medslip.data.csv_old import read_cells
from medslip.data.images import years
from medslip.data.labelled import LabelledImages
from medslip.data.lists import read_lines
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT
from medslip.vocabulary import CXR14_CLASSES

CLASSES: tuple[str, ...] = tuple(CXR14_CLASSES)
"""The 14 classes in the publisher's order."""

NO_FINDING = "No Finding"

_BOX_SPELLINGS = {"Infiltrate": "Infiltration"}


def read_labelled(root: Path, list_file: Path | None = None) -> LabelledImages:
    """The images and labels of a list, or of the whole table.

    Args:
        root: The publisher's folder.
        list_file: One file name a line, such as test_list.txt, looked up in ``root`` too. None takes every
            row of the table.

    Returns:
        Images in list order with 14 classes, 1 or 0; "No Finding" is all 0.

    Raises:
        InputError: A file is missing or not as published, a label is unknown, or a listed image is not in the
            table or not on the disk; the message names the file and line.
    """
    root = Path(root)
    table_file, table = _read_table(root)
    if list_file is None:
        source, names = table_file, [str(name) for name in table["Image Index"]]
        lines, rows = list(range(2, len(table) + 2)), np.arange(len(table))
    else:
        source = _find_list(root, list_file)
        lines, names = (list(column) for column in zip(*read_lines(source), strict=True))
        position = pd.Index(table["Image Index"]).get_indexer(names)
        if (position < 0).any():
            row = int((position < 0).argmax())
            raise InputError(f"{source}: line {lines[row]}: {names[row]} is not in {table_file}")
        rows = np.asarray(position, np.int64)
        refuse_duplicates(names, lines, source)
    labels = _labels(table["Finding Labels"].tolist(), table_file)
    chosen = table.iloc[rows]
    return LabelledImages(
        name=f"NIH ChestX-ray14 ({source.name})",
        classes=CLASSES,
        paths=_paths(root, names, source, lines),
        labels=labels[rows],
        patients=chosen["Patient ID"].tolist(),
        views=chosen["View Position"].tolist(),
        sexes=chosen["sex"].tolist(),
        ages=_ages(chosen["Patient Age"]),
    )


def read_authors_list(list_file: Path, root: Path | None = None) -> LabelledImages:
    """The authors' own list: a CSV of image path, text columns, then 14 label columns.

    Label columns are recognised by the class names in the header where all 14 are there, in any order and
    case; else the last 14 columns count, in the publisher's order.

    Args:
        list_file: The CSV file.
        root: Where the images are, if not where the list says: they are looked up by file name, in root
            itself and in the publisher's images_*/images/. None takes the paths as they stand, from the
            list's folder.

    Raises:
        InputError: The file is missing or too narrow, a label is not 0 or 1, or an image is not on the disk.
    """
    list_file = Path(list_file)
    table = read_cells(list_file)
    if table.shape[1] < 1 + len(CLASSES):
        raise InputError(f"{list_file}: has {table.shape[1]} columns; an image path and 14 labels are needed")
    values = table[_label_columns([str(name) for name in table.columns])]
    labels = values.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    wrong = ~np.isin(labels, (ABSENT, PRESENT))
    if wrong.any():
        row, column = (int(index) for index in np.argwhere(wrong)[0])
        raise InputError(
            f"{list_file}: line {row + 2}, column {values.columns[column]!r}: {values.iat[row, column]!r} is not 0 or 1"
        )
    # A leading column without a name is the row number that pandas writes.
    images = table.columns[0 if str(table.columns[0]).strip() else 1]
    names = [str(name) for name in table[images]]
    if root is None:
        paths = [list_file.parent / name for name in names]
        for line, path in enumerate(paths, start=2):
            if not path.is_file():
                raise InputError(f"{list_file}: line {line}: image {path} not found; give the images' root")
    else:
        paths = _paths(Path(root), [PurePosixPath(name).name for name in names], list_file, range(2, len(names) + 2))
    refuse_repeated_files(paths, range(2, len(names) + 2), list_file)
    unknown = [""] * len(names)
    return LabelledImages(
        name=f"NIH ChestX-ray14 ({list_file.name})",
        classes=CLASSES,
        paths=paths,
        labels=labels.astype(np.int8),
        # The publisher's file names begin with the patient: 00000061_012.png.
        patients=[_patient_of(name) for name in names],
        views=list(unknown),
        sexes=list(unknown),
        ages=np.full(len(names), np.nan),
    )


def read_boxes(root: Path) -> list[Box]:
    """The boxes of BBox_List_2017.csv, in file order.

    Raises:
        InputError: The file is missing, or a row has an unknown class, no four numbers or a box outside the image.
    """
    path = Path(root) / "BBox_List_2017.csv"
    table = read_cells(path)
    if table.shape[1] < 6:
        raise InputError(f"{path}: has {table.shape[1]} columns; image, class and x, y, w, h are needed")
    boxes = []
    for line, row in enumerate(table.iloc[:, :6].itertuples(index=False, name=None), start=2):
        label = _BOX_SPELLINGS.get(row[1], row[1])
        if label not in CLASSES:
            raise InputError(f"{path}: line {line}: unknown class {row[1]!r}")
        boxes.append(read_box(row[0], label, row[2:], f"{path}: line {line}"))
    return boxes


def _read_table(root: Path) -> tuple[Path, pd.DataFrame]:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that holds Data_Entry_2017_v2020.csv")
    found = sorted(root.glob("Data_Entry*.csv*"))
    if len(found) != 1:
        raise InputError(f"{root}: holds {len(found)} files Data_Entry*.csv, one is needed")
    table = read_cells(found[0])
    sex = next((name for name in ("Patient Gender", "Patient Sex") if name in table.columns), None)
    needed = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
    missing = [name for name in needed if name not in table.columns] + ([] if sex else ["Patient Gender"])
    if missing:
        raise InputError(f"{found[0]}: has no column {missing[0]!r}")
    refuse_duplicates(table["Image Index"].tolist(), range(2, len(table) + 2), found[0])
    return found[0], table.assign(sex=table[sex])


def _find_list(root: Path, list_file: Path) -> Path:
    list_file = Path(list_file)
    for path in (list_file, root / list_file):
        if path.is_file():
            return path
    raise InputError(f"{list_file}: list not found, neither here nor in {root}")


def _labels(findings: Sequence[str], source: Path) -> npt.NDArray[np.int8]:
    column = {name: index for index, name in enumerate(CLASSES)}
    labels = np.zeros((len(findings), len(CLASSES)), np.int8)
    for row, text in enumerate(findings):
        for name in text.split("|"):
            if name in column:
                labels[row, column[name]] = PRESENT
            elif name != NO_FINDING:
                raise InputError(f"{source}: line {row + 2}: unknown finding label {name!r}")
    return labels


def _label_columns(header: list[str]) -> list[int] | list[str]:
    by_key = {_key(name): name for name in header}
    named = [by_key.get(_key(name)) or by_key.get(_key(name).removesuffix("ing")) for name in CLASSES]
    names = [name for name in named if name is not None]
    return names if len(names) == len(CLASSES) else header[-len(CLASSES) :]


def _key(name: str) -> str:
    return name.lower().replace("_", "").replace(" ", "")


def _paths(root: Path, names: Sequence[str], source: Path, lines: Sequence[int]) -> list[Path]:
    files = _index_images(root)
    for line, name in zip(lines, names, strict=True):
        if name not in files:
            raise InputError(
                f"{source}: line {line}: image {name} is not in {root}/images_*/images/, "
                f"{root}/images/ or {root}; download it, or give a list of the images that you have"
            )
    return [files[name] for name in names]


def _index_images(root: Path) -> dict[str, Path]:
    """File name -> path, from one look at each image folder."""
    folders = [*sorted(root.glob("images_*/images")), root / "images", root]
    files: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            with os.scandir(folder) as entries:
                for entry in entries:
                    files.setdefault(entry.name, Path(entry.path))
    return files


def _patient_of(name: str) -> str:
    number = PurePosixPath(name).stem.split("_")[0]
    return str(int(number)) if number.isdigit() else ""


def _ages(column: pd.Series) -> npt.NDArray[np.float64]:
    """Years; older releases write 058Y or 006M."""
    return np.array([years(text) for text in column], np.float64)
