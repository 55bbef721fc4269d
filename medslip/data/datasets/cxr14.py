"""NIH ChestX-ray14 in the publisher's layout, and the list of the method's authors.

Layout: Data_Entry_2017*.csv, train_val_list.txt, test_list.txt, BBox_List_2017.csv, images_*/images/*.png. The authors' list
is a CSV of image path, text columns, then 14 label columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.data.dataset import DataSet
from medslip.data.images import years
from medslip.data.reading import (
    check_unique,
    codes_of,
    find_images,
    first_line,
    listed_images,
    read_box,
    read_cells,
    read_lines,
)
from medslip.data.table import FINDING_COLUMNS, ImageTable
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT
from medslip.vocabulary import CXR14_CLASSES, class_key

NO_FINDING = "No Finding"
BOX_FILE = "BBox_List_2017.csv"
BOX_FRAME = 1024
"""Side in pixels of the square that boxes are given in."""

_COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
_BOX_SPELLINGS = {"Infiltrate": "Infiltration"}


@dataclass(frozen=True)
class Cxr14(DataSet):
    """NIH ChestX-ray14: images labelled for 14 classes, and boxes.

    Attributes:
        path: The publisher's folder, or the authors' CSV file.
        split: "train": the images of train_list; "test": those of test_list. None takes both.
        train_list: File of image names, one per line, in the folder or elsewhere.
        test_list: Likewise. None if there is none.
        list: Only these images, a file of names in the folder or elsewhere; ``split`` is then ignored.
        images: The folder of the images, looked up by name in all subfolders. None takes the publisher's folder, or the paths
            of the authors' list, relative to its folder.
    """

    kind: ClassVar[str] = "cxr14"
    path: Path = Path("data_file/cxr14")
    split: str | None = "test"
    train_list: Path = Path("train_val_list.txt")
    test_list: Path | None = Path("test_list.txt")
    list: Path | None = None
    images: Path | None = None

    def load(self) -> ImageTable:
        """The images in list order; "No Finding" is absence of all classes."""
        if self.path.is_file():
            return _read_authors_list(self.path, self.images)
        table_file, table = _read_entries(self.path)
        labels = pd.DataFrame(_labels(table["Finding Labels"], table_file), columns=list(CXR14_CLASSES))
        lists = [self._names(path, split, table, table_file) for path, split in self._lists()]
        names = pd.concat([rows for rows, _ in lists])
        paths = [path for rows, file in lists for path in find_images(rows["name"], self.images or self.path, file)]
        position = pd.Index(table["Image Index"]).get_indexer(names["name"])
        rows, labels = table.iloc[position], labels.iloc[position]
        images = pd.DataFrame(
            {
                "path": paths,
                "patient": rows["Patient ID"].tolist(),
                "study": [PurePosixPath(name).stem for name in names["name"]],
                "view": rows["View Position"].tolist(),
                "sex": rows["sex"].tolist(),
                "age": rows["Patient Age"].map(years).to_numpy(float),
                "split": names["split"].tolist(),
                "normal": (labels == ABSENT).all(axis=1).tolist(),
            }
        ).assign(height=BOX_FRAME, width=BOX_FRAME)
        boxes = self.path / BOX_FILE
        findings = read_boxes(boxes, names["name"].tolist()) if boxes.exists() else None
        files = " and ".join(source.name for _, source in lists)
        return ImageTable(f"NIH ChestX-ray14 ({files})", images, labels, findings)

    def _lists(self) -> Sequence[tuple[Path, str]]:
        if self.list is not None:
            return [(self.list, "")]
        lists = {"train": self.train_list} | ({"test": self.test_list} if self.test_list else {})
        missing = set(self.splits) - lists.keys()
        if self.split is not None and missing:
            raise InputError(f"split: ChestX-ray14 has no list of {missing.pop()} images; give one (key data.list)")
        return [(path, name) for name, path in lists.items() if name in self.splits]

    def _names(self, path: Path, split: str, table: pd.DataFrame, table_file: Path) -> tuple[pd.DataFrame, Path]:
        source = next((found for found in (path, self.path / path) if found.is_file()), None)
        if source is None:
            raise InputError(f"{path}: list not found, neither here nor in {self.path}")
        names = read_lines(source)
        if (line := first_line(~names.isin(set(table["Image Index"])))) is not None:
            raise InputError(f"{source}: line {line}: {names[line]} is not in {table_file}")
        check_unique(names, source)
        return pd.DataFrame({"name": names, "split": split}), source


def read_boxes(path: Path, names: list[str]) -> pd.DataFrame:
    """The boxes of some images as findings of an image table.

    Args:
        path: BBox_List_2017.csv.
        names: The images; the boxes of others are left out.

    Raises:
        InputError: The file is missing, or a row has an unknown class, not four numbers or a box outside the image.
    """
    table = read_cells(path)
    if table.shape[1] < 6:
        raise InputError(f"{path}: has {table.shape[1]} columns; image, class and x, y, w, h are needed")
    row_of = {name: row for row, name in enumerate(names)}
    found = []
    for line, name, spelt, *cells in table.iloc[:, :6].itertuples(name=None):
        label = _BOX_SPELLINGS.get(spelt, spelt)
        if label not in CXR14_CLASSES:
            raise InputError(f"{path}: line {line}: unknown class {spelt!r}")
        box = read_box(cells, f"{path}: line {line}", BOX_FRAME, BOX_FRAME)
        if name in row_of:
            found.append((row_of[name], label, *box, None))
    return pd.DataFrame(found, columns=list(FINDING_COLUMNS))


def _read_entries(root: Path) -> tuple[Path, pd.DataFrame]:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that contains Data_Entry_2017_v2020.csv")
    found = sorted(root.glob("Data_Entry*.csv*"))
    if len(found) != 1:
        raise InputError(f"{root}: contains {len(found)} files named Data_Entry*.csv; exactly one is needed")
    table = read_cells(found[0])
    sex = next((name for name in ("Patient Gender", "Patient Sex") if name in table.columns), None)
    missing = [name for name in _COLUMNS if name not in table.columns] + ([] if sex else ["Patient Gender"])
    if missing:
        raise InputError(f"{found[0]}: has no column {missing[0]!r}")
    check_unique(table["Image Index"], found[0])
    return found[0], table.assign(sex=table[sex])


def _labels(findings: pd.Series, source: Path) -> npt.NDArray[np.int8]:
    named = findings.str.split("|").explode()
    unknown = ~named.isin([*CXR14_CLASSES, NO_FINDING])
    if (line := first_line(unknown)) is not None:
        raise InputError(f"{source}: line {line}: unknown finding label {named[unknown].iat[0]!r}")
    marked = pd.get_dummies(named, dtype=np.int8).groupby(level=0).max()
    return marked.reindex(columns=list(CXR14_CLASSES), fill_value=ABSENT).to_numpy(np.int8)


def _read_authors_list(source: Path, images: Path | None) -> ImageTable:
    """Label columns are found by the class names if all 14 are there; else the last 14 count, in the publisher's order."""
    table = read_cells(source)
    if table.shape[1] < 1 + len(CXR14_CLASSES):
        raise InputError(f"{source}: has {table.shape[1]} columns; an image path and 14 labels are needed")
    codes = {"0": ABSENT, "0.0": ABSENT, "1": PRESENT, "1.0": PRESENT}
    columns = _label_columns(table.columns.tolist())
    labels = [codes_of(table.iloc[:, column], codes, source, "0 or 1") for column in columns]
    # A leading column without a name is the row number that pandas writes.
    names = table.iloc[:, 0 if table.columns[0].strip() else 1]
    paths = listed_images(names, None, source) if images is None else find_images(names, images, source)
    # The publisher's file names begin with the patient: 00000061_012.png.
    stems = [Path(path).stem for path in paths]
    patients = [_patient_of(stem) for stem in stems]
    listed = pd.DataFrame({"path": paths.tolist(), "patient": patients, "study": stems})
    marked = pd.DataFrame(np.stack(labels, axis=1), columns=list(CXR14_CLASSES))
    return ImageTable(f"NIH ChestX-ray14 ({source.name})", listed, marked)


def _label_columns(header: list[str]) -> list[int]:
    place = {class_key(name): index for index, name in enumerate(header)}
    keys = [class_key(name) for name in CXR14_CLASSES]
    # "Pleural_Thicken" is one of the spellings that are met.
    named = [place.get(key, place.get(key.removesuffix("ing"))) for key in keys]
    found = [index for index in named if index is not None]
    return found if len(found) == len(keys) else list(range(len(header) - len(keys), len(header)))


def _patient_of(stem: str) -> str:
    number = stem.split("_")[0]
    return number.lstrip("0") or "0" if number.isdecimal() else ""
