"""Reading RSNA Pneumonia: the publisher's layout and the authors' list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medslip.data.datasets.rsna import Rsna
from medslip.data.images import Header
from medslip.errors import InputError
from medslip.phantoms.dicom import uid_of, write_dicom

ROWS = ["p1,,,,,0", "p2,10.0,20,30.5,40,1", "p3,1,2,3,4,1", "p2,500,20,30,40,1"]


def write_layout(root: Path, rows: list[str] = ROWS) -> Path:
    folder = root / "stage_2_train_images"
    folder.mkdir(parents=True)
    for name in ("p1", "p2", "p3"):
        write_dicom(
            folder / f"{name}.dcm", np.full((8, 6), 9, np.uint8), Header(name, "M", 7, "AP", 0, 0), uid_of(name)
        )
    (root / "stage_2_train_labels.csv").write_text(
        "patientId,x,y,width,height,Target\n" + "".join(row + "\n" for row in rows)
    )
    return root


def test_one_image_a_patient_with_all_its_boxes(tmp_path: Path) -> None:
    """Images would count once for each box, or lose boxes."""
    boxed = Rsna(write_layout(tmp_path)).read()
    assert [path.name for path in boxed.paths] == ["p1.dcm", "p2.dcm", "p3.dcm"]
    assert boxed.label_array.tolist() == [[0], [1], [1]]
    assert [len(found[0].boxes) if (found := boxed.findings_of(k)) else 0 for k in range(3)] == [0, 2, 1]
    assert boxed.findings_of(1)[0].boxes[0] == (10, 20, 30.5, 40)
    assert boxed.patients == ["p1", "p2", "p3"]
    assert boxed.metadata.iloc[0].tolist() == ["AP", "M", 7]


def test_pictures_can_stand_for_the_dicom_files(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    (root / "png").mkdir()
    for name in ("p1", "p2", "p3"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / "png" / f"{name}.png")
    assert Rsna(root, images=root / "png").read().paths[0].name == "p1.png"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["p1,,,,,0", "p2,1000,1,30,4,1"], r"labels.csv: line 3: the box .* lies outside the image of 1024 x 1024"),
        (["p2,-5,1,30,4,1"], r"line 2: the box .* lies outside"),
        (["p2,1,1,0,4,1"], r"line 2: the box .* is empty"),
        (["p2,nan,1,5,4,1"], r"line 2: the box .* is empty or infinite"),
        (["p2,1,one,30,4,1"], r"line 2: the box .* is not four numbers"),
        (["p2,1,1,30,4,0"], r"line 2: p2 has label 0 and 1 boxes"),
        (["p2,,,,,1"], r"line 2: p2 has label 1 and 0 boxes"),
        (["p2,,,,,2"], r"line 2, column 'target': '2' is not 0 or 1"),
        (["p1,,,,,0", "p1,,,,,0"], r"line 3: p1 is already in line 2"),
        (["p1,,,,,0", "p1,1,1,3,4,1"], r"line 3: p1 is already in line 2"),
        (["p1,,,,,0", "p9,,,,,0"], r"line 3: image p9 is not in"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rsna(write_layout(tmp_path, rows)).read()


def write_authors_list(root: Path, boxes: str = "1;2;3;4|5;6;7;8") -> Path:
    write_layout(root)
    path = root / "authors.csv"
    path.write_text(f"ID,img_path,boxes,classes\np2,/their/disk/p2.dcm,{boxes},1\np1,/their/disk/p1.dcm,nan,0\n")
    return path


def test_authors_list(tmp_path: Path) -> None:
    boxed = Rsna(write_authors_list(tmp_path), images=tmp_path / "stage_2_train_images").read()
    assert [path.name for path in boxed.paths] == ["p2.dcm", "p1.dcm"]
    assert boxed.label_array.tolist() == [[1], [0]]
    assert boxed.findings_of(0)[0].boxes == ((1, 2, 3, 4), (5, 6, 7, 8))
    with pytest.raises(InputError, match=r"authors.csv: line 2: image /their/disk/p2.dcm not found; give the folder"):
        Rsna(tmp_path / "authors.csv").read()


@pytest.mark.parametrize("boxes", ["1;2;3", "1;2;3;4;5", "1;2;3;4|", "1;2;x;4"])
def test_authors_box_of_another_form_is_named(tmp_path: Path, boxes: str) -> None:
    with pytest.raises(InputError, match=r"authors.csv: line 2: the box"):
        Rsna(write_authors_list(tmp_path, boxes), images=tmp_path).read()


def test_real_labels_on_their_real_images(shared: Path, tmp_path: Path) -> None:
    """132 images of the publisher's table, 66 with boxes, given as an authors' list of PNG."""
    folder = shared / "real" / "cxr14"
    table = pd.read_csv(folder / "rsna_stage_2_train_labels_subset.csv")
    png = pd.read_csv(folder / "rsna_to_nih.csv").set_index("rsna_id")["png"]
    lines = ["ID,img_path,boxes,classes"]
    for name, rows in table.groupby("patientId", sort=False):
        marked = [";".join(map(str, box)) for box in rows.dropna()[["x", "y", "width", "height"]].to_numpy()]
        lines.append(f"{name},{png[name]},{'|'.join(marked) or 'nan'},{rows['Target'].max()}")
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    boxed = Rsna(tmp_path / "list.csv", images=folder / "images_001").read()
    assert (len(boxed), int(boxed.label_array.sum())) == (132, 66)
    assert len(boxed.findings) == table["x"].notna().sum()
