"""Finding the image files that a table names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medslip.data.images import Header, uid_of, write_dicom
from medslip.data.labelled import find_images, read_folder
from medslip.errors import InputError

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
    found = find_images(["b.png", "a", "a.png", "b.dcm"], [2, 3, 4, 5], [folder], SOURCE)
    assert [path.relative_to(folder).as_posix() for path in found] == [
        "two/b.png",
        "one/a.png",
        "one/a.png",
        "one/b.dcm",
    ]
    assert find_images(["c"], [2], [folder / "two"], SOURCE) == [folder / "two" / "c.png"]


def test_a_folder_of_images_is_read_as_archives_and_finder_windows_leave_it(tmp_path: Path) -> None:
    """A DICOM without a suffix would be left out, a hidden file be taken for an image, a link to above be walked for ever."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write_dicom(tmp_path / "mine" / "IM0001", np.zeros((4, 4), np.uint8), Header("p", "F", 50, "PA", 4, 4), uid_of("a"))
    for name in ("mine/a.png", "mine/._a.png", "mine/README", "mine/empty", "elsewhere/b.jpg"):
        (tmp_path / name).write_text("" if name.endswith("empty") else "words")
    (tmp_path / "mine" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine" / "above").symlink_to(tmp_path / "mine")
    found = [path.relative_to(tmp_path).as_posix() for path in read_folder(tmp_path / "mine").paths]
    assert found == ["mine/IM0001", "mine/a.png", "mine/linked/b.jpg"]
    assert find_images(["b"], [2], [tmp_path / "mine"], SOURCE) == [tmp_path / "mine" / "linked" / "b.jpg"]


@pytest.mark.parametrize(("name", "files"), [("b", ("one/b.dcm", "two/b.png")), ("c.png", ("one/c.png", "two/c.png"))])
def test_a_name_that_may_be_two_files_is_refused(folder: Path, name: str, files: tuple[str, str]) -> None:
    """Which of them is read would depend on the order in which the disk lists them."""
    both = " or ".join(str(folder / file) for file in files)
    with pytest.raises(InputError) as caught:
        find_images(["a", name], [2, 3], [folder], SOURCE)
    assert str(caught.value) == f"list.csv: line 3: image {name} may be {both}; name the folder of the right one"


def test_a_name_without_a_file_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"list\.csv: line 2: image d is not in .*; download it, or name its folder"):
        find_images(["d"], [2], [folder], SOURCE)
