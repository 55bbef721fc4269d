"""What readers share: tables with line numbers, images looked up by name, boxes."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medslip.data import reading
from medslip.data.datasets.folder import Folder
from medslip.data.images import Header
from medslip.data.reading import check_unique, find_images, listed_images, path_in, read_box, read_cells, read_rows
from medslip.errors import InputError
from medslip.phantoms.dicom import uid_of, write_dicom

SOURCE = Path("list.csv")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """a.png, b.dcm and b.png, and c.png in two subfolders."""
    for name in ("one/a.png", "one/b.dcm", "two/b.png", "one/c.png", "two/c.png", "two/d.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


def test_names_with_and_without_suffix_are_found_in_subfolders(folder: Path) -> None:
    found = find_images(pd.Series(["b.png", "a", "b.dcm"], [2, 3, 4]), folder, SOURCE)
    assert found.to_dict() == {2: f"{folder}/two/b.png", 3: f"{folder}/one/a.png", 4: f"{folder}/one/b.dcm"}
    assert find_images(pd.Series([r"x\d/b.dcm"], [2]), folder, SOURCE).tolist() == [f"{folder}/one/b.dcm"]
    assert find_images(pd.Series(["c"], [2]), folder / "two", SOURCE).tolist() == [str(folder / "two" / "c.png")]
    with pytest.raises(InputError, match=r"list\.csv: line 3: image .*one/a\.png is listed twice, also in line 2"):
        find_images(pd.Series(["a", "a.png"], [2, 3]), folder, SOURCE)


def test_a_folder_of_images_is_read_as_archives_and_finder_windows_leave_it(tmp_path: Path) -> None:
    """A DICOM without a suffix would be left out, a hidden file be taken for an image, a link to above be walked for ever."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write_dicom(tmp_path / "mine" / "IM0001", np.zeros((4, 4), np.uint8), Header("p", "F", 50, "PA", 4, 4), uid_of("a"))
    for name in ("1.2.840.5", "DICOMDIR", "c.IMA"):
        shutil.copy(tmp_path / "mine" / "IM0001", tmp_path / "mine" / name)
    for name in ("mine/a.png", "mine/._a.png", "mine/README", "mine/empty", "elsewhere/b.jpg"):
        (tmp_path / name).write_text("" if name.endswith("empty") else "words")
    (tmp_path / "mine" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine" / "above").symlink_to(tmp_path / "mine")
    table = Folder(tmp_path / "mine").read()
    found = [path.relative_to(tmp_path).as_posix() for path in table.paths]
    assert found == ["mine/1.2.840.5", "mine/IM0001", "mine/a.png", "mine/c.IMA", "mine/linked/b.jpg"]
    assert table.left_out == {f"files that are not images ({name})": 1 for name in ("DICOMDIR", "README", "empty")}
    assert find_images(pd.Series(["b"], [2]), tmp_path / "mine", SOURCE).tolist() == [
        str(tmp_path / "mine" / "linked" / "b.jpg")
    ]


@pytest.mark.parametrize(("name", "files"), [("b", ("one/b.dcm", "two/b.png")), ("c.png", ("one/c.png", "two/c.png"))])
def test_a_name_that_may_be_two_files_is_refused(folder: Path, name: str, files: tuple[str, str]) -> None:
    """Which of them is read would depend on the order in which the disk lists them."""
    both = " or ".join(str(folder / file) for file in files)
    with pytest.raises(InputError) as caught:
        find_images(pd.Series(["a", name], [2, 3]), folder, SOURCE)
    assert str(caught.value) == f"list.csv: line 3: image {name} may be {both}; give the folder of the right one"


def test_a_name_without_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"list\.csv: line 2: image d is not in .*; download it, or give its folder"):
        find_images(pd.Series(["d"], [2]), folder, SOURCE)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b", "a"], r"list.csv: line 4: image a is listed twice, also in line 2"),
        (["a", "./x/../a"], r"list.csv: line 3: image a is listed twice, also in line 2"),
        (["a", ""], r"list.csv: line 3: has no image path"),
    ],
)
def test_an_image_listed_twice_or_not_at_all_is_named(names: list[str], message: str) -> None:
    """It would count double, in whatever spelling."""
    with pytest.raises(InputError, match=message):
        check_unique(pd.Series(names, range(2, len(names) + 2)), SOURCE)
    check_unique(pd.Series(["a.png", "x/a.png"], [2, 3]), SOURCE)


@pytest.mark.parametrize(
    ("given", "name", "place"),
    [
        (True, "b/../a.png", "a.png"),
        (True, "link/a.png", "link/a.png"),  # a data folder may be a link
        (True, "{root}/a.png", "a.png"),
        (True, "b\\a.png", "b/a.png"),
        (True, "c\\a.png", "c\\a.png"),  # a file of this literal name
        (True, "../a.png", None),
        (True, "b/../../a.png", None),
        (True, "..\\a.png", None),
        (True, "/etc/a.png", None),
        (True, "{root}/../a.png", None),
        (True, "{root}x/a.png", None),
        (False, "/etc/a.png", "/etc/a.png"),  # as prepared lists and users' own tables have them
        (False, "../a.png", None),
    ],
)
def test_a_name_stays_in_its_folder(tmp_path: Path, given: bool, name: str, place: str | None) -> None:
    """A table from elsewhere could have any file of the machine read, and shown on a run page."""
    root, source = tmp_path / "images", tmp_path / "images" / "list.csv"
    root.mkdir()
    (root / "c\\a.png").touch()
    (root / "link").symlink_to(tmp_path)
    name = name.format(root=root)
    if place is not None:
        assert path_in(root if given else None, name, source, "line 3") == str(root / place)
        return
    shown = re.escape(name.replace("\\", "/"))
    with pytest.raises(InputError, match=rf"list\.csv: line 3: {shown} is outside the folder {root}; list .*inside it"):
        path_in(root if given else None, name, source, "line 3")


