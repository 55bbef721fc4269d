"""Reading COCO annotations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from medslip.data.datasets.coco import Coco, decompress
from medslip.data.masks import paint_runs, runs_of
from medslip.data.table import Finding, check_shared
from medslip.errors import InputError
from medslip.tasks.prepare_data import PrepareConfig, run

MASK = np.zeros((8, 6), bool)
MASK[2:4, 1:5] = True
RUNS = [*runs_of(MASK).tolist(), 48 - int(runs_of(MASK).sum())]
CATEGORIES = [{"id": 1, "name": "Nodule/Mass"}, {"id": 7, "name": "Pleural effusion"}, {"id": 9, "name": "No finding"}]


def mark(image: int, category: int, **more: Any) -> dict[str, Any]:
    return {"id": 100 + image, "image_id": image, "category_id": category, **more}


def write(folder: Path, split: str, first: int, annotations: list[dict[str, Any]], **about: Any) -> Path:
    """Three images, of which the first two are of one patient."""
    images = []
    for index in range(first, first + 3):
        Image.new("L", (6, 8)).save(folder / f"{index}.png")
        patient = f"p{max(index, first + 1)}"
        images.append({"id": index, "file_name": f"{index}.png", "width": 6, "height": 8, "patient": patient, **about})
    path = folder / f"{split}.json"
    path.write_text(json.dumps({"images": images, "categories": CATEGORIES, "annotations": annotations}))
    return path


def test_boxes_masks_and_labels(tmp_path: Path) -> None:
    annotations = [mark(1, 7, bbox=[1, 2, 3, 4]), mark(0, 1, segmentation={"size": [8, 6], "counts": RUNS}), mark(2, 9)]
    table = Coco(write(tmp_path, "valid", 0, annotations, sex="female", age="043Y", view="PA")).read()
    assert table.classes == ("Nodule/Mass", "Pleural effusion")
    assert table.label_array.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert table.images["normal"].tolist() == [False, False, True]
    assert table.patients == ["p1", "p1", "p2"]
    assert table.metadata.to_numpy().tolist() == [["PA", "F", 43]] * 3
    assert table.findings_of(1) == [Finding("Pleural effusion", ((1, 2, 3, 4),))]
    np.testing.assert_array_equal(table.mask(0, "Nodule/Mass"), MASK)
    assert table.findings_of(0)[0].boxes == ((1, 2, 4, 2),)


def test_splits_are_files_of_a_folder_in_the_order_of_the_ids(tmp_path: Path) -> None:
    write(tmp_path, "valid", 3, [mark(4, 1, bbox=[0, 0, 1, 1])])
    write(tmp_path, "test", 0, [mark(1, 1, bbox=[1, 1, 1, 1])])
    table = Coco(tmp_path, split="valid+test").read()
    assert [path.stem for path in table.paths] == list("012345")
    assert table.images["split"].tolist() == ["test"] * 3 + ["valid"] * 3
    assert [found[0].boxes for index in (1, 4) if (found := table.findings_of(index))] == [
        ((1, 1, 1, 1),), ((0, 0, 1, 1),)
    ]  # fmt: skip
    assert len(Coco(tmp_path).read()) == 6
    summary = run(PrepareConfig(Coco(tmp_path, classes={"Nodule/Mass": "mass"}), tmp_path / "out"))
    assert summary.images == {"valid": 3, "test": 3}


@given(arrays(bool, (40, 50), elements=st.booleans()))
def test_the_compressed_form_is_undone(mask: np.ndarray) -> None:
    """The masks of CheXlocalize would be shifted or lost."""
    runs = [*runs_of(mask).tolist(), mask.size - int(runs_of(mask).sum())]
    text = ""
    for index, value in enumerate(runs):
        rest, more = value - (runs[index - 2] if index > 2 else 0), True
        while more:
            part, rest = rest & 31, rest >> 5
            more = rest != (-1 if part & 16 else 0)
            text += chr(48 + part + 32 * more)
    np.testing.assert_array_equal(paint_runs(np.array(decompress(text), np.int32), *mask.shape), mask)


def test_polygons_are_filled(tmp_path: Path) -> None:
    square = [[1, 2, 5, 2, 5, 4, 1, 4]]
    table = Coco(write(tmp_path, "valid", 0, [mark(0, 1, segmentation=square)])).read()
    np.testing.assert_array_equal(table.mask(0, "Nodule/Mass"), MASK)
    tiny = [[2.2, 3.2, 2.3, 3.2, 2.3, 3.3]]
    table = Coco(
        write(tmp_path, "valid", 0, [mark(0, 1, segmentation=[*square, *tiny]), mark(1, 1, segmentation=tiny)])
    ).read()
    np.testing.assert_array_equal(table.mask(0, "Nodule/Mass"), MASK)
    assert np.argwhere(table.mask(1, "Nodule/Mass")).tolist() == [[3, 2]]


def test_patients_must_be_known_or_said_to_be_unknown(tmp_path: Path) -> None:
    path = write(tmp_path, "valid", 0, [])
    data = json.loads(path.read_text())
    for image in data["images"]:
        del image["patient"]
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"lists no patients.*add \"patient\" to the images"):
        Coco(path).read()
    assert Coco(path, path_pattern=r"(?P<patient>\d)\.png").read().patients == ["0", "1", "2"]
    assert Coco(path, patients="unknown").read().patients == [""] * 3


def test_patients_are_compared_as_text(tmp_path: Path) -> None:
    """A patient written as a number in one file and as text in another would be trained and tested on."""
    for split, first, patients in (("train", 0, [7, 8, None]), ("test", 3, ["7", "9", "9"])):
        path = write(tmp_path, split, first, [])
        data = json.loads(path.read_text())
        for image, patient in zip(data["images"], patients, strict=True):
            image["patient"] = patient
        path.write_text(json.dumps(data))
    splits = {split: Coco(tmp_path, split=split).read() for split in ("train", "test")}
    assert splits["train"].patients == ["7", "8", ""]
    with pytest.raises(InputError, match=r"one patient is in train and in test \(0\.png and 3\.png\)"):
        check_shared(splits)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"width": 6', '"width": 7', r"0\.png has 6 x 8 pixels, not 7 x 8"),
        ('"id": 1, "file_name"', '"id": 0, "file_name"', "two images have the id 0"),
        ('"file_name": "1.png"', '"file_name": "0.png"', r"image .*0\.png is listed twice"),
        ('"file_name": "1.png"', '"file_name": "../1.png"', r"\.\./1\.png is outside the folder"),
        ('"height"', '"tall"', "an image has no 'height'"),
        ('"height": 8', '"height": "tall"', "an image has no 'height', or none that can be used"),
        ('"file_name": "1.png"', '"file_name": 1', "an image has no 'file_name', or none that can be used"),
        ('"name": "No finding"', '"title": "No finding"', "a category has no 'id' or no 'name'"),
        ('"annotations": [', '"annotations": [7, ', "an entry of images, annotations, categories is not a JSON object"),
        ('"categories"', '"kinds"', "not COCO annotations"),
        ('{"images"', '{"images', "not a complete JSON file"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path, "valid", 0, [mark(0, 1, bbox=[1, 2, 3, 4])])
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        Coco(path).read()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": [5, 2, 4, 4]}, "the box 5, 2, 4, 4 (x, y, width, height) lies outside the image of 6 x 8 pixels"),
        ({"bbox": [2, 2, 0, 4]}, "the box 2, 2, 0, 4 is empty"),
        ({"bbox": [2, 2, 4]}, "the box [2, 2, 4] is not four numbers"),
        ({"bbox": [2, 2, 4, None]}, "the box [2, 2, 4, None] is not four numbers"),
        ({"bbox": 5}, "the box 5 is not four numbers"),
        ({"segmentation": [[10**400, 2, 3, 4, 5, 6]]}, "a polygon is not x, y of three or more points"),
        ({"segmentation": {"size": [8, 6], "counts": [10**400, 1]}}, "the mask is not run lengths of 8 x 6 pixels"),
        ({}, "has neither a box nor a mask"),
        ({"segmentation": {"counts": RUNS}}, "the mask is not run lengths of 8 x 6 pixels"),
        ({"segmentation": {"size": [8, 6], "counts": ["1", "47"]}}, "the mask is not run lengths of 8 x 6 pixels"),
        ({"segmentation": {"size": [8, 6], "counts": [48]}}, "the mask is empty"),
        ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "a polygon is not x, y of three or more points"),
        ({"bbox": [1, 2, 3, 4], "category_id": [1]}, "category [1] is not listed"),
        ({"segmentation": {"size": [6, 6], "counts": [36]}}, "the mask is not run lengths of 8 x 6 pixels"),
        ({"segmentation": {"size": [8, 6], "counts": [1, 2]}}, "the run lengths end at pixel 3"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon is not x, y of three or more points"),
        ({"bbox": [1, 2, 3, 4], "image_id": 999}, "image 999"),
    ],
)
def test_a_bad_annotation_is_named(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    """Pixels would be compared with those of another place."""
    path = write(tmp_path, "valid", 0, [mark(0, 1, bbox=[1, 2, 3, 4]), {**mark(1, 1), **change}])
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        Coco(path).read()
    assert str(caught.value).startswith(f"{path}: annotation 101: ")


def test_a_folder_without_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"contains none of train\.json"):
        Coco(tmp_path).read()
    with pytest.raises(InputError, match=r"test\.json: not found; give the COCO file"):
        Coco(tmp_path, split="test").read()
