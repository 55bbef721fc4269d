"""COVIDx CXR-4 in the publisher's layout: train.txt, val.txt, test.txt next to the folders train/, val/, test/.

A line reads "patient-id file-name class source", separated by blanks; class is positive or negative.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd

from medslip.data.dataset import DataSet
from medslip.data.reading import check_unique, read_lines
from medslip.data.table import ImageTable, one_class
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT

CLASS = "COVID-19"

_FOLDERS = {"train": "train", "valid": "val", "test": "test"}
_CLASSES = {"positive": PRESENT, "negative": ABSENT}


@dataclass(frozen=True)
class Covidx(DataSet):
    """COVIDx CXR-4, labelled for COVID-19.

    Attributes:
        path: The publisher's folder: train.txt, val.txt, test.txt, train/, val/, test/.
        split: Which list: train, valid or test. None takes all three.
    """

    kind: ClassVar[str] = "covidx"
    path: Path = Path("data_file/covidx")
    split: str | None = "test"

    def load(self) -> ImageTable:
        """The images of the list, or of all three."""
        rows = pd.concat([self._list(split) for split in self.splits], ignore_index=True)
        files = " and ".join(f"{_FOLDERS[split]}.txt" for split in self.splits)
        return ImageTable(
            f"COVIDx CXR-4 ({files})", rows.drop(columns="label"), one_class(CLASS, rows["label"] == PRESENT)
        )

    def _list(self, split: str) -> pd.DataFrame:
        source, folder = self.path / f"{_FOLDERS[split]}.txt", self.path / _FOLDERS[split]
        lines = read_lines(source, "give the folder that holds train.txt, val.txt, test.txt")
        present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        parsed = [_parse(text, present, folder, f"{source}: line {line}") for line, text in lines.items()]
        rows = pd.DataFrame(parsed, columns=["patient", "name", "label"], index=lines.index)
        check_unique(rows["name"], source)
        paths = [folder / name for name in rows.pop("name")]
        return rows.assign(path=paths, study=[path.stem for path in paths], split=split)


def _parse(text: str, present: Set[str], folder: Path, where: str) -> tuple[str, str, int]:
    """Patient, file name and label of a line."""
    words = re.split(r"(\s+)", text)  # words at even places, what separates them at odd ones
    # From the right, as patients and files may have blanks in their names; a source has at most a few words.
    place = next((place for place in range(len(words) - 1, 3, -1) if words[place].lower() in _CLASSES), None)
    if place is None:
        raise InputError(f"{where}: not of the form: patient file positive|negative source")
    label = _CLASSES[words[place].lower()]
    names = [("".join(words[: cut - 1]), "".join(words[cut : place - 1])) for cut in range(2, place, 2)]
    for patient, name in names:
        if name in present:
            return patient, name, label
    raise InputError(f"{where}: image {names[0][1]} is not in {folder}; download it")
