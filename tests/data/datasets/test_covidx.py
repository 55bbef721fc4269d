"""Reading COVIDx CXR-4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medslip.data.datasets.covidx import Covidx
from medslip.errors import InputError

LISTS = {
    "train": ["3 a.png positive bimcv", "4 b.png negative rsna"],
    "val": ["5 c.png negative rsna", "6 d.jpg positive bimcv"],
    "test": ["7 e.png positive a source of words", "COVID 19 (8) f 1.png negative actmed"],
}


def write_layout(root: Path, **changed: list[str]) -> Path:
    for name, rows in {**LISTS, **changed}.items():
        (root / name).mkdir()
        for file in ("a.png", "b.png", "c.png", "d.jpg", "e.png", "f 1.png"):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / name / file)
        (root / f"{name}.txt").write_text("".join(row + "\n" for row in rows))
    return root


def test_labels_patients_and_folders_of_each_list(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    splits = {split: Covidx(root, split=split).read() for split in ("train", "valid", "test")}
    assert splits["valid"].label_array.tolist() == [[0], [1]]
    assert splits["valid"].paths[1] == tmp_path / "val" / "d.jpg"
    assert splits["train"].patients == ["3", "4"]
    assert splits["train"].classes == ("COVID-19",)


@pytest.mark.parametrize("blank", [" ", "  ", "\t", " \t "])
def test_blanks_in_and_between_patients_files_and_sources(tmp_path: Path, blank: str) -> None:
    """A patient with a blank too many would be another one, and its images be learnt from and tested on."""
    words = (["3", "e.png", "positive", "a source of words"], ["COVID 19 (8)", "f 1.png", "negative", "actmed"])
    images = Covidx(write_layout(tmp_path, test=[blank.join(line) for line in words])).read()
    assert [path.name for path in images.paths] == ["e.png", "f 1.png"]
    assert images.patients == ["3", "COVID 19 (8)"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("8 c.png  rsna", r"test.txt: line 2: not of the form"),
        ("8 positive rsna", r"test.txt: line 2: not of the form"),
        ("c.png", r"test.txt: line 2: not of the form"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Covidx(write_layout(tmp_path, test=["7 e.png positive bimcv", row])).read()


def test_missing_and_empty_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test.txt: not found; give the folder that holds"):
        Covidx(tmp_path).read()
    (tmp_path / "val.txt").write_text("\n \n")
    with pytest.raises(InputError, match=r"val.txt: is empty"):
        Covidx(tmp_path, split="val").read()
    with pytest.raises(InputError, match=r"cannot be read \(Not a directory\); give the folder that holds"):
        Covidx(tmp_path / "val.txt").read()
