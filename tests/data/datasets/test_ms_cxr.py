"""Reading MS-CXR: sentences with boxes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from medslip.data.datasets.ms_cxr import MsCxr
from medslip.data.table import Finding
from medslip.errors import InputError

HEADER = "category_name,label_text,path,x,y,w,h,image_width,image_height,dicom_id,split"
A, B = "files/p10/p10000032/s50414267/a.jpg", "files/p11/p11000000/s51000000/b.jpg"
ROWS = (
    f'Pneumonia,"Opacity, left base",{A},1,2,3,4,40,30,a,test',
    f'Pneumonia,"Opacity, left base",{A},10,2,5,5,40,30,a,test',
    f"Pneumonia,Right base opacity,{A},20,2,5,5,40,30,a,test",
    f"Edema,Mild edema,{B},0,0,40,30,40,30,b,val",
)


def write(root: Path, *rows: str, header: str = HEADER) -> MsCxr:
    """The publisher's folder, and MIMIC-CXR-JPG's."""
    for name in (A, B):
        (root / "jpg" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 30)).save(root / "jpg" / name)
    (root / "MS_CXR_Local_Alignment_v1.1.0.csv").write_text("\n".join((header, *rows)) + "\n")
    return MsCxr(root, images=root / "jpg")


def test_the_boxes_of_a_sentence_on_an_image_are_one_finding(tmp_path: Path) -> None:
    """Each box would be scored as if it were all that the sentence says, or two sentences as one."""
    table = write(tmp_path, *ROWS).read()
    assert table.paths == [tmp_path / "jpg" / A, tmp_path / "jpg" / B]
    assert table.images[["patient", "study", "split"]].to_numpy().tolist() == [
        ["p10000032", "s50414267", "test"],
        ["p11000000", "s51000000", "valid"],
    ]
    assert table.frame(0) == (30, 40)
    assert table.findings_of(0) == [
        Finding("Pneumonia", ((1, 2, 3, 4), (10, 2, 5, 5)), text="Opacity, left base"),
        Finding("Pneumonia", ((20, 2, 5, 5),), text="Right base opacity"),
    ]
    assert table.finding_classes == ("Edema", "Pneumonia")


def test_a_version_without_splits_is_read_as_a_whole(tmp_path: Path) -> None:
    data = write(tmp_path, *(row.rpartition(",")[0] for row in ROWS), header=HEADER.rpartition(",")[0])
    assert len(data.read()) == 2
    with pytest.raises(InputError, match="has no column 'split'"):
        MsCxr(tmp_path, images=tmp_path / "jpg", split="test").read()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROWS[0].replace("p10000032/", ""), "line 2: path .* is not of the form files/p10"),
        (ROWS[3].replace("Mild edema", ""), "line 2: has no sentence"),
        (ROWS[3].replace("40,30,b", "40,3²,b"), "line 2: image_width or image_height is not a whole number"),
        (ROWS[3].replace("0,0,40,30", "0,0,50,30"), "line 2: the box .* lies outside the image of 40 x 30"),
        (ROWS[3].replace("val", "dev9"), "line 2: split 'dev9'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write(tmp_path, row).read()
