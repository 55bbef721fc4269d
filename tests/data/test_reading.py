"""What readers share: tables with line numbers, images looked up by name, boxes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medslip.data.datasets.folder import Folder
from medslip.data.images import Header
from medslip.data.reading import check_unique, find_images, path_in, read_box, read_cells
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


def test_tables_keep_the_lines_of_the_file(tmp_path: Path) -> None:
    """Messages must name the line that the user sees in an editor."""
    (tmp_path / "t.csv").write_text("\ufeffa, b,c\n1,2,3\n\n,,\n4,5,6\n", encoding="utf-8")
    cells = read_cells(tmp_path / "t.csv", ("b", "a"))
    assert cells.to_dict("split") == {"index": [2, 5], "columns": ["b", "a"], "data": [["2", "1"], ["5", "4"]]}
    with pytest.raises(InputError, match=r"t\.csv: has no column 'd'; it must have a, d"):
        read_cells(tmp_path / "t.csv", ("a", "d"))
