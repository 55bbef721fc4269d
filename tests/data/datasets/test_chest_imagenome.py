"""Reading Chest ImaGenome: the boxes that were drawn by hand, and those of the scene graphs."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from medslip.data.datasets.chest_imagenome import GOLD_FILE, GRAPHS, SPLITS_FOLDER, ChestImaGenome
from medslip.data.table import Finding
from medslip.errors import InputError

CORNERS = ("original_x1", "original_y1", "original_x2", "original_y2")
OBJECTS: list[tuple[Any, ...]] = [
    ("left lung", 20, 0, 38, 25),
    ("left clavicle", 22, 1, 30, 4),
    ("right clavicle", 5, 1, 15, 4),
    ("cardiac silhouette", 0, 0, 0, 0),
    ("abdomen", 0, 25, 40, 30),
    ("trachea", "", "", "", ""),
]


def write(root: Path) -> ChestImaGenome:
    """The publisher's folder with one gold image, a, and two silver ones, b and c; c has no scene graph."""
    gold = ["image_id,x1,bbox_name,original_x1,original_x2,original_y1,original_y2"]
    gold += [f"a.dcm,9,{name},{x1},{x2},{y1},{y2}" for name, x1, y1, x2, y2 in OBJECTS]
    (root / GOLD_FILE).parent.mkdir(parents=True)
    (root / GOLD_FILE).write_text("\n".join(gold))
    objects = [{"bbox_name": name, **dict(zip(CORNERS, box, strict=True))} for name, *box in OBJECTS[:5]]
    (root / GRAPHS).mkdir(parents=True)
    (root / GRAPHS / "b_SceneGraph.json").write_text(json.dumps({"image_id": "b", "objects": objects}))
    (root / SPLITS_FOLDER).mkdir()
    for split, names in (("images_to_avoid", "a"), ("test", "bc"), ("valid", "d")):
        rows = [f"1{ord(name)},5{ord(name)},{name},files/{name}.dcm,AP" for name in names]
        for name in names:
            (root / "jpg" / "files").mkdir(parents=True, exist_ok=True)
            Image.new("L", (40, 30)).save(root / "jpg" / "files" / f"{name}.jpg")
        text = "\n".join(["subject_id,study_id,dicom_id,path,ViewPosition", *rows])
        (root / SPLITS_FOLDER / f"{split}.csv").write_text(text)
    return ChestImaGenome(root, images=root / "jpg")


def test_objects_become_anatomies_of_the_vocabulary(tmp_path: Path) -> None:
    """An anatomy would be looked for elsewhere, one of two clavicles be wrong, or a missing box count as one."""
    data = write(tmp_path)
    for table, name, empty in ((data.read(), "a", 2), (replace(data, boxes="silver", split="test").read(), "b", 1)):
        assert table.paths == [tmp_path / "jpg" / "files" / f"{name}.jpg"]
        assert table.patients == [f"p1{ord(name)}"]
        assert table.frame(0) == (30, 40)
        assert table.findings_of(0) == [
            Finding("left_lung_unspec", ((20, 0, 18, 25),)),
            Finding("clavicle", ((22, 1, 8, 3), (5, 1, 10, 3))),
        ]
        assert table.left_out["empty boxes"] == empty
        assert table.left_out["boxes of abdomen, for which the vocabulary has no anatomy"] == 1
    assert table.left_out["images without a scene graph"] == 1


def test_objects_can_be_mapped_and_left_out(tmp_path: Path) -> None:
    table = replace(write(tmp_path), classes={"abdomen": "stomach", "left clavicle": "", "right clavicle": ""}).read()
    assert table.finding_classes == ("left_lung_unspec", "stomach")


def test_boxes_take_little_memory(tmp_path: Path) -> None:
    """The 9 million boxes of the silver set would take 6 GB as texts."""
    data, names = replace(write(tmp_path), boxes="silver", split="train"), [f"m{k}" for k in range(10)]
    for name in names:
        box = {"bbox_name": "spine", **dict(zip(CORNERS, (10, 11, 12, 13), strict=True))}
        (tmp_path / GRAPHS / f"{name}_SceneGraph.json").write_text(json.dumps({"objects": [box] * 400}))
        Image.new("L", (40, 30)).save(tmp_path / "jpg" / "files" / f"{name}.jpg")
    rows = [f"1{k},5{k},{name},files/{name}.dcm,AP" for k, name in enumerate(names)]
    text = "\n".join(["subject_id,study_id,dicom_id,path,ViewPosition", *rows])
    (tmp_path / SPLITS_FOLDER / "train.csv").write_text(text)
    tracemalloc.start()
    table = data.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table.findings is not None
    assert peak / len(table.findings) < 450


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    data = write(tmp_path)
    with pytest.raises(InputError, match=r"has no box of an image that .*splits lists; unpack scene_graph.zip"):
        replace(data, boxes="silver", split="valid").read()
    (tmp_path / GRAPHS / "b_SceneGraph.json").write_text('{"objects": [{"bbox_name": "spine"}]}')
    with pytest.raises(InputError, match=r"b_SceneGraph.json: an object has no bbox_name or no original_x1"):
        replace(data, boxes="silver", split="test").read()
    (tmp_path / SPLITS_FOLDER / "images_to_avoid.csv").unlink()
    with pytest.raises(InputError, match=r"1000images.csv: line 2: image a is in no file of .*splits"):
        data.read()
