"""COVIDx CXR-4 in the publisher's layout: train.txt, val.txt, test.txt beside the folders train/, val/, test/.

A line reads "patient-id file-name class source", separated by blanks; class is positive or negative.
"""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path

import numpy as np

from medslip.data.checks import refuse_duplicates
from medslip.data.labelled import LabelledImages
from medslip.data.lists import read_lines
from medslip.data.splits import split_name
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT

CLASS = "COVID-19"

_FOLDERS = {"train": "train", "valid": "val", "test": "test"}
_CLASSES = {"positive": PRESENT, "negative": ABSENT}


def read_labelled(root: Path, split: str = "test") -> LabelledImages:
    """The images of one list, labelled 1 where COVID-19 was found.

    Args:
        root: The publisher's folder.
        split: Which list: train, valid (val) or test.

    Raises:
        InputError: The list or an image is missing, an image is listed twice, or a line is not as published; the
            message names the file and line.
    """
    split = split_name(split, "split")
    source = Path(root) / f"{_FOLDERS[split]}.txt"
    folder = Path(root) / _FOLDERS[split]
    lines = read_lines(source, "give the folder that holds train.txt, val.txt, test.txt")
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    rows = [_parse(text, present, folder, f"{source}: line {line}") for line, text in lines]
    names = [name for _, name, _ in rows]
    refuse_duplicates(names, [line for line, _ in lines], source)
    unknown = [""] * len(rows)
    return LabelledImages(
        name=f"COVIDx CXR-4 ({source.name})",
        classes=(CLASS,),
        paths=[folder / name for name in names],
        labels=np.array([[label] for _, _, label in rows], np.int8),
        patients=[patient for patient, _, _ in rows],
        views=list(unknown),
        sexes=list(unknown),
        ages=np.full(len(rows), np.nan),
    )


def _parse(text: str, present: Set[str], folder: Path, where: str) -> tuple[str, str, int]:
    """Patient, file name and label of a line."""
    words = re.split(r"(\s+)", text)  # words at even places, what is between them at odd ones
    # From the right, as patients and files may have blanks in their names; a source has at most a few words.
    place = next((place for place in range(len(words) - 1, 3, -1) if words[place].lower() in _CLASSES), None)
    if place is None:
        raise InputError(f"{where}: {text!r} is not of the form: patient file positive|negative source")
    label = _CLASSES[words[place].lower()]
    names = [("".join(words[: cut - 1]), "".join(words[cut : place - 1])) for cut in range(2, place, 2)]
    for patient, name in names:
        if name in present:
            return patient, name, label
    raise InputError(f"{where}: image {names[0][1]} is not in {folder}; download it")
