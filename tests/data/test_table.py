"""The table reader: columns, lists of findings, splits, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medslip.data.table import TableLayout, read_table
from medslip.errors import InputError

COLUMNS = """image,patient,split,sex,age,effusion,Lung Opacity,note
a.png,p1,train,Female,61,1,0,1 word
b.png,p1,train,F,61,0,-1,none
c.png,p2,validate,M,,,1,none
"""
LIST = """file,patient,findings
a.png,p1,Edema|Effusion
b.png,p2,No Finding
c.png,p3,
"""
LISTED = TableLayout(image="file", findings="findings")


def write(folder: Path, text: str) -> Path:
    for name in ("a", "b", "c"):
        Image.new("L", (2, 2)).save(folder / f"{name}.png")
    (folder / "table.csv").write_text(text)
    return folder / "table.csv"


def test_one_column_a_class(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, COLUMNS))
    images = table.images
    assert images.classes == ("effusion", "Lung Opacity")
    assert images.labels is not None
    assert images.labels.tolist() == [[1, 0], [0, -1], [-1, 1]]
    assert (images.patients, images.sexes) == (["p1", "p1", "p2"], ["F", "F", "M"])
    np.testing.assert_array_equal(images.ages, [61, 61, np.nan])
    assert table.splits == ["train", "train", "valid"]
    assert table.studies == ["a.png", "b.png", "c.png"]
    assert not table.normal.any()


def test_a_list_of_findings_leaves_unlisted_classes_absent_and_an_empty_list_unknown(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, LIST), LISTED)
    assert table.images.classes == ("Effusion", "Edema")
    assert table.images.labels is not None
    assert table.images.labels.tolist() == [[1, 1], [0, 0], [-1, -1]]
    assert table.normal.tolist() == [False, True, False]
    assert table.splits is None


def test_only_one_split(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, COLUMNS), split="valid")
    assert [path.name for path in table.images.paths] == ["c.png"]
    with pytest.raises(InputError, match="no row is of the split 'test'"):
        read_table(tmp_path / "table.csv", split="test")


def test_a_no_finding_column_is_no_class(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "image,No Finding,mass\na.png,1,0\nb.png,0,1\n"))
    assert table.images.classes == ("mass",)
    assert table.normal.tolist() == [True, False]


def test_mapped_classes_are_taken_and_emptied_ones_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "image,covid,mass,shadow\na.png,1,0,1\n")
    layout = TableLayout(classes={"covid": "opacity", "shadow": ""})
    assert read_table(path, layout).images.classes == ("covid", "mass")


@pytest.mark.parametrize(
    ("text", "layout", "message"),
    [
        ("image,covid\na.png,1\n", TableLayout(), r"column 'covid' holds labels of an unknown class; map it"),
        ("image,mass\na.png,2\n", TableLayout(), r"line 2, column 'mass': '2' is not 1, 0, -1 or empty"),
        ("image,words\na.png,good\n", TableLayout(), r"no column is named after a class"),
        ("image,mass\na.png,1\na.png,0\n", TableLayout(), r"line 3: image .*a\.png is listed twice"),
        ("image,mass\na.png,1\n./a.png,0\n", TableLayout(), r"line 3: image .*a\.png is listed twice"),
        ("image,mass,mass\na.png,1,0\n", TableLayout(), r"has several columns 'mass'"),
        ("image,mass\nz.png,1\n", TableLayout(), r"line 2: image .*z.png not found"),
        ("image,mass\na.png,1\n", TableLayout(patient="who"), r"no column 'who' for the patient"),
        ("image,mass,split\na.png,1,x\n", TableLayout(), r"line 2: split 'x'"),
        ("image,mass\na.png,1\n", TableLayout(classes={"q": "mass"}), r"no column 'q'"),
        ("image,mass,age\na.png,1,-3\n", TableLayout(), r"line 2, column 'age': '-3' is no age"),
        ("image,mass,age\na.png,1,old\n", TableLayout(), r"line 2, column 'age': 'old' is no age"),
        ("path,mass\na.png,1\n", TableLayout(), r"no column 'image' for the image path"),
        ("image,mass\n", TableLayout(), r"the table has no rows"),
        ("file,findings\na.png,Oedema\n", LISTED, r"line 2: unknown class 'Oedema'; map it"),
        ("file,findings\na.png,Edema|No Finding\n", LISTED, r"line 2: 'No Finding' stands beside"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path: Path, text: str, layout: TableLayout, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_table(write(tmp_path, text), layout)
    assert "\n" not in str(caught.value)


def test_the_classes_of_a_list_are_those_of_the_whole_table(tmp_path: Path) -> None:
    """A finding that a split happens to lack would leave it with other classes than the split beside it."""
    text = "file,split,findings\na.png,train,Edema|Mass\nb.png,test,Edema\nc.png,test,\n"
    images = read_table(write(tmp_path, text), LISTED, split="test").images
    assert images.classes == ("Mass", "Edema")
    assert images.labels is not None
    assert images.labels.tolist() == [[0, 1], [-1, -1]]


def test_sexes_and_ages_are_read_as_hospitals_write_them_and_nonsense_is_no_group(tmp_path: Path) -> None:
    """ "Unknown" as a sex of its own, or a DICOM age lost, would falsify the scores by subgroup."""
    images = read_table(write(tmp_path, "image,mass,sex,age\na.png,1,Unknown,058Y\nb.png,0,male,unknown\n")).images
    assert images.sexes == ["", "M"]
    np.testing.assert_array_equal(images.ages, [58, np.nan])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="file not found"):
        read_table(tmp_path / "none.csv")


def test_real_small_set(shared: Path) -> None:
    folder = shared / "real" / "cxr14_small"
    table = read_table(folder / "labels.csv", LISTED, folder / "images")
    assert len(table.images) == 645
    assert len(table.images.classes) == 14
    assert table.images.labels is not None
    assert int(table.normal.sum()) == 243
    assert (table.normal == (table.images.labels == 0).all(axis=1)).all()


@pytest.mark.parametrize("asked", [["covid-19"], ["COVID-19"]])
def test_a_class_that_a_prompt_answers_for_needs_no_pathology(tmp_path, asked):
    """Its labels would be refused, or left out without a word."""
    columns = write(tmp_path, COLUMNS.replace("Lung Opacity", "Covid-19"))
    with pytest.raises(InputError, match="column 'Covid-19' holds labels of an unknown class"):
        read_table(columns)
    images = read_table(columns, asked=asked).images
    assert images.classes == ("effusion", "Covid-19")
    assert images.labels.tolist() == [[1, 0], [0, -1], [-1, 1]]
    listed = write(tmp_path, LIST.replace("|Effusion", "|Covid-19"))
    with pytest.raises(InputError, match="line 2: unknown class 'Covid-19'"):
        read_table(listed, LISTED)
    images = read_table(listed, LISTED, asked=asked).images
    assert images.classes == ("Edema", "Covid-19")
    assert images.labels.tolist() == [[1, 1], [0, 0], [-1, -1]]