NEXT_TO = [("1024", "5", "1", "9"), ("-1", "5", "1", "9"), ("5", "1024", "9", "0.5")]
"""Within what publishers round, but without a pixel in the image."""


@pytest.mark.parametrize("cells", [("0", "0", "1026", "4"), ("-2", "0", "9", "9"), ("1020", "5", "9", "9"), *NEXT_TO])
def test_a_box_outside_the_image_is_refused(cells: tuple[str, str, str, str]) -> None:
    with pytest.raises(InputError, match=r"^here: .*outside the image of 1024"):
        read_box(cells, "here", 1024, 1024)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gzip", "zip"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_tables_as_spreadsheets_write_them_keep_the_lines_of_the_file(
    tmp_path: Path, separator: str, encoding: str, end: str
) -> None:
    """Messages must name the line that the user sees in an editor, also after blank lines and cells of several lines."""
    rows = [" a,b ", '1, "2\n3"', ",", " 4 ,é", "", ","]
    text = "\n".join(rows).replace(",", separator).replace("\n", end)
    path = tmp_path / "t.csv"
    if encoding == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inner.csv", text)
    else:
        path.write_bytes(gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding))
    cells = read_cells(tmp_path / "t.csv", ("b", "a"))
    assert cells.columns.tolist() == ["b", "a"]
    assert cells.replace(r"\r\n?", "\n", regex=True).to_dict("index") == {
        2: {"b": "2\n3", "a": "1"},
        5: {"b": "é", "a": "4"},
    }
    with pytest.raises(InputError, match=r"t\.csv: has no column 'd'; it must have a, d"):
        read_cells(tmp_path / "t.csv", ("a", "d"))


@settings(max_examples=60, deadline=None)
@example(header="x\ty\n", text=["\t\n", "a\tbc\n"], block=20)
@given(
    header=st.sampled_from(["x,y\n", "x\ty\n"]),
    text=st.lists(
        st.sampled_from(["a", "bc", "é", ",", ",", ";", "\n", "\n", "\r\n", "\r", " ", "\t", '"', '"x\n"']), max_size=40
    ),
    block=st.integers(1, 20),
)
def test_a_table_is_the_same_read_in_parts_without_and_with_a_parser(
    tmp_path_factory: pytest.TempPathFactory, header: str, text: list[str], block: int
) -> None:
    """A quote or a blank line within a long table would move cells into other rows, or messages to other lines."""
    path = tmp_path_factory.mktemp("tables") / "t.csv"
    path.write_text(header + "".join(text), newline="")

    def found(**changes: object) -> object:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in changes.items():
                patch.setattr(reading, name, value)
            try:
                return read_cells(path).to_dict("index")
            except InputError as error:
                return str(error)

    parsed = found(_plain_columns=lambda *_: None)
    assert found(_BLOCK=block) == found() == parsed
    if isinstance(parsed, dict):
        rows = read_rows(path)[1:]
        assert {line: [*row, "", ""][:2] for line, row in rows.items()} == {
            line: list(row.values()) for line, row in parsed.items()
        }


PACKED = gzip.compress(b"a,b\n" + bytes(range(32, 127)) * 9, mtime=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n \n", "is empty"),
        (b"a,b\n,\n", "the table has no rows"),
        (b"a,b,a\n1,2,3", "has several columns 'a'; rename all but one"),
        (b"a,b\n1,2\n\n1,2,3,4", "line 4: has 4 cells, but the header has 2; quote cells with ','"),
        (
            b'a,b\n\n"1,2\n3,4\n',
            "line 3: not a row in CSV form (unexpected end of data); look for a quote that is not closed",
        ),
        (
            b"a,\xe4\n",
            "is not text in UTF-8 ('utf-8' codec can't decode byte 0xe4 in position 2: invalid continuation byte)",
        ),
        ("a,b\n1,2".encode("utf-16-le"), "is not a text file: it holds null characters"),
        (PACKED[:-9], "is damaged (Compressed file ended before the end-of-stream marker was reached); get a new copy"),
        (PACKED[:10] + b"\xff" + PACKED[10:], "is damaged (Error -3 while decompressing data: invalid block type)"),
        (b"\x1f\x8b\x01" + PACKED[3:], "is damaged (Unknown compression method); get a new copy"),
        (b"PK\x03\x04", "is a zip archive or an Excel workbook; unpack it, or save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1", "is an Excel workbook; save it as CSV"),
        (b"\n<!DOCTYPE html><html>", "is a web page; download the file itself"),
        (lzma.compress(b"a,b"), "is an xz archive; unpack it"),
    ],
)
def test_what_is_not_a_table_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    """A traceback, or half of a table, for what downloads and spreadsheets leave under the name of a table."""
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_cells(tmp_path / "t.csv")
    assert str(caught.value).startswith(f"{tmp_path / 't.csv'}: {message}")


def test_listed_names_without_a_suffix_find_their_image(folder: Path) -> None:
    """A table whose names have no suffix would be told to give another folder."""
    names = pd.Series(["one/a", "two/d.txt", "two/b"], [2, 3, 4])
    assert listed_images(names, folder, SOURCE).tolist() == [
        f"{folder}/{name}" for name in ("one/a.png", "two/d.txt", "two/b.png")
    ]
    with pytest.raises(InputError, match=r"list\.csv: line 2: image .*/one/d not found"):
        listed_images(pd.Series(["one/d"], [2]), folder, SOURCE)
