"""The phantom corpus on disk: complete, in the publishers' layouts, reproducible, and never half-written."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from medslip.data.mimic_cxr import prepare
from PIL import Image

from medslip.data.cxr14 import read_boxes, read_labelled
from medslip.data.records import read_list
from medslip.errors import InputError
from medslip.phantoms.findings import KINDS
from medslip.tasks.make_phantom import MakePhantomConfig, run
from medslip.vocabulary import CXR14_CLASSES


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MakePhantomConfig:
    output = tmp_path_factory.mktemp("phantom") / "corpus"
    config = MakePhantomConfig(output, studies=40, valid_fraction=0.25, test_fraction=0.25, side=64, workers=1)
    run(config)
    return config


@pytest.fixture(scope="module")
def truth(config: MakePhantomConfig) -> pd.DataFrame:
    return pd.read_csv(config.output / "findings.csv")


def test_truth_names_every_study_once_and_patients_stay_in_one_split(truth: pd.DataFrame) -> None:
    """A patient of the training split could be tested on."""
    assert list(truth.columns) == ["image", "study", "patient", "split", "view", "sex", "age", *KINDS]
    assert len(truth) == truth["study"].nunique() == truth["image"].nunique() == 40
    assert set(truth["split"]) == {"train", "valid", "test"}
    assert (truth.groupby("patient")["split"].nunique() == 1).all()


def test_mimic_layout_is_complete(config: MakePhantomConfig, truth: pd.DataFrame) -> None:
    """A reader of MIMIC-CXR-JPG would miss a file, a row or a column."""
    root = config.output / "mimic_cxr"
    with gzip.open(root / "mimic-cxr-2.0.0-metadata.csv.gz", "rt") as file:
        metadata = pd.read_csv(file)
    with gzip.open(root / "mimic-cxr-2.0.0-split.csv.gz", "rt") as file:
        split = pd.read_csv(file)
    assert {"dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"} <= set(metadata.columns)
    assert list(split.columns) == ["dicom_id", "study_id", "subject_id", "split"]
    assert set(split["split"]) == {"train", "validate", "test"}
    for row in metadata.itertuples():
        folder = root / "files" / f"p{str(row.subject_id)[:2]}" / f"p{row.subject_id}" / f"s{row.study_id}"
        assert Image.open(folder / f"{row.dicom_id}.jpg").size == (64, 64)
        assert "IMPRESSION:" in folder.with_suffix(".txt").read_text()
    assert sorted("s" + metadata["study_id"].astype(str)) == sorted(truth["study"])


def test_graphs_are_keyed_as_published(config: MakePhantomConfig, truth: pd.DataFrame) -> None:
    """The graphs could not be joined with their images."""
    graphs = json.loads((config.output / "radgraph" / "MIMIC-CXR_graphs.json").read_text())
    keys = {f"p{patient[1:3]}/{patient}/{study}.txt" for patient, study in zip(truth.patient, truth.study, strict=True)}
    assert set(graphs) == keys
    assert all(set(graph) == {"text", "entities", "data_source", "data_split"} for graph in graphs.values())


def test_the_readers_of_real_data_read_it(config: MakePhantomConfig, tmp_path: Path) -> None:
    """The demo would not walk the path that real data walks."""
    prepare(config.output / "mimic_cxr", config.output / "radgraph" / "MIMIC-CXR_graphs.json", tmp_path / "prepared")
    lists = [read_list(tmp_path / "prepared" / f"{name}.csv") for name in ("train", "valid", "test")]
    assert sum(len(studies) for studies in lists) == 40


def test_cxr14_layout_holds_every_study(config: MakePhantomConfig, truth: pd.DataFrame) -> None:
    """Labels, lists or boxes of the ChestX-ray14 layout would not fit the phantoms."""
    root = config.output / "cxr14"
    for list_file, splits in (("test_list.txt", ["test"]), ("train_val_list.txt", ["train", "valid"])):
        images = read_labelled(root, Path(list_file))
        rows = truth[truth["split"].isin(splits)]
        assert len(images) == len(rows)
        assert images.labels is not None
        for column, name in enumerate(images.classes):
            kind = CXR14_CLASSES[name]
            expected = rows[kind].to_numpy() if kind in KINDS else np.zeros(len(rows))
            np.testing.assert_array_equal(images.labels[:, column], expected)
    assert all(
        box.x >= 0 and box.y >= 0 and box.x + box.width <= 1024 and box.y + box.height <= 1024
        for box in read_boxes(root)
    )


def test_findings_agree_with_their_masks(config: MakePhantomConfig, truth: pd.DataFrame) -> None:
    """Boxes, masks and the truth table would contradict one another."""
    lines = [json.loads(line) for line in (config.output / "findings.jsonl").read_text().splitlines()]
    assert len(lines) == truth[list(KINDS)].to_numpy().sum()
    for line in lines:
        assert truth.set_index("image").loc[line["image"], line["pathology"]] == 1
        mask = Image.open(config.output / line["mask"])
        left, top, right, bottom = mask.getbbox()
        assert mask.mode == "1"
        assert line["box"] == [left, top, right - left, bottom - top]


def test_a_corpus_of_the_same_config_is_reused(config: MakePhantomConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run would draw everything again."""
    before = (config.output / "findings.csv").stat().st_mtime_ns
    run(config)
    assert (config.output / "findings.csv").stat().st_mtime_ns == before
    assert "already" in capsys.readouterr().out


def test_two_processes_write_what_one_writes(config: MakePhantomConfig, tmp_path: Path) -> None:
    """The corpus would depend on the number of processes."""
    other = replace(config, output=tmp_path / "corpus", workers=2)
    run(other)
    files = sorted(path.relative_to(other.output) for path in other.output.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(config.output) for path in config.output.rglob("*") if path.is_file())
    for file in files:
        assert (config.output / file).read_bytes() == (other.output / file).read_bytes(), file
    assert not list(tmp_path.glob("*.partial*"))


def test_what_is_there_stays(config: MakePhantomConfig, tmp_path: Path) -> None:
    """Another seed would replace a corpus that models were trained on, with whatever else lies in it."""
    with pytest.raises(InputError, match="drawn with seed 0, not 4; remove it, or name another folder"):
        run(replace(config, seed=4))
    assert (config.output / "findings.csv").is_file()
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "notes.txt").write_text("mine")
    run(replace(config, output=tmp_path / "new", studies=2))
    assert (tmp_path / "new.partial" / "notes.txt").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the folder"):
        run(replace(config, output=tmp_path / "file" / "corpus"))


def test_a_folder_that_is_not_a_corpus_is_left_alone(config: MakePhantomConfig, tmp_path: Path) -> None:
    """A mistyped output would delete a user's files."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a phantom corpus"):
        run(replace(config, output=tmp_path))
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("wrong", [{"side": 32}, {"studies": 0}, {"workers": 0}, {"seed": -1}, {"test_fraction": 0.9}])
def test_values_out_of_range_raise(config: MakePhantomConfig, wrong: dict[str, float]) -> None:
    """A wrong value would end in a traceback, or in an empty corpus."""
    with pytest.raises(InputError):
        run(replace(config, **wrong))  # type: ignore[arg-type]
