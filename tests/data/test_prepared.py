"""The prepared folder: written whole or not at all, described by its summary, and read back with wrong lines named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medslip.data import reading
from medslip.data.datasets.prepared import Prepared
from medslip.data.prepared import (
    PreparationSummary,
    check_output,
    read_image_list,
    read_list,
    summarise,
    write_list,
    write_prepared,
)
from medslip.data.reading import check_files
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.labels import A, Cells, LabelStore, LabelStoreWriter, P, mention
from medslip.labels.store import study_key


def write(
    folder: Path,
    splits: list[str],
    patients: list[str] | None = None,
    studies: list[Cells] | None = None,
    left_out: dict[str, int] | None = None,
    notes: tuple[str, ...] = (),
) -> PreparationSummary:
    """Prepare one image per split that is named, each of its own study unless patients are given."""
    store = LabelStoreWriter()
    cells = studies or [{(0, index): 1} for index in range(len(splits))]
    rows = [store.add(f"s{index}", each) for index, each in enumerate(cells)]
    images = pd.DataFrame({"path": [folder / f"{row}.png" for row in rows], "row": rows, "split": splits})
    images["study"] = [f"s{row}" for row in rows] if patients is None else "s"
    images["patient"] = patients or [f"p{row}" for row in rows]
    table = ImageTable("test", images.assign(view="PA", sex="M", age=40.0))
    return write_prepared(folder, "test", store, table.images, left_out or {}, notes)


def test_lists_and_store_fit(tmp_path: Path) -> None:
    write(tmp_path, ["train", "test", "train"])
    studies = read_list(tmp_path / "train.csv")
    store = LabelStore(tmp_path / "labels")
    store.check(studies.images, studies.source)
    assert studies.images["row"].tolist() == [0, 2]
    assert studies.images.iloc[1][["patient", "view", "sex", "age"]].tolist() == ["p2", "PA", "M", 40]
    assert studies.paths[1] == tmp_path / "2.png"


def test_a_second_preparation_replaces_the_first_or_leaves_it_as_it_was(tmp_path: Path) -> None:
    """A mistyped split, which leaves no train list, would only be found when pre-training starts."""
    write(tmp_path, ["test", "valid"])
    assert "train list is empty" in (tmp_path / "summary.json").read_text()
    write(tmp_path, ["train", "valid"])
    assert "train list is empty" not in (tmp_path / "summary.json").read_text()
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["train.csv", "valid.csv"]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"0\.png and .*1\.png are of one study, but of different patients"):
        write(tmp_path, ["train", "train"], ["p", "q"])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


class Killed(BaseException):
    """Stands for SIGKILL."""


CHANGES = (
    *((Path, name) for name in ("mkdir", "replace", "rmdir", "unlink", "write_text")),
    *((shutil, "rmtree"), (np, "save"), (pd.DataFrame, "to_csv")),
)
"""What changes files."""


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".partial" not in str(path))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_preparation_that_is_killed_anywhere_changes_all_or_nothing_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of one preparation and labels of another would mix splits, or patients with the reports of others."""
    before, after = ["train", "valid"], ["test", "train", "train"]
    write(tmp_path / "old", before)
    write(tmp_path / "new", after)
    old, new = content(tmp_path / "old"), content(tmp_path / "new")
    interrupted = 0
    for moment in range(1000):
        folder, calls = tmp_path / str(moment), count()
        write(folder, before)

        def killing(change: Callable[..., Any], calls: Iterator[int], moment: int) -> Callable[..., Any]:
            def changed(*arguments: Any, **options: Any) -> Any:
                if next(calls) >= moment:
                    raise Killed
                return change(*arguments, **options)

            return changed

        with monkeypatch.context() as patch:
            for owner, name in CHANGES:
                patch.setattr(owner, name, killing(getattr(owner, name), calls, moment))
            try:
                write(folder, after)
                break
            except Killed:
                pass
        if (folder / ".new").exists():
            interrupted += 1
            with pytest.raises(InputError, match=r"interrupted; run the same prepare_data\.py command again"):
                read_list(folder / "train.csv")
        else:
            assert content(folder) in (old, new)
        check_output(folder)
        assert content(folder) in (old, new)
        write(folder, after)
        assert content(folder) == new
        assert not list(folder.rglob("*.partial*"))
    assert moment > 20
    assert interrupted > 4


def test_a_list_of_another_preparation_is_bad_input(tmp_path: Path) -> None:
    """A patient could be both in train.csv and in valid.csv."""
    write(tmp_path / "a", ["train", "valid"])
    write(tmp_path / "b", ["valid", "train"])
    for name in ("valid.csv", "mine.csv"):
        shutil.copy(tmp_path / "b" / "valid.csv", tmp_path / "a" / name)
    Prepared(tmp_path / "a" / "mine.csv").read()
    Prepared(tmp_path / "a" / "train.csv").read()
    with pytest.raises(InputError, match=r"valid\.csv: is not the list that was prepared with .*; run prepare_data"):
        Prepared(tmp_path / "a" / "valid.csv").read()


