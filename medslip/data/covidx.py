"""COVIDx CXR-4 in the publisher's layout: train.txt, val.txt, test.txt beside the folders train/, val/, test/.

A line reads "patient-id file-name class source", separated by blanks; class is positive or negative.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import numpy as np

from medslip.data.checks import refuse_duplicates
from medslip.data.labelled import LabelledImages
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
    lines = _read_lines(source)
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


def _read_lines(source: Path) -> list[tuple[int, str]]:
    """(number, text) of every line that is not blank."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{source}: list not found; give the folder that holds train.txt, val.txt, test.txt") from None
    except UnicodeDecodeError:
        raise InputError(f"{source}: not a text file") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{source}: the list is empty")
    return lines


def _parse(text: str, present: Set[str], folder: Path, where: str) -> tuple[str, str, int]:
    """Patient, file name and label of a line."""
    words = text.split(" ")
    # From the right, as patients and files may have blanks in their names; a source has at most a few words.
    place = next((place for place in range(len(words) - 1, 1, -1) if words[place].lower() in _CLASSES), None)
    if place is None:
        raise InputError(f"{where}: {text!r} is not of the form: patient file positive|negative source")
    label = _CLASSES[words[place].lower()]
    names = [(" ".join(words[:cut]), " ".join(words[cut:place])) for cut in range(1, place)]
    for patient, name in names:
        if name in present:
            return patient, name, label
    raise InputError(f"{where}: image {names[0][1]} is not in {folder}; download it")
