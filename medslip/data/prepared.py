"""The prepared data set: a folder with a label store, a list a split, and a summary."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pandas as pd

from medslip.data.records import write_list
from medslip.data.splits import SPLITS
from medslip.data.summary import CellCounter, PreparationSummary
from medslip.errors import InputError
from medslip.labels import Cells, LabelStoreWriter


@dataclass(frozen=True)
class StudyImage:
    """One image of a study, as its list is to name it.

    Attributes:
        path: The image file.
        split: "train", "valid" or "test".
        view: View name, empty where unknown.
        sex: "M", "F" or empty.
        age: Years, NaN where unknown.
    """

    path: Path
    split: str
    view: str = ""
    sex: str = ""
    age: float = float("nan")


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
        self._lines: dict[str, list[dict[str, object]]] = {split: [] for split in SPLITS}

    def add(self, study: str, patient: str, cells: Cells, images: Iterable[StudyImage]) -> int:
        """Append one study with its images; returns its row in the store."""
        anatomy, pathology = [key[0] for key in cells], [key[1] for key in cells]
        state = list(cells.values())
        row = self._store.add_cells(study, anatomy, pathology, state)
        self._counter.add_cells(anatomy, pathology, state)
        for image in images:
            self._lines[image.split].append(
                {
                    "image": os.path.abspath(image.path),
                    "study": study,
                    "patient": patient,
                    "view": image.view,
                    "sex": image.sex,
                    "age": image.age,
                    "row": row,
                }
            )
        return row

    def finish(self, left_out: Mapping[str, int] | None = None, notes: tuple[str, ...] = ()) -> PreparationSummary:
        """Write everything; the arguments are PreparationSummary's attributes.

        Raises:
            InputError: No image was left.
        """
        images = {split: len(lines) for split, lines in self._lines.items() if lines}
        if not images:
            reasons = "; ".join(f"{count} {reason}" for reason, count in (left_out or {}).items() if count)
            raise InputError(f"{self._source}: no image is left to prepare ({reasons or 'there was none'})")
        if "train" not in images:
            notes = (*notes, "The train list is empty: there is nothing to pre-train on.")
        summary = self._counter.summary(self._source, images, left_out, notes)
        self._store.__exit__(None, None, None)
        for split, lines in self._lines.items():
            path = self.folder / f"{split}.csv"
            if lines:
                write_list(path, pd.DataFrame(lines))
            else:
                path.unlink(missing_ok=True)
        summary.write(self.folder)
        return summary

    def __enter__(self) -> PreparedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._store.__exit__(kind, error, trace)
            if self._is_new and not any(self.folder.iterdir()):
                self.folder.rmdir()
