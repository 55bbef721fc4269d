"""The prepared folder: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medslip.data.manifest import read_list
from medslip.data.prepared import PreparedWriter
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.labels import Cells, LabelStore, mention


def write(folder: Path, splits: list[str], patients: list[str] | None = None) -> None:
    with PreparedWriter(folder, "test") as writer:
        rows = [writer.add(f"s{index}", {(0, index): 1}) for index in range(len(splits))]
        images = pd.DataFrame({"path": [folder / f"{row}.png" for row in rows], "row": rows, "split": splits})
        images["study"] = [f"s{row}" for row in rows] if patients is None else "s"
        images["patient"] = patients or [f"p{row}" for row in rows]
        writer.finish(ImageTable("test", images.assign(view="PA", sex="M", age=40.0)).images, {})


def test_lists_and_store_fit(tmp_path: Path) -> None:
    write(tmp_path, ["train", "test", "train"])
    studies = read_list(tmp_path / "train.csv")
    store = LabelStore(tmp_path / "labels")
    store.check(studies.images["row"], studies.images["study"], studies.source)
    assert studies.images["row"].tolist() == [0, 2]
    assert studies.images.iloc[1][["patient", "view", "sex", "age"]].tolist() == ["p2", "PA", "M", 40]
    assert studies.paths[1] == tmp_path / "2.png"


def test_a_second_preparation_leaves_no_list_of_the_first(tmp_path: Path) -> None:
    write(tmp_path, ["train", "test"])
    write(tmp_path, ["train", "valid"])
    assert sorted(path.name for path in tmp_path.glob("*.csv")) == ["train.csv", "valid.csv"]


def test_an_error_leaves_the_earlier_preparation_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, ["train", "test"])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="study s belongs to patients p and q"):
        write(tmp_path, ["train", "train"], ["p", "q"])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_nothing_left_says_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image is left to prepare \\(3 images not found\\)"):  # noqa: SIM117
        with PreparedWriter(tmp_path / "new", "test") as writer:
            writer.finish(pd.DataFrame({"path": []}), {"images not found": 3})
    assert list(tmp_path.iterdir()) == []


def test_present_wins_over_absent_in_any_order() -> None:
    for states in ((0, 1), (1, 0)):
        cells: Cells = {}
        for state in states:
            mention(cells, 3, 4, state)
        assert cells == {(3, 4): 1}


def test_an_empty_train_list_is_remarked_on(tmp_path: Path) -> None:
    """A mistyped split would only be found when pre-training starts."""
    write(tmp_path, ["test", "valid"])
    assert "train list is empty" in (tmp_path / "summary.json").read_text()
    write(tmp_path, ["train"])
    assert "train list is empty" not in (tmp_path / "summary.json").read_text()
