"""The label matrix of a study: what its report says about each (anatomy, pathology) pair, sparse on disk, dense in use.

Cells are 1 present, 0 absent, -1 not mentioned. A study mentions about 5 to 20 of its 51 x 75 cells, so the store keeps
only those, two bytes per cell, with an index of where each study begins. Both are memory-mapped, so that processes share their
pages. Opening a store reads it once, a few megabytes for 220 k studies, to check its checksums.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.errors import InputError, one_line
from medslip.files import folder_written_whole, from_json
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

PRESENT, ABSENT, UNKNOWN = 1, 0, -1

A, P = len(ANATOMIES), len(PATHOLOGIES)

_FORMAT, _VERSION = "medslip-labels", 1
_FILES = ("cells.bin", "offsets.npy", "keys.npy")
_AGAIN = "run prepare_data.py again"

Matrix = npt.NDArray[np.int8]
"""A x P, or B x A x P: 1 present, 0 absent, -1 not mentioned."""

Cells = dict[tuple[int, int], int]
"""(anatomy index, pathology index) -> 1 present or 0 absent. Cells that are not mentioned are left out."""


def mention(cells: Cells, anatomy: int, pathology: int, state: int) -> None:
    """Add one mention to the cells of a study; present wins over absent."""
    cells[anatomy, pathology] = max(state, cells.get((anatomy, pathology), ABSENT))


def open_array(path: Path, shape: tuple[str | int, ...], kinds: str) -> npt.NDArray[Any]:
    """Memory-map the numbers in a .npy file.

    Args:
        path: The file.
        shape: The length of each axis; a name for any length.
        kinds: Characters that numpy has for the kinds of numbers allowed, "iu" for whole ones.

    Raises:
        InputError: The file is missing, cut short, not .npy, or has another shape or other numbers.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except Exception as error:  # numpy raises whatever the parser of its header met
        raise InputError(f"{path}: not a complete .npy file ({one_line(error, 160)}); get a new copy") from None
    fits = len(array.shape) == len(shape) and all(
        has == axis or isinstance(axis, str) for has, axis in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype.kind not in kinds:
        needed = f"{' x '.join(map(str, shape))} {'' if 'f' in kinds else 'whole '}numbers"
        raise InputError(f"{path}: has shape {array.shape} of {array.dtype}; {needed} are needed")
    return array


class LabelStore:
    """The label matrices of many studies, read-only and memory-mapped.

    Args:
        folder: A folder written by LabelStoreWriter.

    Raises:
        InputError: The folder is not a label store, is incomplete or damaged, or was written with another vocabulary.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            self._open()
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder}: not a complete label store ({one_line(error)}); {_AGAIN}") from None

    def _open(self) -> None:
        meta = from_json((self.folder / "meta.json").read_text())
        if not isinstance(meta, dict) or (meta.get("format"), meta.get("version")) != (_FORMAT, _VERSION):
            raise InputError(f"{self.folder}/meta.json: not a label store of version {_VERSION}")
        if meta.get("vocabulary") != _vocabulary_key():
            raise InputError(f"{self.folder}/meta.json: written with another vocabulary; {_AGAIN}")
        self._lists: dict[str, int] = meta.get("lists", {})
        for name, checksum in _checksums(self.folder, _FILES).items():
            if meta.get(name, checksum) != checksum:  # stores of earlier versions have none
                raise InputError(f"{self.folder / name}: is damaged: its checksum is not that in meta.json; {_AGAIN}")
        self._offsets, self._keys = (
            open_array(self.folder / f"{name}.npy", ("studies",), "iu") for name in ("offsets", "keys")
        )
        file = self.folder / "cells.bin"
        self._cells: npt.NDArray[np.uint16] = (
            np.asarray(np.memmap(file, np.uint16, "r")) if file.stat().st_size else np.empty(0, np.uint16)
        )
        steps = np.diff(self._offsets.astype(np.int64), prepend=0, append=len(self._cells))
        if len(self._offsets) != len(self._keys) + 1 or steps[0] or steps[-1] or (steps < 0).any():
            raise InputError(f"{file}: is truncated; {_AGAIN}")
        if (self._cells & 0x7FFF).max(initial=0) >= A * P:
            raise InputError(f"{file}: is damaged: it has a cell outside the {A} x {P} matrix; {_AGAIN}")

    def __len__(self) -> int:
        return len(self._keys)

    def cells(self, row: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Matrix]:
        """Return the mentioned cells of a study: anatomy indices, pathology indices, and states (1 or 0)."""
        code = self._code(row)
        cell = (code & 0x7FFF).astype(np.intp)
        return cell // P, cell % P, (code >> 15).astype(np.int8)

    def _code(self, row: int) -> npt.NDArray[np.uint16]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a store of {len(self)} studies")
        return self._cells[self._offsets[row] : self._offsets[row + 1]]

    def dense(self, row: int) -> Matrix:
        """Return the A x P matrix of a study, int8."""
        matrix = np.full(A * P, UNKNOWN, np.int8)
        code = self._code(row)
        matrix[code & 0x7FFF] = code >> 15
        return matrix.reshape(A, P)

    def sizes(self) -> npt.NDArray[np.int64]:
        """Return how many cells each study mentions."""
        return np.diff(self._offsets)

    def counts(self) -> npt.NDArray[np.int64]:
        """Return how many studies have each cell absent and present, 2 x A x P."""
        cells = np.asarray(self._cells).astype(np.int64)
        place = (cells >> 15) * (A * P) + (cells & 0x7FFF)
        return np.bincount(place, minlength=2 * A * P).reshape(2, A, P)

    def check(self, images: pd.DataFrame | Mapping[str, Any], source: str) -> None:
        """Check that an image list belongs to this store.

        Args:
            images: Columns row (in the store), study or its study_key as key, and line (in the file).
            source: The file of the list, for error messages.

        Raises:
            InputError: A row is outside the store or belongs to another study, or the store was prepared with another list
                of this name.
        """
        rows = np.asarray(images["row"], np.int64)
        keys = np.asarray(images["key"] if "key" in images else [study_key(study) for study in images["study"]])
        inside = (rows >= 0) & (rows < len(self))
        wrong = ~inside
        wrong[inside] = self._keys[rows[inside]] != keys[inside]
        if wrong.any():
            place = int(wrong.argmax())
            row, line = rows[place], np.asarray(images["line"])[place]
            fault = (
                f"is not of the study of its row {row} in {self.folder}"
                if inside[place]
                else f"has row {row}, but {self.folder} has {len(self)} studies"
            )
            raise InputError(f"{source}: line {line} {fault}; use a list and a store from the same preparation")
        folder, name = Path(source).parent, Path(source).name
        beside = name in self._lists and folder.resolve() == self.folder.resolve().parent
        if beside and self._lists[name] != _checksums(folder, [name])[name]:
            raise InputError(
                f"{source}: is not the list that was prepared with {self.folder}; {_AGAIN}, or give a list that you changed "
                "another name"
            )


class LabelStoreWriter:
    """Collects the labels of studies, and writes them as a label store."""

    def __init__(self) -> None:
        self._cells = array("H")
        self._offsets = [0]
        self._keys: list[int] = []

    def add(self, study: str, cells: Cells) -> int:
        """Append a study, and return its row.

        Raises:
            ValueError: A cell is outside the A x P matrix, or its state is not 0 or 1.
        """
        for (anatomy, pathology), state in sorted(cells.items()):
            if not (0 <= anatomy < A and 0 <= pathology < P and state in (ABSENT, PRESENT)):
                raise ValueError(f"no state {state} of cell ({anatomy}, {pathology}) in a {A} x {P} matrix")
            self._cells.append(int(anatomy * P + pathology) | int(state) << 15)
        self._offsets.append(len(self._cells))
        self._keys.append(study_key(study))
        return len(self._keys) - 1

    def write(self, folder: Path, lists: Sequence[str] = ()) -> None:
        """Write the store, completely or not at all.

        Args:
            folder: A path where nothing exists.
            lists: Names of the image lists beside it, whose checksums it keeps.
        """
        with folder_written_whole(folder) as partial:
            np.asarray(self._cells, "<u2").tofile(partial / "cells.bin")
            np.save(partial / "offsets.npy", np.asarray(self._offsets, np.int64))
            np.save(partial / "keys.npy", np.asarray(self._keys, np.uint32))
            meta = {
                "format": _FORMAT,
                "version": _VERSION,
                "studies": len(self._keys),
                "cells": len(self._cells),
                "vocabulary": _vocabulary_key(),
                **_checksums(partial, _FILES),
                "lists": _checksums(folder.parent, lists),
            }
            (partial / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")


def _checksums(folder: Path, names: Sequence[str]) -> dict[str, int]:
    """File -> CRC-32 of its content."""
    sums = dict.fromkeys(names, 0)
    for name in names:
        with (folder / name).open("rb") as file:
            while part := file.read(1 << 20):
                sums[name] = zlib.crc32(part, sums[name])
    return sums


def study_key(study: str) -> int:
    """The CRC-32 of a study's name, which a store keeps in its place."""
    return zlib.crc32(study.encode())


def _vocabulary_key() -> int:
    return zlib.crc32("\n".join(ANATOMIES + PATHOLOGIES).encode())
