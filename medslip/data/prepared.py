"""The prepared data set: a folder with a label store, a list per split, and a summary."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import pandas as pd

from medslip.data.manifest import COLUMNS, write_list
from medslip.data.splits import SPLITS
from medslip.data.summary import CellCounter, PreparationSummary
from medslip.errors import InputError
from medslip.labels import Cells, LabelStoreWriter


class PreparedWriter:
    """Writes a prepared data set study by study. After an error the folder holds nothing new.

    Args:
        folder: Where train.csv, valid.csv, test.csv (those with images), labels/ and summary.json are to be.
        source: What is read, for the summary.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self.folder = Path(folder)
        self._source = source
        self._is_new = not self.folder.exists()
        self._store = LabelStoreWriter(self.folder / "labels")
        self._counter = CellCounter()

    def add(self, study: str, cells: Cells) -> int:
        """Append one study's labels; returns its row in the store."""
        anatomy, pathology = [key[0] for key in cells], [key[1] for key in cells]
        state = list(cells.values())
        self._counter.add_cells(anatomy, pathology, state)
        return self._store.add(study, cells)

    def finish(
        self, images: pd.DataFrame, left_out: Mapping[str, int], notes: tuple[str, ...] = ()
    ) -> PreparationSummary:
        """Write everything.

        Args:
            images: The images of an image table, each with its split and with the row in the store that ``add`` returned.
            left_out: For the summary.
            notes: For the summary.

        Raises:
            InputError: There is no image, or a study belongs to two patients.
        """
        if not len(images):
            reasons = "; ".join(f"{count} {reason}" for reason, count in left_out.items() if count)
            raise InputError(f"{self._source}: no image is left to prepare ({reasons or 'there was none'})")
        owners = images[["study", "patient"]].drop_duplicates().sort_values("patient")
        if len(several := owners[owners["study"].duplicated(keep=False)]):
            study = several["study"].iat[0]
            patients = " and ".join(several["patient"][several["study"] == study])
            raise InputError(f"{self._source}: study {study} belongs to patients {patients}")
        images = images.assign(image=images["path"].map(os.path.abspath)).sort_values("row", kind="stable")
        lists = {split: images[images["split"] == split] for split in SPLITS}
        numbers = {split: len(rows) for split, rows in lists.items() if len(rows)}
        if "train" not in numbers:
            notes = (*notes, "The train list is empty: there is nothing to pre-train on.")
        summary = self._counter.summary(self._source, numbers, left_out, notes)
        self._store.write()
        for split, rows in lists.items():
            path = self.folder / f"{split}.csv"
            if len(rows):
                write_list(path, rows[list(COLUMNS)])
            else:
                path.unlink(missing_ok=True)
        summary.write(self.folder)
        return summary

    def __enter__(self) -> PreparedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._is_new and not any(self.folder.iterdir()):
            self.folder.rmdir()
