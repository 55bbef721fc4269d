"""The ChestX-ray14 reader: publisher's layout, authors' list, boxes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medslip.data.datasets.cxr14 import Cxr14
from medslip.data.table import Finding
from medslip.errors import InputError
from medslip.vocabulary import CXR14_CLASSES as CLASSES

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
def test_labels_follow_the_lists_in_their_order(tmp_path: Path, sex: str) -> None:
    """Labels would be of other images, or the publisher's test patients not be kept apart."""
    root = write_layout(tmp_path, sex=sex)
    (root / "train_val_list.txt").write_text("00000001_001.png\n")
    images = Cxr14(root, split=None).read()
    assert images.classes == CLASSES
    assert [path.name for path in images.paths] == ["00000001_001.png", "00000002_000.png", "00000001_000.png"]
    present = [[CLASSES[column] for column in np.flatnonzero(row)] for row in images.label_array]
    assert present == [[], ["Pleural_Thickening"], ["Effusion", "Mass"]]
    assert (images.label_array >= 0).all()
    assert images.images["normal"].tolist() == [True, False, False]
    assert images.images["split"].tolist() == ["train", "test", "test"]
    assert images.patients == ["1", "2", "1"]
    assert images.images["sex"].tolist() == ["M", "F", "M"]
    assert images.images["view"].tolist() == ["AP", "PA", "PA"]
    np.testing.assert_array_equal(images.images["age"], [58, np.nan, 58])  # nobody is 411
    assert Cxr14(root).read().paths == images.paths[1:]
    assert len(Cxr14(root, list=Path("train_val_list.txt")).read()) == 1
    with pytest.raises(InputError, match="no list of valid images"):
        Cxr14(root, split="valid").read()


@pytest.mark.parametrize(
    ("rows", "listed", "message"),
    [
        ((ROWS[0].replace("Mass", "Mas"),), "", r"Data_Entry.*line 2.*'Mas'"),
        ((*ROWS, ROWS[0]), "", r"Data_Entry.*: line 5: image 00000001_000.png is listed twice, also in line 2"),
        (ROWS, "00000001_000.png\n\n\n9.png\n", r"mine.txt: line 4: 9.png is not in"),
        (ROWS, "00000001_000.png \u00e9", r"mine.txt: is not text in UTF-8"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: tuple[str, ...], listed: str, message: str) -> None:
    """Which labels count could not be said; lines are counted as an editor does."""
    root = write_layout(tmp_path, rows)
    (root / "mine.txt").write_bytes((listed or "00000001_000.png").encode("latin-1"))
    with pytest.raises(InputError, match=message):
        Cxr14(root, list=root / "mine.txt").read()


@pytest.mark.parametrize("named", [True, False])
def test_authors_list_by_names_or_by_position(tmp_path: Path, named: bool) -> None:
    root = write_layout(tmp_path)
    order = list(reversed(CLASSES)) if named else list(CLASSES)
    header = [name.lower() if named else f"c{index}" for index, name in enumerate(order)]
    values = ["1" if name in ("Hernia", "Effusion") else "0" for name in order]
    (tmp_path / "list.csv").write_text(
        f"path,text,{','.join(header)}\n/far/away/00000001_000.png,words,{','.join(values)}\n"
    )
    images = Cxr14(tmp_path / "list.csv", images=root).read()
    assert [CLASSES[column] for column in np.flatnonzero(images.label_array[0])] == ["Effusion", "Hernia"]
    assert images.patients == ["1"]
    assert images.paths[0].is_file()


def test_authors_list_refuses_a_label_that_is_no_label(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    (tmp_path / "list.csv").write_text(f"path,{','.join(CLASSES)}\n00000001_000.png,{','.join(['0'] * 13)},yes\n")
    with pytest.raises(InputError, match=r"line 2, column 'Hernia': 'yes'"):
        Cxr14(tmp_path / "list.csv", images=root).read()


BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"


def test_boxes_of_the_listed_images_are_read_with_the_label_spelt_as_the_class(tmp_path: Path) -> None:
    """Boxes of another list's images would be scored, and an Infiltrate be no Infiltration."""
    root = write_layout(tmp_path)
    rows = ["00000002_000.png,Infiltrate,1.5,2,30,40,,,", "00000001_001.png,Mass,1,2,3,4,,,"]
    rows += ["00000001_000.png,Mass,101,200,300,400,,,", "00000001_000.png,Mass,102,200,300,400,,,"]
    (root / "BBox_List_2017.csv").write_text(BOXES + "\n".join(rows))
    images = Cxr14(root).read()
    assert images.finding_classes == ("Infiltration", "Mass")
    assert images.findings_of(0) == [Finding("Infiltration", ((1.5, 2, 30, 40),))]
    assert images.findings_of(1) == [Finding("Mass", ((101, 200, 300, 400), (102, 200, 300, 400)))]
    assert images.frame(0) == (1024, 1024)
    for finding, message in (
        ("Mass,1.5,two,30,40", r"line 2: the box"),
        ("Mass,1000,2,30,40", r"line 2: the box .* outside the image of 1024 x 1024"),
        ("Masses,1,2,30,40", r"line 2: unknown class 'Masses'"),
    ):
        (root / "BBox_List_2017.csv").write_text(f"{BOXES}00000001_000.png,{finding},,,\n")
        with pytest.raises(InputError, match=message):
            Cxr14(root).read()


def test_real_subset_as_published(shared: Path) -> None:
    root = shared / "real" / "cxr14"
    test, train = (Cxr14(root, split=split).read() for split in ("test", "train"))
    assert (len(test), len(train)) == (73, 71)
    assert not set(test.patients) & set(train.patients)
    assert dict(zip(CLASSES, test.label_array.sum(axis=0).tolist(), strict=True))["Pneumonia"] == 48
    assert test.findings is not None
    assert train.findings is not None
    boxes = pd.concat([test.findings, train.findings])[["x", "y", "width", "height"]]
    assert len(boxes) == 29
    assert boxes.stack().between(0, 1024).all()
