"""RSNA Pneumonia Detection Challenge in the publisher's layout, and the list of the method's authors.

Layout: stage_2_train_labels.csv (one row per box), stage_2_train_images/<patientId>.dcm. The authors' list is a CSV: ID,
img_path, boxes ("x;y;w;h|x;y;w;h" or nan), classes. Boxes are in a 1024 x 1024 frame. Each patient has one image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd

from medslip.data.dataset import DataSet
from medslip.data.images import read_headers
from medslip.data.reading import (
    Box,
    check_repeats,
    check_unique,
    codes_of,
    find_images,
    header_columns,
    listed_images,
    read_box,
    read_cells,
)
from medslip.data.table import FINDING_COLUMNS, ImageTable, one_class
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT

CLASS = "Pneumonia"
"""The one class; the publisher calls its sign "Lung Opacity"."""

LABELS_FILE = "stage_2_train_labels.csv"
IMAGES_FOLDER = "stage_2_train_images"
BOX_FRAME = 1024
"""Side in pixels of the square that boxes are given in."""

_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
_AUTHORS_COLUMNS = ("ID", "img_path", "boxes", "classes")
_NO_BOX = frozenset({"", "nan"})
_TARGETS = {"0": ABSENT, "0.0": ABSENT, "1": PRESENT, "1.0": PRESENT}


@dataclass(frozen=True)
class Rsna(DataSet):
    """RSNA Pneumonia: images labelled for pneumonia, and boxes.

    Attributes:
        path: The publisher's folder, or the authors' CSV file.
        images: Where the images are, looked up by name (.dcm, .png or .jpg) in all subfolders. None takes the publisher's
            folder of images, or the paths of the authors' list, relative to its folder.
    """

    kind: ClassVar[str] = "rsna"
    path: Path = Path("data_file/rsna")
    images: Path | None = None

    def load(self) -> ImageTable:
        """The images in the order of the list; view, sex and age are those of their DICOM headers."""
        published = self.path.is_dir()
        source = self.path / LABELS_FILE if published else self.path
        rows = read_cells(source, _COLUMNS if published else _AUTHORS_COLUMNS)
        rows = rows.rename(columns={"ID": "name", "patientId": "name", "Target": "target", "classes": "target"})
        rows["target"] = codes_of(rows["target"], _TARGETS, source, "0 or 1")
        boxes: dict[str, list[Box]] = {name: [] for name in rows["name"]}
        for line, name, cells in _published_boxes(rows, source) if published else _authors_boxes(rows, source):
            box = read_box(cells, f"{source}: line {line}", BOX_FRAME, BOX_FRAME)
            if box in boxes[name]:
                raise InputError(f"{source}: line {line}: {name} has the same box twice")
            boxes[name].append(box)
        images = rows.drop_duplicates("name") if published else rows
        for line, name, target in zip(images.index, images["name"], images["target"], strict=True):
            if bool(boxes[name]) != (target == PRESENT):
                has = f"{len(boxes[name])} boxes"
                raise InputError(f"{source}: line {line}: {name} has label {target} and {has}; one is wrong")
        if published:
            paths = find_images(images["name"], self.images or self.path / IMAGES_FOLDER, source)
        elif self.images is not None:
            paths = find_images(images["img_path"], self.images, source)
        else:
            paths = listed_images(images["img_path"], None, source)
        headers = read_headers([Path(path) for path in paths])
        names = images["name"].tolist()
        known = header_columns(headers) | {"height": BOX_FRAME, "width": BOX_FRAME}
        patients = [header.patient or name for header, name in zip(headers, names, strict=True)]
        found = [(row, CLASS, *box, None) for row, name in enumerate(names) for box in boxes[name]]
        return ImageTable(
            f"RSNA Pneumonia ({source.name})",
            pd.DataFrame({"path": paths.tolist(), "patient": patients, "study": names, **known}),
            one_class(CLASS, images["target"] == PRESENT),
            pd.DataFrame(found, columns=list(FINDING_COLUMNS)),
        )


_Boxes = Iterator[tuple[int, str, Sequence[str]]]
"""Line, image, and the four cells of a box."""


def _published_boxes(rows: pd.DataFrame, source: Path) -> _Boxes:
    """The boxes of a list with one row per box."""
    first = rows.groupby("name")["target"].transform("first")
    check_repeats(rows["name"], (rows["target"] != PRESENT) | (first != PRESENT), source, "boxes")
    for line, name, *cells in rows[["name", "x", "y", "width", "height"]].itertuples(name=None):
        if not set(cells) <= _NO_BOX:
            yield line, name, cells


def _authors_boxes(rows: pd.DataFrame, source: Path) -> _Boxes:
    """The boxes of a list with one row per image."""
    check_unique(rows["name"], source)
    for line, name, text in rows[["name", "boxes"]].itertuples(name=None):
        for part in [] if text in _NO_BOX else text.split("|"):
            cells = part.split(";")
            if len(cells) != 4:
                raise InputError(f"{source}: line {line}: the box {part!r} is not of the form x;y;w;h")
            yield line, name, cells
