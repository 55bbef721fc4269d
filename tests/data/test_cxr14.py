"""The ChestX-ray14 reader: publisher's layout, authors' list, boxes, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medslip.data.cxr14 import CLASSES, Box, read_authors_list, read_boxes, read_labelled
from medslip.errors import InputError

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient {sex},View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = (
    "00000001_000.png,Effusion|Mass,0,1,58,M,PA,2500,2048,0.17,0.17",
    "00000001_001.png,No Finding,1,1,058Y,M,AP,2500,2048,0.17,0.17",
    "00000002_000.png,Pleural_Thickening,0,2,411,F,PA,2500,2048,0.17,0.17",
)


def write_layout(root: Path, rows: tuple[str, ...] = ROWS, sex: str = "Gender") -> Path:
    lines = [HEADER.format(sex=sex), *rows]
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
    for index, row in enumerate(rows):
        folder = root / f"images_00{index % 2 + 1}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(folder / row.split(",")[0])
    (root / "test_list.txt").write_text("00000002_000.png\n00000001_000.png\n")
    return root


@pytest.mark.parametrize("sex", ["Gender", "Sex"])
def test_labels_follow_the_list_in_its_order(tmp_path: Path, sex: str) -> None:
    root = write_layout(tmp_path, sex=sex)
    images = read_labelled(root, Path("test_list.txt"))
    assert images.classes == CLASSES
    assert [path.name for path in images.paths] == ["00000002_000.png", "00000001_000.png"]
    assert all(path.is_file() for path in images.paths)
    assert images.labels is not None
    present = [[CLASSES[column] for column in np.flatnonzero(row)] for row in images.labels]
    assert present == [["Pleural_Thickening"], ["Effusion", "Mass"]]
    assert images.patients == ["2", "1"]
    assert images.sexes == ["F", "M"]
    assert images.views == ["PA", "PA"]


def test_whole_table_no_finding_is_all_absent_and_impossible_ages_are_unknown(tmp_path: Path) -> None:
    images = read_labelled(write_layout(tmp_path))
    assert images.labels is not None
    assert images.labels[1].tolist() == [0] * 14
    np.testing.assert_array_equal(images.ages, [58, 58, np.nan])


def test_unknown_finding_names_its_line(tmp_path: Path) -> None:
    root = write_layout(tmp_path, (*ROWS[:2], ROWS[2].replace("Pleural_Thickening", "Efusion")))
    with pytest.raises(InputError, match=r"Data_Entry.*line 4.*'Efusion'"):
        read_labelled(root)


def test_listed_image_without_a_row_is_named(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    (root / "mine.txt").write_text("00000001_000.png\n00000009_000.png\n")
    with pytest.raises(InputError, match=r"mine.txt: line 2: 00000009_000.png is not in"):
        read_labelled(root, root / "mine.txt")


def test_lines_of_a_list_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    (root / "mine.txt").write_text("00000001_000.png\n\n\n00000009_000.png\n")
    with pytest.raises(InputError, match=r"mine.txt: line 4: 00000009_000.png is not in"):
        read_labelled(root, root / "mine.txt")
    (root / "mine.txt").write_bytes("00000001_000.png \u00e9".encode("latin-1"))
    with pytest.raises(InputError, match=r"mine.txt: not a text file in UTF-8"):
        read_labelled(root, root / "mine.txt")


def test_an_image_with_two_rows_is_refused(tmp_path: Path) -> None:
    """Which of its labels counts could not be said."""
    root = write_layout(tmp_path, (*ROWS, ROWS[0]))
    for list_file in (None, Path("test_list.txt")):
        with pytest.raises(
            InputError, match=r"Data_Entry.*: line \d+: image 00000001_000.png is listed twice, also in line 2"
        ):
            read_labelled(root, list_file)


def test_missing_image_file_is_named(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    (root / "images_001" / "images" / "00000002_000.png").unlink()
    with pytest.raises(InputError, match=r"test_list.txt: line 1: image 00000002_000.png"):
        read_labelled(root, Path("test_list.txt"))


@pytest.mark.parametrize("named", [True, False])
def test_authors_list_by_names_or_by_position(tmp_path: Path, named: bool) -> None:
    root = write_layout(tmp_path)
    order = list(reversed(CLASSES)) if named else list(CLASSES)
    header = [name.lower() if named else f"c{index}" for index, name in enumerate(order)]
    values = ["1" if name in ("Hernia", "Effusion") else "0" for name in order]
    (tmp_path / "list.csv").write_text(
        f"path,text,{','.join(header)}\n/far/away/00000001_000.png,words,{','.join(values)}\n"
    )
    images = read_authors_list(tmp_path / "list.csv", root)
    assert images.labels is not None
    assert [CLASSES[column] for column in np.flatnonzero(images.labels[0])] == ["Effusion", "Hernia"]
    assert images.patients == ["1"]
    assert images.paths[0].is_file()


def test_authors_list_refuses_a_label_that_is_no_label(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    (tmp_path / "list.csv").write_text(f"path,{','.join(CLASSES)}\n00000001_000.png,{','.join(['0'] * 13)},yes\n")
    with pytest.raises(InputError, match=r"line 2, column 'Hernia': 'yes'"):
        read_authors_list(tmp_path / "list.csv", root)


def test_boxes_are_read_with_the_label_spelt_as_the_class(tmp_path: Path) -> None:
    (tmp_path / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Infiltrate,1.5,2,30,40,,,\n"
    )
    assert read_boxes(tmp_path) == [Box("00000001_000.png", "Infiltration", 1.5, 2, 30, 40)]


def test_box_of_no_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Mass,1.5,two,30,40,,,\n"
    )
    with pytest.raises(InputError, match=r"line 2: the box"):
        read_boxes(tmp_path)


def test_real_subset_as_published(shared: Path) -> None:
    root = shared / "real" / "cxr14"
    test, train = (read_labelled(root, Path(name)) for name in ("test_list.txt", "train_val_list.txt"))
    assert (len(test), len(train)) == (73, 71)
    assert not set(test.patients) & set(train.patients)
    assert test.labels is not None
    assert dict(zip(CLASSES, test.labels.sum(axis=0).tolist(), strict=True))["Pneumonia"] == 48
    boxes = read_boxes(root)
    assert len(boxes) == 29
    assert all(0 <= value <= 1024 for box in boxes for value in dataclasses.astuple(box)[2:])
