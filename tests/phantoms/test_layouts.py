"""Phantoms as COCO, and in the layouts of RSNA, SIIM-ACR and COVIDx, read by the readers of the real data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medslip.data import covidx, rsna, siim_acr
from medslip.data.checks import refuse_shared
from medslip.data.images import read_image
from medslip.phantoms.layouts import RSNA_OPACITIES, run_lengths
from medslip.tasks.make_phantom import MakePhantomConfig, run

SIDE = 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("phantom") / "corpus"
    run(MakePhantomConfig(output, studies=30, valid_fraction=0.5, test_fraction=0.4, side=SIDE, workers=1))
    return output


@pytest.fixture(scope="module")
def truth(corpus: Path) -> pd.DataFrame:
    """The evaluated studies, by the name of their image."""
    table = pd.read_csv(corpus / "findings.csv")
    table.index = pd.Index([Path(image).stem for image in table["image"]])
    return table[table["split"] != "train"]


@pytest.fixture(scope="module")
def findings(corpus: Path) -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in (corpus / "findings.jsonl").read_text().splitlines()]


def test_rsna_boxes_are_those_of_the_opacities(
    corpus: Path, truth: pd.DataFrame, findings: list[Mapping[str, Any]]
) -> None:
    """Grounding would be scored against other places than the phantoms' opacities."""
    boxed = rsna.read_boxes(corpus / "rsna")
    assert [path.stem for path in boxed.images.paths] == list(truth.index)
    assert any(boxed.boxes)
    for index, path in enumerate(boxed.images.paths):
        expected = [
            finding["box"]
            for finding in findings
            if Path(finding["image"]).stem == path.stem and finding["pathology"] in RSNA_OPACITIES
        ]
        rectangles = boxed.rectangles(index, rsna.CLASS, SIDE, SIDE)
        np.testing.assert_allclose(np.reshape(rectangles, (-1, 4)), np.reshape(expected, (-1, 4)), atol=0.05)
    assert boxed.images.patients == truth["patient"].tolist()
    assert boxed.images.sexes == truth["sex"].tolist()
    assert boxed.images.views == truth["view"].tolist()
    assert boxed.images.ages.tolist() == truth["age"].tolist()


def test_siim_masks_are_those_of_the_pneumothoraces(
    corpus: Path, truth: pd.DataFrame, findings: list[Mapping[str, Any]]
) -> None:
    """A segmentation would learn shifted or transposed masks."""
    masked = siim_acr.read_masks(corpus / "siim_acr")
    assert masked.marked.astype(int).tolist() == truth["pneumothorax"].tolist()
    assert masked.marked.any()
    for index, image in enumerate(truth["image"]):
        expected = np.zeros((SIDE, SIDE), bool)
        for finding in findings:
            if finding["image"] == image and finding["pathology"] == "pneumothorax":
                expected |= np.asarray(Image.open(corpus / finding["mask"]))
        np.testing.assert_array_equal(masked.mask(index), expected)


def test_covidx_lists_are_patient_disjoint_and_hold_every_evaluated_study(corpus: Path, truth: pd.DataFrame) -> None:
    """Training and testing would share patients, or labels would belong to other images."""
    splits = {split: covidx.read_labelled(corpus / "covidx", split) for split in ("train", "valid", "test")}
    refuse_shared(splits)
    assert sum(len(images) for images in splits.values()) == len(truth)
    assert {path.stem for path in splits["test"].paths} == set(truth.index[truth["split"] == "test"])
    for images in splits.values():
        assert images.labels is not None
        names = [path.stem for path in images.paths]
        assert images.labels[:, 0].tolist() == truth.loc[names, "infiltrate"].tolist()


def test_films_look_as_in_the_other_layouts(corpus: Path, truth: pd.DataFrame) -> None:
    """DICOM films would be inverted, or stretched in grey."""
    for path in rsna.read_labelled(corpus / "rsna").paths[:5]:
        plain = read_image(corpus / truth.loc[path.stem, "image"]).astype(float)
        assert np.corrcoef(read_image(path).ravel(), plain.ravel())[0, 1] > 0.98


def test_coco_holds_every_image_with_its_findings(corpus: Path, findings: list[Mapping[str, Any]]) -> None:
    """A COCO reader would miss images, or read masks that are shifted, transposed or of another finding."""
    table = pd.read_csv(corpus / "findings.csv")
    found = []
    for split in ("train", "valid", "test"):
        coco = json.loads((corpus / "coco" / f"{split}.json").read_text())
        names = {category["id"]: category["name"] for category in coco["categories"]}
        images = {image["id"]: image for image in coco["images"]}
        rows = table[table["split"] == split]
        metadata = ["patient", "study", "view", "sex", "age"]
        assert [image["file_name"] for image in images.values()] == rows["image"].tolist()
        assert [[image[key] for key in metadata] for image in images.values()] == rows[metadata].to_numpy().tolist()
        for mark in coco["annotations"]:
            image, (x, y, width, height) = images[mark["image_id"]], mark["bbox"]
            assert Image.open(corpus / image["file_name"]).size == (image["width"], image["height"]) == (SIDE, SIDE)
            runs = mark["segmentation"]["counts"]
            mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(SIDE, SIDE).T
            assert mark["area"] == mask.sum() == mask[y : y + height, x : x + width].sum()
            found.append((image["file_name"], names[mark["category_id"]], mark["anatomy"], mark["bbox"], mask))
    assert len(found) == len(findings)
    for finding, (*written, mask) in zip(findings, found, strict=True):
        assert [finding[key] for key in ("image", "pathology", "anatomy", "box")] == written
        np.testing.assert_array_equal(mask, np.asarray(Image.open(corpus / finding["mask"])))


@pytest.mark.parametrize(
    ("mask", "runs"), [([[0, 1], [0, 1]], [2, 2]), ([[1, 0], [1, 0]], [0, 2, 2]), ([[0, 0], [0, 0]], [4])]
)
def test_run_lengths_begin_outside_and_go_down_the_columns(mask: list[list[int]], runs: list[int]) -> None:
    assert run_lengths(np.array(mask, bool)) == runs
