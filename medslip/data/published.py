"""The authors' prepared files, as they are: image lists in JSON and one dense label matrix, converted by streaming.

train.json, valid.json, test.json are {image path: {"labels_id": row, ...}}; landmark_observation_adj_mtx.npy is
studies x 51 x 75, float64, in our order of anatomies and pathologies: 1 present, 0 absent, -1 not mentioned. It has
6.75 GB, so it is read block by block, once; afterwards the sparse store takes its place.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from medslip.data.prepared import PreparedWriter, StudyImage
from medslip.data.splits import SPLITS
from medslip.data.summary import PreparationSummary
from medslip.errors import InputError
from medslip.labels import UNKNOWN, A, Matrix, P

MATRIX_FILE = "landmark_observation_adj_mtx.npy"

_BLOCK = 512  # studies at a time: 16 MB of float64
_MIMIC = re.compile(r"p(\d{8})/s(\d+)/[^/]+$")


def prepare_published(folder: Path, output: Path, images: Path | None = None) -> PreparationSummary:
    """Convert the authors' files to a prepared data set. Every row of the matrix keeps its place.

    Args:
        folder: Holds the matrix and at least train.json.
        output: The prepared data set's folder.
        images: Where the images are, if not where the lists say. MIMIC-CXR-JPG's own folder (the one that holds
            files/) serves: of a listed path, the part from files/ on is looked up in it.

    Raises:
        InputError: A file is missing or damaged, a row is outside the matrix, a value is not 1, 0 or -1, or no
            listed image is on the disk.
    """
    folder = Path(folder)
    left_out: Counter[str] = Counter()
    matrix = open_matrix(folder / MATRIX_FILE)
    members = _read_lists(folder, len(matrix), images, left_out)
    with PreparedWriter(output, "the authors' prepared files") as writer:
        for start in tqdm(range(0, len(matrix), _BLOCK), desc="label matrix", unit="block", disable=None):
            block = read_block(matrix, start, folder / MATRIX_FILE)
            for row, labels in enumerate(block, start=start):
                listed = members.get(row, [])
                study, patient = _names(row, listed)
                cells = {
                    (int(cell) // P, int(cell) % P): int(labels.flat[cell])
                    for cell in np.flatnonzero(labels != UNKNOWN)
                }
                writer.add(study, patient, cells, listed)
        return writer.finish(left_out)


def open_matrix(path: Path) -> npt.NDArray[Any]:
    """The dense matrix, studies x 51 x 75, memory-mapped.

    Raises:
        InputError: The file is missing, cut short, not .npy, or has another shape.
    """
    try:
        matrix: npt.NDArray[Any] = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise InputError(f"{path}: label matrix not found") from None
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not a whole .npy file ({error}); get it anew") from None
    if matrix.ndim != 3 or matrix.shape[1:] != (A, P) or matrix.dtype.kind not in "fiu":
        raise InputError(f"{path}: has shape {matrix.shape} of {matrix.dtype}; studies x {A} x {P} numbers are needed")
    return matrix


def read_block(matrix: npt.NDArray[Any], start: int, path: Path) -> Matrix:
    """Some studies from ``start`` on, int8.

    Raises:
        InputError: A value is not 1, 0 or -1; the message names file, row and cell.
    """
    values = np.asarray(matrix[start : start + _BLOCK])
    wrong = ~np.isin(values, (-1, 0, 1))
    if wrong.any():
        row, anatomy, pathology = (int(index) for index in np.argwhere(wrong)[0])
        raise InputError(
            f"{path}: row {start + row}, cell ({anatomy}, {pathology}) is {values[row, anatomy, pathology]}; "
            "only 1, 0 and -1 are labels"
        )
    return values.astype(np.int8)


def _read_lists(folder: Path, rows: int, images: Path | None, left_out: Counter[str]) -> dict[int, list[StudyImage]]:
    """Row of the matrix -> its images that are on the disk."""
    members: dict[int, list[StudyImage]] = {}
    first_missing = ""
    for split in SPLITS:
        path = folder / f"{split}.json"
        if not path.exists() and split != "train":
            continue
        for name, entry in tqdm(_read_json(path).items(), desc=path.name, unit="image", disable=None):
            row = entry.get("labels_id") if isinstance(entry, dict) else None
            if not isinstance(row, int) or not 0 <= row < rows:
                raise InputError(f"{path}: key {name}: labels_id {row!r} is no row of a matrix of {rows} studies")
            image = _image_path(name, folder, images)
            if image.is_file():
                members.setdefault(row, []).append(StudyImage(image, split))
            else:
                left_out["images that are not on the disk"] += 1
                first_missing = first_missing or str(image)
    if not members:
        raise InputError(f"{folder}: no listed image is on the disk, first {first_missing}; name their folder")
    return members


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: list not found") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a whole JSON file ({error}); get it anew") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a list of the authors' form, {{image path: {{labels_id: row}}}}")
    return data


def _image_path(name: str, folder: Path, images: Path | None) -> Path:
    if images is None:
        return folder / name
    _, files, tail = f"/{name}".partition("/files/")
    return Path(images) / ("files/" + tail if files else name.lstrip("/"))


def _names(row: int, listed: list[StudyImage]) -> tuple[str, str]:
    """Study and patient, from MIMIC-CXR's folders where the path has them."""
    match = _MIMIC.search(listed[0].path.as_posix()) if listed else None
    return (f"s{match[2]}", f"p{match[1]}") if match else (f"row-{row}", "")
