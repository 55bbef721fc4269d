"""The table reader: columns, lists of findings, splits, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medslip.data.datasets.csv_table import Columns, CsvTable
from medslip.data.table import ImageTable
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
LISTED = Columns(image="file", findings="findings")


def write(folder: Path, text: str) -> Path:
    for name in ("a", "b", "c"):
        Image.new("L", (2, 2)).save(folder / f"{name}.png")
    (folder / "table.csv").write_text(text)
    return folder / "table.csv"


def read(path: Path, **options: Any) -> ImageTable:
    return CsvTable(path, **{"patients": "unknown", **options}).read()


def test_one_column_per_class(tmp_path: Path) -> None:
    table = CsvTable(write(tmp_path, COLUMNS)).read()
    assert table.classes == ("effusion", "Lung Opacity")
    assert table.label_array.tolist() == [[1, 0], [0, -1], [-1, 1]]
    assert table.patients == ["p1", "p1", "p2"]
    assert table.images["sex"].tolist() == ["F", "F", "M"]
    np.testing.assert_array_equal(table.images["age"], [61, 61, np.nan])
    assert table.images["split"].tolist() == ["train", "train", "valid"]
    assert table.images["study"].tolist() == ["a.png", "b.png", "c.png"]
    assert not table.images["normal"].any()


def test_a_list_of_findings_leaves_unlisted_classes_absent_and_an_empty_list_unknown(tmp_path: Path) -> None:
    table = read(write(tmp_path, LIST), columns=LISTED)
    assert table.classes == ("Effusion", "Edema")
    assert table.label_array.tolist() == [[1, 1], [0, 0], [-1, -1]]
    assert table.images["normal"].tolist() == [False, True, False]
    assert not table.images["split"].any()


@pytest.mark.parametrize("pair", ["\"['Effusion', 'Edema']\"", '"[""Effusion"", ""Edema""]"'])
def test_lists_as_python_and_json_write_them_are_the_same(tmp_path: Path, pair: str) -> None:
    """Brackets and quotes would become part of the class names, and every positive a negative."""
    table = read(write(tmp_path, f"file,findings\na.png,{pair}\nb.png,['No Finding']\nc.png,[]\n"), columns=LISTED)
    assert table.classes == ("Effusion", "Edema")
    assert table.label_array.tolist() == [[1, 1], [0, 0], [-1, -1]]
    assert table.images["normal"].tolist() == [False, True, False]


def test_only_some_splits(tmp_path: Path) -> None:
    table = CsvTable(write(tmp_path, COLUMNS), split="valid").read()
    assert [path.name for path in table.paths] == ["c.png"]
    assert len(CsvTable(tmp_path / "table.csv", split="train+valid").read()) == 3
    with pytest.raises(InputError, match="no row has split 'test'"):
        CsvTable(tmp_path / "table.csv", split="test").read()


def test_a_no_finding_column_is_no_class(tmp_path: Path) -> None:
    table = read(write(tmp_path, "image,No Finding,mass\na.png,1,0\nb.png,0,1\n"))
    assert table.classes == ("mass",)
    assert table.images["normal"].tolist() == [True, False]


def test_mapped_and_unknown_classes_are_taken_and_emptied_ones_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "image,covid,mass,shadow,glow,words\na.png,1,0,1,1,good\n")
    assert read(path, classes={"covid": "opacity", "shadow": ""}).classes == ("covid", "mass", "glow")


def test_rows_without_text_are_skipped_and_lines_counted_as_an_editor_does(tmp_path: Path) -> None:
    """Spreadsheets leave rows of commas at the end; messages must name the line that the user sees."""
    path = write(tmp_path, "image,mass\n\na.png,1\n,\nb.png,0\n,\n")
    assert len(read(path)) == 2
    with pytest.raises(InputError, match=r"line 5, column 'mass': 'x'"):
        read(write(tmp_path, "image,mass\n\na.png,1\n,\nb.png,x\n"))


PATTERN = r"(?P<patient>p\d+)/(?P<study>s\d+)/"


def test_patients_must_be_known_or_said_to_be_unknown(tmp_path: Path) -> None:
    """Without patients, one patient's images would be in training and in test."""
    path = write(tmp_path, "image,mass\np1/s1/a.png,1\np1/s1/b.png,0\np2/s3/c.png,0\n")
    for index, folder in enumerate(("p1/s1", "p1/s1", "p2/s3")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{'abc'[index]}.png").rename(tmp_path / folder / f"{'abc'[index]}.png")
    with pytest.raises(InputError, match=r"table\.csv: lists no patients, .*columns\.patient.*path_pattern.*unknown"):
        CsvTable(path).read()
    assert CsvTable(path, patients="unknown").read().patients == [""] * 3
    images = CsvTable(path, path_pattern=PATTERN).read().images
    assert images["patient"].tolist() == ["p1", "p1", "p2"]
    assert images["study"].tolist() == ["s1", "s1", "s3"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "not a regular expression"),
        ("(p)", r"must have a group"),
        ("(?P<patient>q)", r"line 2: .* does not match 'a"),
    ],
)
def test_a_bad_pattern_is_named(tmp_path: Path, pattern: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(write(tmp_path, "image,mass\na.png,1\n"), path_pattern=pattern)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("image,mass\na.png,2\n", {}, r"line 2, column 'mass': '2' is not 1, 0, -1 or empty"),
        ("image,words\na.png,good\n", {}, r"no column is named after a class"),
        ("image,mass\na.png,1\n./a.png,0\n", {}, r"line 3: image .*a\.png is listed twice"),
        ("image,mass,mass\na.png,1,0\n", {}, r"has several columns 'mass'"),
        ("image,mass\na.png,1\n", {"columns": Columns(patient="who")}, r"no column 'who' for the patient"),
        ("image,mass,split\na.png,1,x\n", {}, r"line 2: split 'x'"),
        ("image,mass\na.png,1\n", {"split": "test"}, r"no column 'split'"),
        ("image,mass\na.png,1\n", {"classes": {"q": "mass"}}, r"no column 'q'"),
        ("image,mass,age\na.png,1,-3\n", {}, r"line 2, column 'age': '-3' is not an age"),
        ("image,mass,age\na.png,1,old\n", {}, r"line 2, column 'age': 'old' is not an age"),
        ("path,mass\na.png,1\n", {}, r"no column 'image' for the image path"),
        ("image,mass\n", {}, r"the table has no rows"),
        ("file,findings\na.png,Edema|No Finding\n", {"columns": LISTED}, r"line 2: 'No Finding' is listed with"),
        ("file,findings\na.png,['Edema'\n", {"columns": LISTED}, r"line 2: .* is not a complete list"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path: Path, text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(write(tmp_path, text), **options)
    assert "\n" not in str(caught.value)


def test_the_classes_of_a_list_are_those_of_the_whole_table(tmp_path: Path) -> None:
    """A finding that a split happens to lack would leave it with other classes than the other splits."""
    text = "file,split,findings\na.png,train,Edema|Mass\nb.png,test,Edema\nc.png,test,\n"
    images = read(write(tmp_path, text), columns=LISTED, split="test")
    assert images.classes == ("Mass", "Edema")
    assert images.label_array.tolist() == [[0, 1], [-1, -1]]


def test_sexes_and_ages_are_read_as_hospitals_write_them_and_nonsense_is_no_group(tmp_path: Path) -> None:
    """ "Unknown" as a sex of its own, or a lost DICOM age, would falsify the scores by subgroup."""
    images = read(write(tmp_path, "image,mass,sex,age\na.png,1,Unknown,058Y\nb.png,0,male,unknown\n")).images
    assert images["sex"].tolist() == ["", "M"]
    np.testing.assert_array_equal(images["age"], [58, np.nan])


def test_real_small_set(shared: Path) -> None:
    folder = shared / "real" / "cxr14_small"
    table = CsvTable(folder / "labels.csv", columns=LISTED, images=folder / "images").read()
    assert (len(table), len(table.classes)) == (645, 14)
    assert int(table.images["normal"].sum()) == 243
    assert (table.images["normal"] == (table.label_array == 0).all(axis=1)).all()
