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

COLUMNS = """image,patient,split,sex,age,effusion,Lung Opacity,No Finding,covid,shadow,glow,note
a.png,p1,train,Female,058Y,1,0,0,1,1,1,1 word
b.png,p1,train,Unknown,61,0,-1,1,0,1,0,none
c.png,p2,validate,male,unknown,,1,,0,0,1,none
"""
LIST = """file,patient,split,findings
a.png,p1,train,Edema|Effusion
b.png,p2,test,No Finding
c.png,p3,test,
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
    """ "Unknown" as a sex of its own, or a lost DICOM age, would falsify the scores by subgroup."""
    path, classes = write(tmp_path, COLUMNS), {"covid": "opacity", "shadow": ""}
    table = CsvTable(path, classes=classes).read()
    assert table.classes == ("effusion", "Lung Opacity", "covid", "glow")
    assert table.label_array.tolist() == [[1, 0, 1, 1], [0, -1, 0, 0], [-1, 1, 0, 1]]
    assert table.patients == ["p1", "p1", "p2"]
    assert table.images["sex"].tolist() == ["F", "", "M"]
    np.testing.assert_array_equal(table.images["age"], [58, 61, np.nan])
    assert table.images["split"].tolist() == ["train", "train", "valid"]
    assert table.images["study"].tolist() == ["a.png", "b.png", "c.png"]
    assert table.images["normal"].tolist() == [False, True, False]
    assert CsvTable(path, classes=classes, split="valid").read().paths == table.paths[2:]
    assert CsvTable(path, classes=classes, split="train+valid").read().paths == table.paths
    with pytest.raises(InputError, match="no row has split 'test'"):
        CsvTable(path, split="test").read()


def test_a_list_of_findings_leaves_unlisted_classes_absent_and_an_empty_list_unknown(tmp_path: Path) -> None:
    """A finding that a split happens to lack would leave it with other classes than the other splits."""
    path = write(tmp_path, LIST)
    table = read(path, columns=LISTED)
    assert table.classes == ("Effusion", "Edema")
    assert table.label_array.tolist() == [[1, 1], [0, 0], [-1, -1]]
    assert table.images["normal"].tolist() == [False, True, False]
    test = read(path, columns=LISTED, split="test")
    assert test.classes == table.classes
    assert test.label_array.tolist() == [[0, 0], [-1, -1]]


@pytest.mark.parametrize("pair", ["\"['Effusion', 'Edema']\"", '"[""Effusion"", ""Edema""]"'])
def test_lists_as_python_and_json_write_them_are_the_same(tmp_path: Path, pair: str) -> None:
    """Brackets and quotes would become part of the class names, and every positive a negative."""
    table = read(write(tmp_path, f"file,findings\na.png,{pair}\nb.png,['No Finding']\nc.png,[]\n"), columns=LISTED)
    assert table.classes == ("Effusion", "Edema")
    assert table.label_array.tolist() == [[1, 1], [0, 0], [-1, -1]]
    assert table.images["normal"].tolist() == [False, True, False]


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
    ("text", "options", "message"),
    [
        ("image,mass\na.png,1\n", {"path_pattern": "("}, "not a regular expression"),
        ("image,mass\na.png,1\n", {"path_pattern": "(p)"}, "must have a group"),
        ("image,mass\na.png,1\n", {"path_pattern": "(?P<patient>q)"}, "line 2: .* does not match 'a"),
        ("image,mass\na.png,2\n", {}, r"line 2, column 'mass': '2' is not 1, 0, -1 or empty"),
        ("image,words\na.png,good\n", {}, r"no column is named after a class"),
        ("image,mass\na.png,1\n../b.png,0\n", {}, r"line 3: \.\./b\.png is outside the folder"),
        ("image,mass\n/etc/b.png,0\n", {"images": Path("x")}, r"line 2: /etc/b\.png is outside the folder x;"),
        ("image,mass\na.png,1\n./a.png,0\n", {}, r"line 3: image .*a\.png is listed twice"),
        ("image,mass,mass\na.png,1,0\n", {}, r"has several columns 'mass'"),
        (
            "image,mass\na.png,1\n",
            {"columns": Columns(patient="who")},
            r"no column 'who' for the patient; .* \(key data.columns.patient\)",
        ),
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


def test_classes_that_differ_in_punctuation_have_one_order(tmp_path: Path) -> None:
    """The processes of a training would disagree on the columns of the labels, as the order of a set varies."""
    names = ["a b", "a-b", "a_b", "A b", "A_B", "A-b", "a.b"]
    table = write(tmp_path, f"file,findings\na.png,{'|'.join(names)}\n")
    assert read(table, columns=LISTED).classes == tuple(sorted(names))


def test_real_small_set(shared: Path) -> None:
    folder = shared / "real" / "cxr14_small"
    table = CsvTable(folder / "labels.csv", columns=LISTED, images=folder / "images").read()
    assert (len(table), len(table.classes)) == (645, 14)
    assert int(table.images["normal"].sum()) == 243
    assert (table.images["normal"] == (table.label_array == 0).all(axis=1)).all()
