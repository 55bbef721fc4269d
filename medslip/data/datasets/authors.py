"""The authors' prepared files: image lists in JSON and one dense label matrix, read in blocks.

train.json, valid.json, test.json are {image path: {"labels_id": row, ...}}; landmark_observation_adj_mtx.npy is
studies x 51 x 75, float64, in our order of anatomies and pathologies: 1 present, 0 absent, -1 not mentioned. It has
6.75 GB, so it is memory-mapped and converted once; from then on the sparse label store takes its place.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from medslip.data.dataset import DataSet
from medslip.data.reading import path_in
from medslip.data.splits import SPLITS
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.files import read_json
from medslip.labels import UNKNOWN, A, Cells, Matrix, P
from medslip.labels.store import open_array

MATRIX_FILE = "landmark_observation_adj_mtx.npy"

_MATRIX = ("studies", A, P), "fiu"
_BLOCK = 512  # studies at a time: 16 MB of float64
_MIMIC = re.compile(r"p(\d{8})/s(\d+)/[^/]+$")


@dataclass(frozen=True)
class AuthorsFiles(DataSet):
    """The authors' prepared files: train.json, valid.json, test.json and the dense label matrix.

    Attributes:
        path: The folder of these files.
        images: Folder of the images, if the listed paths do not exist. It can be the folder of MIMIC-CXR-JPG that contains
            files/: listed paths are then looked up from files/ on.
    """

    kind: ClassVar[str] = "authors"
    path: Path = Path("data_file/authors")
    images: Path | None = None

    def load(self) -> ImageTable:
        """The listed images that exist; ``row`` is a study's row of the matrix."""
        rows = len(open_array(self.path / MATRIX_FILE, *_MATRIX))
        images: list[dict[str, Any]] = []
        missing = []
        for split in SPLITS:
            path = self.path / f"{split}.json"
            if not path.exists() and split != "train":
                continue
            for name, entry in tqdm(_read_list(path).items(), desc=path.name, unit="image", disable=None):
                row = entry.get("labels_id") if isinstance(entry, dict) else None
                if not isinstance(row, int) or not 0 <= row < rows:
                    raise InputError(
                        f"{path}: key {name}: labels_id {row!r} is not a row of a matrix of {rows} studies"
                    )
                image = self._image_path(name, path)
                if not os.path.isfile(image):
                    missing.append(image)
                    continue
                match = _MIMIC.search(image.as_posix())
                study, patient = (f"s{match[2]}", f"p{match[1]}") if match else (f"row-{row}", "")
                images.append({"path": image, "study": study, "patient": patient, "split": split, "row": row})
        if not images:
            raise InputError(
                f"{self.path}: none of the listed images exists, starting with {missing[0]}; give their folder "
                "(key data.images)"
            )
        table = pd.DataFrame(images).sort_values("row", kind="stable")
        # A study is a row of the matrix, whatever the paths say.
        table["study"] = table.groupby("row")["study"].transform("first")
        repeated = table.groupby("study")["row"].transform("nunique") > 1
        table["study"] = table["study"].where(~repeated, "row-" + table["row"].astype(str))
        left_out = {"images that do not exist": len(missing)}
        return ImageTable("the authors' prepared files", table, left_out=left_out)

    def _image_path(self, name: str, source: Path) -> Path:
        where = f"key {name}"
        if self.images is not None:
            _, files, tail = f"/{name}".partition("/files/")
            name = f"files/{tail}" if files else name.lstrip("/")
        return Path(path_in(self.images, name, source, where))

    def triplets(self, table: ImageTable, left_out: Counter[str]) -> Iterator[tuple[str, Cells]]:
        """Every row of the matrix, in order, so that each keeps its place; rows without an image are named row-N."""
        path = self.path / MATRIX_FILE
        matrix = open_array(path, *_MATRIX)
        names = dict(zip(table.images["row"], table.images["study"], strict=True))
        for start in tqdm(range(0, len(matrix), _BLOCK), desc="label matrix", unit="block", disable=None):
            for row, labels in enumerate(read_block(matrix, start, path), start=start):
                mentioned = np.flatnonzero(labels != UNKNOWN)
                cells = {(int(cell) // P, int(cell) % P): int(labels.flat[cell]) for cell in mentioned}
                yield names.get(row, f"row-{row}"), cells


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
            f"{path}: row {start + row}, cell ({anatomy}, {pathology}) is {values[row, anatomy, pathology]}; only 1, 0 and "
            "-1 are labels"
        )
    return values.astype(np.int8)


def _read_list(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a list in the authors' form, {{image path: {{labels_id: row}}}}")
    return data
