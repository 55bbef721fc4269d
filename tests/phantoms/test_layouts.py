"""Phantoms as COCO, and in the layouts of RSNA, SIIM-ACR and COVIDx, read by the readers of the real data."""

from __future__ import annotations

import json
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
    """The held-out studies, by the name of their image."""
    table = pd.read_csv(corpus / "findings.csv")
    table.index = pd.Index([Path(image).stem for image in table["image"]])
    return table[table["split"] != "train"]


@pytest.fixture(scope="module")
def findings(corpus: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (corpus / "findings.jsonl").read_text().splitlines()]


def test_rsna_boxes_are_those_of_the_opacities(
    corpus: Path, truth: pd.DataFrame, findings: list[dict[str, Any]]
) -> None:
    """Grounding would be scored against other places than the phantoms' opacities."""
    boxed = rsna.read_boxes(corpus / "rsna")
    assert [path.stem for path in boxed.images.paths] == list(truth.index)
    assert any(boxed.boxes)
    for index, image in enumerate(truth["image"]):
        opacities = [f["box"] for f in findings if f["image"] == image and f["pathology"] in RSNA_OPACITIES]
        rectangles = boxed.rectangles(index, rsna.CLASS, SIDE, SIDE)
        np.testing.assert_allclose(np.reshape(rectangles, (-1, 4)), np.reshape(opacities, (-1, 4)), atol=0.05)
    images = boxed.images
    metadata = [images.patients, images.sexes, images.views, images.ages.tolist()]
    assert metadata == truth[["patient", "sex", "view", "age"]].T.to_numpy().tolist()


def test_siim_masks_are_those_of_the_pneumothoraces(
    corpus: Path, truth: pd.DataFrame, findings: list[dict[str, Any]]
) -> None:
    """A segmentation would learn shifted or transposed masks."""
    masked = siim_acr.read_masks(corpus / "siim_acr")
    assert masked.marked.astype(int).tolist() == truth["pneumothorax"].tolist()
    assert masked.marked.any()
    for index, image in enumerate(truth["image"]):
        masks = [f["mask"] for f in findings if f["image"] == image and f["pathology"] == "pneumothorax"]
        expected = np.any([np.zeros((SIDE, SIDE)), *(np.asarray(Image.open(corpus / mask)) for mask in masks)], axis=0)
        np.testing.assert_array_equal(masked.mask(index), expected)


def test_covidx_lists_are_patient_disjoint_and_hold_every_held_out_study(corpus: Path, truth: pd.DataFrame) -> None:
    """Training and testing would share patients, or labels would belong to other images."""
    splits = {split: covidx.read_labelled(corpus / "covidx", split) for split in ("train", "valid", "test")}
    refuse_shared(splits)
    assert sum(len(images) for images in splits.values()) == len(truth)
    assert {path.stem for path in splits["test"].paths} == set(truth.index[truth["split"] == "test"])
    for images in splits.values():
        assert images.labels is not None
        names = [path.stem for path in images.paths]
        assert images.labels[:, 0].tolist() == truth.loc[names, "infiltrate"].tolist()


def test_dicom_images_look_like_those_of_the_other_layouts(corpus: Path, truth: pd.DataFrame) -> None:
    """DICOM images would be inverted, or stretched in grey."""
    for path in rsna.read_labelled(corpus / "rsna").paths[:5]:
        plain = read_image(corpus / truth.loc[path.stem, "image"]).astype(float)
        assert np.corrcoef(read_image(path).ravel(), plain.ravel())[0, 1] > 0.98


def test_coco_holds_every_image_and_its_findings(corpus: Path, findings: list[dict[str, Any]]) -> None:
    """A COCO reader would miss images, or read masks that are shifted, transposed or of another finding."""
    table = pd.read_csv(corpus / "findings.csv")
    metadata = ["file_name", "patient", "study", "view", "sex", "age"]
    left = iter(findings)
    for split in ("train", "valid", "test"):
        coco = json.loads((corpus / "coco" / f"{split}.json").read_text())
        names = {category["id"]: category["name"] for category in coco["categories"]}
        images = {image["id"]: image for image in coco["images"]}
        expected = table[table["split"] == split].rename(columns={"image": "file_name"})[metadata]
        assert [[image[key] for key in metadata] for image in images.values()] == expected.to_numpy().tolist()
        for mark in coco["annotations"]:
            finding, image = next(left), images[mark["image_id"]]
            written = (image["file_name"], names[mark["category_id"]], mark["anatomy"], mark["bbox"])
            assert written == tuple(finding[key] for key in ("image", "pathology", "anatomy", "box"))
            assert Image.open(corpus / image["file_name"]).size == (image["width"], image["height"])
            runs, size = mark["segmentation"]["counts"], mark["segmentation"]["size"]
            mask = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size[::-1]).T
            np.testing.assert_array_equal(mask, np.asarray(Image.open(corpus / finding["mask"])))
            assert mark["area"] == mask.sum()
    assert next(left, None) is None


@pytest.mark.parametrize(
    ("mask", "runs"), [([[0, 1], [0, 1]], [2, 2]), ([[1, 0], [1, 0]], [0, 2, 2]), ([[0, 0], [0, 0]], [4])]
)
def test_run_lengths_go_down_the_columns_and_begin_outside(mask: list[list[int]], runs: list[int]) -> None:
    assert run_lengths(np.array(mask, bool)) == runs
