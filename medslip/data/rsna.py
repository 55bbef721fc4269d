"""RSNA Pneumonia Detection Challenge in the publisher's layout, and the list form of the method's authors.

Layout: stage_2_train_labels.csv (a row a box), stage_2_train_images/<patientId>.dcm. The authors' list is a CSV: ID,
img_path, boxes ("x;y;w;h|x;y;w;h" or nan), classes. Boxes are in a 1024 x 1024 frame. Each patient has one image.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medslip.data.boxes import Box, BoxedImages, read_box
from medslip.data.checks import refuse_duplicates, refuse_repeated_files
from medslip.data.csv_old import read_cells
from medslip.data.images import read_headers
from medslip.data.labelled import LabelledImages, find_images, one_class
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT

CLASS = "Pneumonia"
"""The one class; the publisher calls its sign "Lung Opacity"."""

LABELS_FILE = "stage_2_train_labels.csv"
IMAGES_FOLDER = "stage_2_train_images"

_COLUMNS = ("patientId", "x", "y", "width", "height", "Target")
_AUTHORS_COLUMNS = ("ID", "img_path", "boxes", "classes")
_NO_BOX = frozenset({"", "nan"})
_TARGETS = {"0": ABSENT, "0.0": ABSENT, "1": PRESENT, "1.0": PRESENT}


@dataclass
class _Entry:
    """What a table says of an image."""

    line: int
    target: int
    boxes: list[Box] = field(default_factory=list)


def read_labelled(path: Path, images: Path | None = None) -> LabelledImages:
    """The images, labelled 1 where pneumonia was marked.

    Args:
        path: The publisher's folder, or the authors' CSV file.
        images: Where the images are, looked up by name (.dcm, .png or .jpg) in all subfolders. None takes the
            publisher's folder of images, or the authors' paths as they stand, from their list's folder.

    Returns:
        Images in table order with view, sex and age of their DICOM headers.

    Raises:
        InputError: As for read_boxes.
    """
    return read_boxes(path, images).images


def read_boxes(path: Path, images: Path | None = None) -> BoxedImages:
    """The images and the boxes drawn on them.

    Args:
        path: As for read_labelled.
        images: As for read_labelled.

    Raises:
        InputError: A file is missing or not as published, an image is not on the disk, a box lies outside the
            image, is given twice, or contradicts its label; the message names the file and line.
    """
    path = Path(path)
    if path.is_dir():
        source, (entries, files) = path / LABELS_FILE, _read_published(path, images)
    else:
        source, (entries, files) = path, _read_authors(path, images)
    for name, entry in entries.items():
        if bool(entry.boxes) != (entry.target == PRESENT):
            has = f"{len(entry.boxes)} boxes"
            raise InputError(f"{source}: line {entry.line}: {name} has label {entry.target} and {has}; one is wrong")
    headers = read_headers(files)
    marked = [entry.target == PRESENT for entry in entries.values()]
    patients = [header.patient or name for header, name in zip(headers, entries, strict=True)]
    labelled = one_class(f"RSNA Pneumonia ({source.name})", CLASS, files, marked, patients, headers)
    return BoxedImages(labelled, tuple(tuple(entry.boxes) for entry in entries.values()))


_Read = tuple[dict[str, _Entry], list[Path]]


def _read_published(root: Path, images: Path | None) -> _Read:
    source = root / LABELS_FILE
    table = read_cells(source)
    _need_columns(table.columns.tolist(), _COLUMNS, source)
    entries: dict[str, _Entry] = {}
    for line, row in enumerate(table[list(_COLUMNS)].itertuples(index=False, name=None), start=2):
        name, cells, where = row[0], row[1:5], f"{source}: line {line}"
        entry = entries.setdefault(name, _Entry(line, _target(row[5], where)))
        if entry.line != line and (_target(row[5], where) != entry.target or entry.target == ABSENT):
            raise InputError(f"{where}: {name} stands in line {entry.line} too, and not as another box")
        if not set(cells) <= _NO_BOX:
            _add_box(entry, read_box(name, CLASS, cells, where), where)
    lines = [entry.line for entry in entries.values()]
    files = find_images(list(entries), lines, [images or root / IMAGES_FOLDER], source)
    refuse_repeated_files(files, lines, source)
    return entries, files


def _read_authors(source: Path, images: Path | None) -> _Read:
    table = read_cells(source)
    _need_columns(table.columns.tolist(), _AUTHORS_COLUMNS, source)
    rows = list(table[list(_AUTHORS_COLUMNS)].itertuples(index=False, name=None))
    lines = list(range(2, len(rows) + 2))
    refuse_duplicates([name for name, *_ in rows], lines, source)
    entries: dict[str, _Entry] = {}
    for line, (name, _, boxes, target) in zip(lines, rows, strict=True):
        where = f"{source}: line {line}"
        entry = entries[name] = _Entry(line, _target(target, where))
        if boxes not in _NO_BOX:
            for text in boxes.split("|"):
                cells = tuple(text.split(";"))
                if len(cells) != 4:
                    raise InputError(f"{where}: the box {text!r} is not of the form x;y;w;h")
                _add_box(entry, read_box(name, CLASS, cells, where), where)
    listed = [path for _, path, *_ in rows]
    if images is not None:
        files = find_images([PurePosixPath(path).name for path in listed], lines, [images], source)
    else:
        files = [source.parent / path for path in listed]
        for line, file in zip(lines, files, strict=True):
            if not file.is_file():
                raise InputError(
                    f"{source}: line {line}: image {file} not found; name the folder of the images (key images)"
                )
    refuse_repeated_files(files, lines, source)
    return entries, files


def _need_columns(has: list[str], needed: tuple[str, ...], source: Path) -> None:
    for name in needed:
        if name not in has:
            raise InputError(f"{source}: has no column {name!r}; it must have {', '.join(needed)}")


def _target(text: str, where: str) -> int:
    try:
        return _TARGETS[text.strip()]
    except KeyError:
        raise InputError(f"{where}: the label {text!r} is not 0 or 1") from None


def _add_box(entry: _Entry, box: Box, where: str) -> None:
    if box in entry.boxes:
        raise InputError(f"{where}: {box.image} has the same box twice")
    entry.boxes.append(box)
