"""prepare_data: every source ends in a folder that pre-training can read; patients stay apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from medslip.data.datasets.csv_table import Columns, CsvTable
from medslip.data.datasets.cxr14 import Cxr14
from medslip.data.datasets.mimic_cxr import MimicCxr
from medslip.data.prepared import PreparationSummary, read_list
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.labels import LabelStore
from medslip.tasks.prepare_data import PrepareConfig, run
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"


def read_all(folder: Path) -> dict[str, ImageTable]:
    """The lists of a prepared folder, checked against its store."""
    store = LabelStore(folder / "labels")
    lists = {path.stem: read_list(path) for path in folder.glob("*.csv")}
    for studies in lists.values():
        store.check(studies.images, studies.source)
        assert all(studies.paths[index].is_file() for index in range(len(studies)))
    assert (folder / "summary.json").is_file()
    return lists


def patients(studies: ImageTable) -> set[str]:
    return set(studies.images["patient"])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """40 images of 20 patients."""
    (tmp_path / "images").mkdir()
    lines = ["file,patient,findings"]
    for index in range(40):
        Image.new("L", (6, 6), index).save(tmp_path / "images" / f"i{index}.png")
        lines.append(f"i{index}.png,p{index // 2},{'Mass' if index % 3 else 'No Finding'}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "table.csv"


COLUMNS = Columns(image="file", findings="findings")


def prepare(table: Path, **more: object) -> PreparationSummary:
    data = CsvTable(table, columns=COLUMNS, images=table.parent / "images")
    return run(PrepareConfig(data, table.parent / "out", 0.2, 0.3, **more))  # type: ignore[arg-type]


def test_csv_splits_by_patient_and_its_labels_reach_the_store(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(table)
    lists = read_all(table.parent / "out")
    assert set(lists) == {"train", "valid", "test"}
    assert sum(map(len, lists.values())) == 40
    assert sum(len(patients(studies)) for studies in lists.values()) == 20
    assert "train.csv" in capsys.readouterr().out
    rows = pd.concat([studies.images for studies in lists.values()]).set_index("study")["row"]
    unspecified = LabelStore(table.parent / "out" / "labels").dense(int(rows["i3.png"]))[ANATOMIES.index("unspecified")]
    assert (unspecified[PATHOLOGIES.index("normal")], unspecified[PATHOLOGIES.index("mass")]) == (1, 0)


def test_csv_refuses_a_patient_in_two_splits(table: Path) -> None:
    """The validation would be on what was learnt from."""
    lines = table.read_text().splitlines()
    splits = ["split", *(["train"] * 19 + ["valid"] * 21)]
    table.write_text("".join(f"{line},{split}\n" for line, split in zip(lines, splits, strict=True)))
    with pytest.raises(InputError, match=r"one patient is in train and in valid .*; keep it in one of them"):
        prepare(table)
    assert not (table.parent / "out").exists()


def test_csv_leaves_out_the_patients_of_another_sets_images(table: Path) -> None:
    (table.parent / "tested.txt").write_text("i0.jpg\ni5.jpg\n")
    summary = prepare(table, exclude_images=table.parent / "tested.txt")
    assert summary.left_out["images of excluded patients"] == 4
    everyone = set().union(*(patients(studies) for studies in read_all(table.parent / "out").values()))
    assert everyone == {f"p{index}" for index in range(20)} - {"p0", "p2"}


def test_cxr14_keeps_patients_of_the_test_list_out_of_training(tmp_path: Path) -> None:
    folder = tmp_path / "images_001" / "images"
    folder.mkdir(parents=True)
    rows, names = [], [f"0000000{patient}_00{index}.png" for patient in range(1, 9) for index in range(2)]
    for name in names:
        Image.new("L", (4, 4)).save(folder / name)
        rows.append(f"{name},{'Fibrosis' if name.endswith('0.png') else 'No Finding'},0,{int(name[:8])},50,M,PA")
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(HEADER + "\n".join(rows) + "\n")
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:13]))
    (tmp_path / "test_list.txt").write_text("\n".join(names[13:]))
    summary = run(PrepareConfig(Cxr14(tmp_path), tmp_path / "out", valid_fraction=0.4))
    lists = read_all(tmp_path / "out")
    assert summary.left_out["training images of patients of the test list"] == 1  # the 13th, of patient 7
    assert patients(lists["test"]) == {"7", "8"}
    assert not patients(lists["train"]) & patients(lists["valid"])
    unspecified = LabelStore(tmp_path / "out" / "labels").dense(0)[ANATOMIES.index("unspecified")]
    assert unspecified[PATHOLOGIES.index("tail_abnorm_obs")] == 1
    assert unspecified[PATHOLOGIES.index("normal")] == -1


def test_real_small_set_without_the_patients_of_the_real_test_list(shared: Path, tmp_path: Path) -> None:
    small, whole = shared / "real" / "cxr14_small", shared / "real" / "cxr14"
    data = CsvTable(small / "labels.csv", columns=COLUMNS, images=small / "images")
    run(PrepareConfig(data, tmp_path, test_fraction=0, exclude_images=whole / "test_list.txt"))
    tested = {f"nih:{int(name[:8])}" for name in (whole / "test_list.txt").read_text().split()}
    lists = read_all(tmp_path)
    assert set(lists) == {"train", "valid"}
    assert sum(map(len, lists.values())) == 529
    assert not tested & set().union(*map(patients, lists.values()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cache_size": 0}, "cache_size"),
        ({"workers": -1}, "workers"),
        ({"valid_fraction": 0.5, "test_fraction": 0.6}, "less than 1"),
    ],
)
def test_impossible_numbers_are_refused_before_anything_is_prepared(wrong: dict[str, Any], message: str) -> None:
    """Hours of preparation would end in an error, or in a traceback."""
    with pytest.raises(InputError, match=message):
        PrepareConfig(CsvTable(Path("table.csv")), **wrong)


def test_the_cache_takes_the_images_place_and_equalising_needs_one(table: Path) -> None:
    """The lists would name the images as they are, and the option would do nothing."""
    data = CsvTable(table, columns=COLUMNS, images=table.parent / "images", equalise=True)
    with pytest.raises(InputError, match=r"data\.equalise"):
        PrepareConfig(data)
    found = []
    for equalise in (False, True):
        output = table.parent / str(equalise)
        run(PrepareConfig(replace(data, equalise=equalise), output, cache_size=16, workers=0))
        with Image.open(read_all(output)["train"].paths[0]) as image:
            assert image.size == (16, 16)
            found.append(image.tobytes())
    assert found[0] != found[1]


def test_a_prepared_folder_can_be_moved_with_its_cache(table: Path) -> None:
    """The cache would have to be made again."""
    prepare(table, cache_size=16, workers=0)
    (table.parent / "out").rename(table.parent / "moved")
    lists = read_all(table.parent / "moved")
    assert all(path.is_relative_to(table.parent / "moved") for images in lists.values() for path in images.paths)


def test_a_broken_image_leaves_the_earlier_preparation(table: Path) -> None:
    """Hours of caching would cost what was there before."""
    prepare(table)
    before = (table.parent / "out" / "train.csv").read_bytes()
    (table.parent / "images" / "i7.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"i7\.png"):
        prepare(table, cache_size=16, workers=0, seed=3)
    assert (table.parent / "out" / "train.csv").read_bytes() == before
    read_all(table.parent / "out")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"graphs": None}, "graphs: not given"),
        ({"graphs": Path("no.json")}, r"no\.json: not found"),
        ({}, r"no\.txt"),
    ],
)
def test_missing_files_are_noticed_before_images_are_looked_for(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    """Looking for 377,110 images takes many minutes on a network disk."""
    (tmp_path / "graphs.json").write_text("{}")
    data = MimicCxr(tmp_path / "none", **{"graphs": tmp_path / "graphs.json", **wrong})
    with pytest.raises(InputError, match=message):
        run(PrepareConfig(data, tmp_path / "out", exclude_images=tmp_path / "no.txt"))
    assert not (tmp_path / "out").exists()
