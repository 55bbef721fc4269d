"""The label matrix of a study: what its report says about each (anatomy, pathology) pair, sparse on disk, dense in use.

Cells are 1 present, 0 absent, -1 not mentioned. A study mentions about 5 to 20 of its 51 x 75 cells, so the store keeps
only those, two bytes per cell, with an index of where each study begins. Both are memory-mapped: opening a store of 220 k
studies reads almost nothing, and processes share its pages.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from medslip.errors import InputError
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

PRESENT, ABSENT, UNKNOWN = 1, 0, -1

A, P = len(ANATOMIES), len(PATHOLOGIES)

_PRESENT_BIT = np.uint16(1 << 15)
_FORMAT, _VERSION = "medslip-labels", 1

Matrix = npt.NDArray[np.int8]
"""A x P, or B x A x P: 1 present, 0 absent, -1 not mentioned."""

Cells = dict[tuple[int, int], int]
"""(anatomy index, pathology index) -> 1 present or 0 absent. Cells that are not mentioned are left out."""


def mention(cells: Cells, anatomy: int, pathology: int, state: int) -> None:
    """Add one mention to the cells of a study; present wins over absent."""
    cells[anatomy, pathology] = max(state, cells.get((anatomy, pathology), ABSENT))


class LabelStore:
    """The label matrices of many studies, read-only and memory-mapped.

    Args:
        folder: A folder written by LabelStoreWriter.

    Raises:
        InputError: The folder is not a label store, is incomplete, or was written with another vocabulary.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            meta = json.loads((self.folder / "meta.json").read_text())
            self._offsets = np.load(self.folder / "offsets.npy", mmap_mode="r")
            self._keys = np.load(self.folder / "keys.npy", mmap_mode="r")
            cells_file = self.folder / "cells.bin"
            size = cells_file.stat().st_size
            self._cells: npt.NDArray[np.uint16] = (
                np.memmap(cells_file, np.uint16, "r") if size else np.empty(0, np.uint16)
            )
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"{self.folder}: not a complete label store ({error}); run prepare_data.py again"
            ) from None
        if not isinstance(meta, dict) or (meta.get("format"), meta.get("version")) != (_FORMAT, _VERSION):
            raise InputError(f"{self.folder}/meta.json: not a label store of version {_VERSION}")
        if meta.get("vocabulary") != _vocabulary_key():
            raise InputError(f"{self.folder}/meta.json: written with another vocabulary; run prepare_data.py again")
        if len(self._offsets) != len(self._keys) + 1 or self._offsets[-1] * 2 != size:
            raise InputError(f"{self.folder}: cells.bin is truncated; run prepare_data.py again")

    def __len__(self) -> int:
        return len(self._keys)

    def cells(self, row: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], Matrix]:
        """Return the mentioned cells of a study: anatomy indices, pathology indices, and states (1 or 0)."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a store of {len(self)} studies")
        code = np.asarray(self._cells[self._offsets[row] : self._offsets[row + 1]])
        cell = (code & ~_PRESENT_BIT).astype(np.intp)
        return cell // P, cell % P, (code >> 15).astype(np.int8)

    def dense(self, row: int) -> Matrix:
        """Return the A x P matrix of a study, int8."""
        matrix = np.full((A, P), UNKNOWN, np.int8)
        anatomy, pathology, state = self.cells(row)
        matrix[anatomy, pathology] = state
        return matrix

    def dense_batch(self, rows: Sequence[int]) -> Matrix:
        """Return the B x A x P matrices of several studies, int8, in the order of `rows`."""
        return np.stack([self.dense(row) for row in rows]) if len(rows) else np.empty((0, A, P), np.int8)

    def check(self, rows: Sequence[int], studies: Sequence[str], source: str) -> None:
        """Check that an image list belongs to this store.

        Args:
            rows: Row in the store of each entry.
            studies: Study name of each entry.
            source: The file of the list, for error messages, where entry i is line i + 2.

        Raises:
            InputError: A row is outside the store, or belongs to another study.
        """
        for line, (row, study) in enumerate(zip(rows, studies, strict=True), start=2):
            if not 0 <= row < len(self):
                raise InputError(
                    f"{source}: line {line} has row {row}, but {self.folder} has {len(self)} studies; "
                    "use a list and a store from the same preparation"
                )
            if self._keys[row] != _study_key(study):
                raise InputError(
                    f"{source}: line {line} is study {study}, but row {row} of {self.folder} belongs to another; "
                    "use a list and a store from the same preparation"
                )


class LabelStoreWriter:
    """Writes a label store study by study.

    It is a context manager: the folder appears only when everything has been written, and not at all after an error.

    Args:
        folder: The folder to write. An existing store is replaced.

    Raises:
        InputError: The folder exists and is not a label store, or cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._partial = self.folder.with_name(self.folder.name + ".partial")
        if self.folder.exists() and not (self.folder / "meta.json").exists():
            raise InputError(f"{self.folder}: exists and is not a label store; choose another output")
        if (self._partial / "cells.bin").exists():
            shutil.rmtree(self._partial)  # left by a writer that was killed
        try:
            self._partial.mkdir(parents=True)
        except OSError as error:
            raise InputError(
                f"{self.folder}: the folder cannot be created ({error.strerror}); choose another output"
            ) from None
        self._cells = (self._partial / "cells.bin").open("wb")
        self._offsets = [0]
        self._keys: list[int] = []

    def add(self, study: str, matrix: Matrix) -> int:
        """Append the A x P matrix of a study, and return its row."""
        if matrix.shape != (A, P):
            raise ValueError(f"label matrix of shape {matrix.shape}, expected {(A, P)}")
        cell = np.flatnonzero(matrix.reshape(-1) != UNKNOWN)
        return self.add_cells(study, cell // P, cell % P, matrix.reshape(-1)[cell])

    def add_cells(self, study: str, anatomy: npt.ArrayLike, pathology: npt.ArrayLike, state: npt.ArrayLike) -> int:
        """Append a study given by its mentioned cells, each listed once, and return its row.

        Raises:
            ValueError: An index is outside the vocabulary, a state is not 0 or 1, or a cell is listed twice.
        """
        rows, columns = np.asarray(anatomy, np.int64), np.asarray(pathology, np.int64)
        states = np.asarray(state, np.int64)
        if not (rows.shape == columns.shape == states.shape):
            raise ValueError("anatomy, pathology and state have different lengths")
        if ((rows < 0) | (rows >= A) | (columns < 0) | (columns >= P)).any():
            raise ValueError("a cell is outside the 51 x 75 label matrix")
        if not np.isin(states, (ABSENT, PRESENT)).all():
            raise ValueError("a mentioned cell must be 1 (present) or 0 (absent)")
        order = np.argsort(rows * P + columns)
        cell = (rows * P + columns)[order]
        if (np.diff(cell) == 0).any():
            raise ValueError("a cell is listed twice")
        code = cell.astype(np.uint16) | (states[order].astype(np.uint16) << 15)
        self._cells.write(code.astype("<u2").tobytes())
        self._offsets.append(self._offsets[-1] + len(code))
        self._keys.append(_study_key(study))
        return len(self._keys) - 1

    def __enter__(self) -> LabelStoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cells.close()
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        np.save(self._partial / "offsets.npy", np.asarray(self._offsets, np.int64))
        np.save(self._partial / "keys.npy", np.asarray(self._keys, np.uint32))
        meta = {
            "format": _FORMAT,
            "version": _VERSION,
            "studies": len(self._keys),
            "cells": self._offsets[-1],
            "vocabulary": _vocabulary_key(),
        }
        (self._partial / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self._partial.rename(self.folder)


def _study_key(study: str) -> int:
    return zlib.crc32(study.encode())


def _vocabulary_key() -> int:
    return zlib.crc32("\n".join(ANATOMIES + PATHOLOGIES).encode())