def test_an_output_that_cannot_be_used_is_an_error_at_once(tmp_path: Path) -> None:
    """Another folder would be overwritten, or the data set be read before it turns out that nothing can be written."""
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="labels: exists and is not a label store; choose another output"):
        check_output(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match=r"file.out"):
        check_output(tmp_path / "file" / "out")


def test_nothing_left_says_why(tmp_path: Path) -> None:
    store = LabelStoreWriter()
    with pytest.raises(InputError, match="no images are left to prepare \\(3 images not found\\)"):
        write_prepared(tmp_path / "new", "test", store, pd.DataFrame({"path": []}), {"images not found": 3})
    assert not list(tmp_path.rglob("*.*"))


def test_present_wins_over_absent_in_any_order() -> None:
    for states in ((0, 1), (1, 0)):
        cells: Cells = {}
        for state in states:
            mention(cells, 3, 4, state)
        assert cells == {(3, 4): 1}


CELLS = st.dictionaries(st.tuples(st.integers(0, A - 1), st.integers(0, P - 1)), st.integers(0, 1), max_size=9)


@settings(max_examples=40, deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=6))
def test_the_summary_counts_the_matrices(tmp_path_factory: pytest.TempPathFactory, studies: list[Cells]) -> None:
    """The summary would not describe the store."""
    store, folder = LabelStoreWriter(), tmp_path_factory.mktemp("store") / "labels"
    for index, cells in enumerate(studies):
        store.add(f"s{index}", cells)
    store.write(folder)
    written = LabelStore(folder)
    matrices = np.stack([written.dense(row) for row in range(len(studies))])
    summary = summarise(written, "x", {"train": 1}, {})
    sizes = (matrices >= 0).sum(axis=(1, 2))
    assert (summary.studies, summary.present, summary.absent) == (
        len(studies), (matrices == 1).sum(), (matrices == 0).sum()
    )  # fmt: skip
    assert summary.cells_mean == pytest.approx(sizes.mean())
    assert (summary.cells_median, summary.cells_max) == (np.median(sizes), sizes.max())
    seen = [pair["present"] + pair["absent"] for pair in summary.pairs]
    assert seen == sorted((matrices >= 0).sum(axis=0).ravel(), reverse=True)[: len(seen)]


def test_the_summary_is_written_and_readable(tmp_path: Path) -> None:
    """The most frequent pair comes first, and summary.json misses nothing that the text shows."""
    studies: list[Cells] = [{(4, 8): 0}, {(4, 8): 1, (0, 0): 1}, {(4, 8): 1}]
    left_out = {"images of view LL": 3, "nothing": 0}
    summary = write(tmp_path, ["train"] * 3, studies=studies, left_out=left_out, notes=("A note.",))
    data = json.loads((tmp_path / "summary.json").read_text())
    assert data["images"] == {"train": 3}
    assert data["pairs"] == [
        {"anatomy": "left_pleural", "pathology": "effusion", "present": 2, "absent": 1},
        {"anatomy": "trachea", "pathology": "normal", "present": 1, "absent": 0},
    ]
    text = str(summary)
    assert text.index("left_pleural") < text.index("trachea")
    assert "3  images of view LL" in text
    assert "nothing" not in text
    assert "A note." in text


def table(**columns):
    return pd.DataFrame(
        {"image": ["a.png", "b/ü.png"], "study": ["s1", "01"], "patient": ["p1", "007"], "row": [3, 0]} | columns
    )


def test_list_comes_back_as_it_was_written(tmp_path):
    """Names of digits must stay text: patient 007 is not patient 7."""
    write_list(tmp_path / "deep" / "train.csv", table(view=["PA", ""], age=[61.5, np.nan]))
    studies = read_list(tmp_path / "deep" / "train.csv")
    assert len(studies) == 2
    assert studies.images["patient"].tolist() == ["p1", "007"]
    assert studies.images["study"].tolist() == ["s1", "01"]
    assert studies.images["view"].tolist() == ["PA", ""]
    assert studies.images["sex"].tolist() == ["", ""]
    assert studies.images["row"].dtype == np.int64
    assert studies.images["row"].tolist() == [3, 0]
    assert studies.images["age"].iloc[0] == 61.5
    assert np.isnan(studies.images["age"].iloc[1])
    assert studies.paths[1] == tmp_path / "deep" / "b" / "ü.png"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["train.csv"]
    write_list(tmp_path / "test.csv", table(image=["/data/a.png", "/data/b.png"]).drop(columns="row"))
    without_store = read_list(tmp_path / "test.csv")
    assert str(without_store.paths[0]) == "/data/a.png"
    assert without_store.images["row"].tolist() == [-1, -1]


