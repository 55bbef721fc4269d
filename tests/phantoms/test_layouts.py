"""The phantom corpus on disk, as the readers of real data read it: COCO and the layouts of five public data sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medslip.config import phantom_config
from medslip.data.datasets.coco import Coco
from medslip.data.datasets.covidx import Covidx
from medslip.data.datasets.cxr14 import Cxr14
from medslip.data.datasets.rsna import CLASS, Rsna
from medslip.data.datasets.siim_acr import SiimAcr
from medslip.data.images import read_image
from medslip.data.table import check_shared
from medslip.phantoms.findings import KINDS
from medslip.phantoms.layouts import COVIDX_POSITIVE, RSNA_OPACITIES
from medslip.tasks import make_phantom, prepare_data
from medslip.tasks.make_phantom import MakePhantomConfig
from medslip.vocabulary import CXR14_CLASSES, pathology_of

SIDE = 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("phantom") / "corpus"
    config = MakePhantomConfig(output, studies=50, valid_fraction=0.5, test_fraction=0.4, side=SIDE, workers=1)
    return make_phantom.run(config)


@pytest.fixture(scope="module")
def truth(corpus: Path) -> pd.DataFrame:
    """All studies, by the name of their image."""
    table = pd.read_csv(corpus / "findings.csv")
    return table.set_axis(pd.Index([Path(image).stem for image in table["image"]]))


@pytest.fixture(scope="module")
def held_out(truth: pd.DataFrame) -> pd.DataFrame:
    return truth[truth["split"] != "train"]


@pytest.fixture(scope="module")
def findings(corpus: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (corpus / "findings.jsonl").read_text().splitlines()]


def drawn_mask(corpus: Path, finding: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(corpus / finding["mask"]))


def test_truth_names_every_study_once_and_patients_stay_in_one_split(truth: pd.DataFrame) -> None:
    """A patient of the training split could be tested on."""
    assert list(truth.columns) == ["image", "study", "patient", "split", "view", "sex", "age", *KINDS]
    assert len(truth) == truth["study"].nunique() == truth["image"].nunique() == 50
    assert set(truth["split"]) == {"train", "valid", "test"}
    assert (truth.groupby("patient")["split"].nunique() == 1).all()


def test_findings_agree_with_their_masks(corpus: Path, truth: pd.DataFrame, findings: list[dict[str, Any]]) -> None:
    """Boxes, masks and the truth table would contradict one another."""
    assert len(findings) == truth[list(KINDS)].to_numpy().sum()
    for finding in findings:
        assert truth.loc[Path(finding["image"]).stem, finding["pathology"]] == 1
        mask = Image.open(corpus / finding["mask"])
        left, top, right, bottom = mask.getbbox()
        assert mask.mode == "1"
        assert finding["box"] == [left, top, right - left, bottom - top]


def test_coco_holds_every_image_and_its_findings(
    corpus: Path, truth: pd.DataFrame, findings: list[dict[str, Any]]
) -> None:
    """Images would be missing, or masks be shifted, transposed or of another finding."""
    table = Coco(corpus / "coco").read()
    columns = ["split", "patient", "study", "view", "sex", "age"]
    assert table.paths == [corpus / image for image in truth["image"]]
    assert table.images[columns].to_numpy().tolist() == truth[columns].to_numpy().tolist()
    assert (table.classes, table.label_array.tolist()) == (tuple(KINDS), truth[list(KINDS)].to_numpy().tolist())
    left = iter(findings)
    for index in range(len(table)):
        for found in table.findings_of(index):
            finding = next(left)
            assert (found.label, list(found.boxes[0])) == (finding["pathology"], finding["box"])
            np.testing.assert_array_equal(table.mask(index, found.label), drawn_mask(corpus, finding))
    assert next(left, None) is None


def test_coco_gives_areas_and_anatomies(corpus: Path, findings: list[dict[str, Any]]) -> None:
    """Other tools would sort findings by a wrong size."""
    files = [json.loads((corpus / "coco" / f"{split}.json").read_text()) for split in ("train", "valid", "test")]
    marks = [mark for file in files for mark in file["annotations"]]
    assert [mark["area"] for mark in marks] == [drawn_mask(corpus, finding).sum() for finding in findings]
    assert [mark["anatomy"] for mark in marks] == [finding["anatomy"] for finding in findings]


def test_mimic_layout_is_complete(corpus: Path, truth: pd.DataFrame) -> None:
    """A reader of MIMIC-CXR-JPG would miss a file, a row or a column."""
    root = corpus / "mimic_cxr"
    with gzip.open(root / "mimic-cxr-2.0.0-metadata.csv.gz", "rt") as file:
        metadata = pd.read_csv(file)
    with gzip.open(root / "mimic-cxr-2.0.0-split.csv.gz", "rt") as file:
        split = pd.read_csv(file)
    assert {"dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"} <= set(metadata.columns)
    assert list(split.columns) == ["dicom_id", "study_id", "subject_id", "split"]
    assert set(split["split"]) == {"train", "validate", "test"}
    assert ("s" + metadata["study_id"].astype(str)).tolist() == truth["study"].tolist()
    graphs = json.loads((corpus / "radgraph" / "MIMIC-CXR_graphs.json").read_text())
    assert len(graphs) == len(truth)
    for row in metadata.itertuples():
        study = f"p{str(row.subject_id)[:2]}/p{row.subject_id}/s{row.study_id}"
        assert Image.open(root / "files" / study / f"{row.dicom_id}.jpg").size == (SIDE, SIDE)
        assert "IMPRESSION:" in (root / "files" / f"{study}.txt").read_text()
        assert set(graphs[f"{study}.txt"]) == {"text", "entities", "data_source", "data_split"}


def test_mimic_layout_can_be_prepared(corpus: Path, tmp_path: Path) -> None:
    """The demo would not take the way that real data take."""
    prepare_data.run(phantom_config(prepare_data.PrepareConfig, "prepare_data", corpus, tmp_path))
    assert sum(len(pd.read_csv(tmp_path / f"{split}.csv")) for split in ("train", "valid", "test")) == 50


def test_cxr14_layout_holds_every_study(corpus: Path, truth: pd.DataFrame) -> None:
    """Labels, lists or boxes of the ChestX-ray14 layout would not fit the phantoms."""
    for split, splits in (("test", ["test"]), ("train", ["train", "valid"])):
        table, rows = Cxr14(corpus / "cxr14", split=split).read(), truth[truth["split"].isin(splits)]
        assert table.classes == CXR14_CLASSES
        expected = rows.reindex(columns=[pathology_of(name) for name in table.classes], fill_value=0)
        np.testing.assert_array_equal(table.label_array, expected)
        assert table.findings is not None
        boxes = table.findings[["x", "y", "width", "height"]].to_numpy()
        assert boxes.min() >= 0
        assert (boxes[:, :2] + boxes[:, 2:]).max() <= 1024


def test_rsna_boxes_are_those_of_the_opacities(
    corpus: Path, held_out: pd.DataFrame, findings: list[dict[str, Any]]
) -> None:
    """Grounding would be scored against other places than the phantoms' opacities."""
    table = Rsna(corpus / "rsna").read()
    columns = ["patient", "sex", "view", "age"]
    assert [path.stem for path in table.paths] == list(held_out.index)
    assert table.images[columns].to_numpy().tolist() == held_out[columns].to_numpy().tolist()
    assert table.found(CLASS).any()
    for index, image in enumerate(held_out["image"]):
        opacities = [f["box"] for f in findings if f["image"] == image and f["pathology"] in RSNA_OPACITIES]
        boxes = [box for found in table.findings_of(index) for box in found.boxes]
        boxes = np.reshape(boxes, (-1, 4)) * SIDE / 1024
        np.testing.assert_allclose(boxes, np.reshape(opacities, (-1, 4)), atol=0.05)


def test_siim_masks_are_those_of_the_pneumothoraces(
    corpus: Path, held_out: pd.DataFrame, findings: list[dict[str, Any]]
) -> None:
    """A segmentation would learn shifted or transposed masks."""
    table = SiimAcr(corpus / "siim_acr").read()
    assert table.label_array[:, 0].tolist() == held_out["pneumothorax"].tolist()
    assert table.label_array.any()
    drawn = {f["image"]: drawn_mask(corpus, f) for f in findings if f["pathology"] == "pneumothorax"}
    for index, image in enumerate(held_out["image"]):
        mask = table.mask(index, "Pneumothorax")
        np.testing.assert_array_equal(mask, drawn.get(image, np.zeros((SIDE, SIDE))))


def test_covidx_lists_are_patient_disjoint_and_hold_every_held_out_study(corpus: Path, held_out: pd.DataFrame) -> None:
    """Training and testing would share patients, or labels would belong to other images."""
    splits = {split: Covidx(corpus / "covidx", split=split).read() for split in ("train", "valid", "test")}
    check_shared(splits)
    assert sum(len(table) for table in splits.values()) == len(held_out)
    assert {path.stem for path in splits["test"].paths} == set(held_out.index[held_out["split"] == "test"])
    for table in splits.values():
        names = [path.stem for path in table.paths]
        assert table.label_array[:, 0].tolist() == held_out.loc[names, COVIDX_POSITIVE].tolist()


def test_dicom_images_look_like_those_of_the_other_layouts(corpus: Path, held_out: pd.DataFrame) -> None:
    """DICOM images would be inverted, or stretched in grey."""
    for path in Rsna(corpus / "rsna").read().paths[:5]:
        plain = read_image(corpus / held_out.loc[path.stem, "image"]).astype(float)
        assert np.corrcoef(read_image(path).ravel(), plain.ravel())[0, 1] > 0.98