def test_missing_images_are_counted_and_the_first_named(tmp_path):
    """Hours would be spent on those that exist."""
    write_list(tmp_path / "train.csv", table())
    (tmp_path / "a.png").touch()
    studies = read_list(tmp_path / "train.csv")
    with pytest.raises(InputError, match=r"train\.csv: line 3: image .*b/ü\.png not found; get the image"):
        check_files(studies.images["path"], studies.images["line"], studies.source, advice="get the image")


HEADER = "image,study,patient,view,sex,age,row\n"


@pytest.mark.parametrize("read", [read_list, read_image_list])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (HEADER, "the table has no rows"),
        ("image,study,row\na.png,s,0\n", "has no column 'patient'"),
        (HEADER + "a.png,s,p,,,,0\nb.png,s,p,,,,x\n", "line 3: row 'x' is not the number of a row"),
        (HEADER + "a.png,s,p,,,,1.5\n", "line 2: row '1.5' is not the number of a row"),
        (HEADER + "a.png,s,p,,,,inf\n", "line 2: row 'inf' is not the number of a row"),
        (HEADER + f"a.png,s,p,,,,{10**20}\n", "line 2: row '10+' is not the number of a row"),
        (HEADER + "a.png,s,p,,,,0\na.png,t,p,,,,1\n", "line 3: image a.png is listed twice"),
        (HEADER + ",s,p,,,,0\n", "line 2: has no image path"),
        (HEADER + "../a.png,s,p,,,,0\n", "line 2: ../a.png is outside the folder"),
        (HEADER + '"a.png,s\n', "line 2: not a row in CSV form"),
        (HEADER + "a.png,s,p,,,,0,9\nb.png,s\n", "line 2: has 8 cells, but the header has 7"),
    ],
)
def test_unusable_list_is_one_line_with_file_and_line(tmp_path, text, words, read):
    """Row 1.5 read as row 1 would be another patient's report."""
    path = tmp_path / "train.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as refused:
        read(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


NAMES = ["a.png", "b/ü.png", "/data/c.png", "./d.png", "e\\f.png", "g.png", ".h.png"]


@pytest.mark.parametrize("block", [1, 100, 10_000])
def test_both_readers_of_a_list_agree(tmp_path, monkeypatch, block):
    """Pre-training would see other images, or other labels, than evaluation on the same list."""
    monkeypatch.setattr(reading, "_BLOCK", block)
    studies = [f"s{number}" for number in range(len(NAMES))]
    rows = pd.DataFrame(
        {"image": NAMES, "study": studies, "patient": [*"pqrsp", "", "ä"], "row": ["3", "0", *"12", "", *"45"]}
    )
    rows.to_csv(tmp_path / "train.csv", index=False)
    table, compact = read_list(tmp_path / "train.csv"), read_image_list(tmp_path / "train.csv")
    assert len(compact) == len(table) == len(NAMES)
    for column in ("path", "patient", "row", "line"):
        assert list(compact.images[column]) == table.images[column].tolist()
    assert compact.images["key"].tolist() == [study_key(study) for study in studies]
    with (tmp_path / "train.csv").open("a") as file:
        file.write("b/./ü.png,s,p,7\n")
    for read in (read_list, read_image_list):
        with pytest.raises(InputError, match=r"train\.csv: line 9: image b/ü\.png is listed twice, also in line 3"):
            read(tmp_path / "train.csv")


def test_files_are_found_in_crowded_folders_and_alone(tmp_path):
    """A missing image would end the training hours later; a folder of an image's name is none."""
    names = [f"{'many' if number % 4 else number}/{number}.png" for number in range(80)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    paths = [str(tmp_path / name) for name in names]
    check_files(paths, range(2, 82), "train.csv")
    for number in (50, 40):
        (tmp_path / names[number]).unlink()
        (tmp_path / names[number]).mkdir()
        with pytest.raises(InputError, match=rf"line {number + 2}: image .*{names[number]} not found; get it"):
            check_files(paths, range(2, 82), "train.csv", advice="get it")


def test_missing_or_unreadable_list_is_bad_input(tmp_path):
    with pytest.raises(InputError, match="list not found; make it with prepare_data"):
        read_list(tmp_path / "none.csv")
    with pytest.raises(InputError, match="list not found"):
        read_list(tmp_path)
    (tmp_path / "bytes.csv").write_bytes(b"image,study\n\xff\xfe,\x00")
    with pytest.raises(InputError, match="is not text in UTF-8"):
        read_list(tmp_path / "bytes.csv")
