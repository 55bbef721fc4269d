"""Images with boxes and masks, whatever their publisher."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medslip.data.attributes import Attributes
from medslip.data.grounded import (
    GroundedFinding,
    GroundedImages,
    read_cxr14,
    read_phantoms,
    read_region,
    split_patients,
)
from medslip.data.phantom_truth import read_findings
from medslip.errors import InputError


def write_corpus(folder: Path, box: tuple[int, ...] = (4, 8, 16, 12), mask: bool = True) -> Path:
    """Two films of one patient: a mass and an oedema on the first, a mass on the second."""
    (folder / "masks").mkdir(parents=True)
    truth = [
        ("s1", "a.png", "mass", box),
        ("s1", "a.png", "edema", (0, 0, 64, 64)),
        ("s2", "b.png", "mass", (0, 0, 8, 8)),
    ]
    lines = []
    for study, image, pathology, (x, y, w, h) in truth:
        Image.new("L", (64, 64)).save(folder / image)
        drawn = np.zeros((64, 64), bool)
        drawn[y : y + h, x : x + w] = mask
        file = f"masks/{study}_{pathology}.png"
        Image.fromarray(drawn).save(folder / file)
        lines.append(
            {"study": study, "image": image, "split": "test", "pathology": pathology, "anatomy": "right_lower_lung",
             "side": "right", "box": [x, y, w, h], "mask": file if study == "s1" else ""}
        )  # fmt: skip
    (folder / "findings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "findings.csv").write_text("image,study,patient,split\na.png,s1,p7,test\nb.png,s2,p8,test\n")
    return folder


def test_findings_of_phantoms_are_read_back(tmp_path):
    """Patients, masks or boxes would belong to another finding."""
    first, _, third = read_findings(write_corpus(tmp_path), "test")
    assert (first.image, first.study, first.patient) == (tmp_path / "a.png", "s1", "p7")
    assert (first.pathology, first.anatomy, first.box) == ("mass", "right_lower_lung", (4, 8, 16, 12))
    assert first.mask == tmp_path / "masks/s1_mass.png"
    assert (third.patient, third.mask) == ("p8", None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"mass"', '"massive"', "line 1: is no finding .*massive"),
        ('"s2"', '"s9"', "line 3: is no finding"),
        ("[4, 8, 16, 12]", "[4, 8]", "line 1: is no finding"),
        ('"split": "test"', '"split": "train"', "no finding of split test"),
        ("}\n", "\n", "line 1: is no finding"),
    ],
)
def test_a_damaged_corpus_is_refused(tmp_path, old, new, message):
    """A traceback, or silently fewer findings."""
    path = write_corpus(tmp_path) / "findings.jsonl"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        read_findings(tmp_path, "test")


def test_no_corpus_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(InputError, match="make_phantom"):
        read_findings(tmp_path, "test")


def test_phantoms_are_grouped_by_image(tmp_path):
    """An image would be looked at once for each of its findings."""
    images = read_phantoms(write_corpus(tmp_path), "test")
    assert (len(images), images.frame, images.patients) == (2, (64, 64), ["p7", "p8"])
    assert images.at([1]).attributes.views == [""]  # this corpus says nothing of its patients
    assert [finding.label for finding in images.findings[0]] == ["mass", "edema"]
    assert images.classes == ("edema", "mass")
    mask = read_region(images.findings[0][0].mask, images.frame)
    assert (mask[8:20, 4:20].all(), mask.sum()) == (True, 16 * 12)


@pytest.mark.parametrize("box", [(-1, 0, 4, 4), (60, 0, 5, 4), (0, 62, 4, 3), (3, 3, 0, 4)])
def test_a_box_outside_its_image_is_refused(tmp_path, box):
    with pytest.raises(InputError, match=r"findings\.jsonl: line 1: the box .* of mass .*outside .*a\.png of 64 x 64"):
        read_phantoms(write_corpus(tmp_path, box), "test")


def test_masks_of_another_size_or_without_a_pixel_are_refused(tmp_path):
    """The finding would be compared with another place, or with nothing."""
    file = write_corpus(tmp_path, mask=False) / "masks/s1_mass.png"
    with pytest.raises(InputError, match="mask is empty"):
        read_region(file, (64, 64))
    with pytest.raises(InputError, match="64 x 64 pixels, its image 32 x 48; make them the same size"):
        read_region(file, (48, 32))


def write_cxr14(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    names = [f"0000000{patient}_00{follow_up}.png" for patient in (1, 2, 3) for follow_up in (0, 1)]
    for name in names:
        Image.new("L", (32, 32)).save(root / "images" / name)
    rows = [f"{name},Mass,{name[10]},{int(name[:8])},50,F,PA,1024,1024,0.1,0.1," for name in names]
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    (root / "Data_Entry_2017.csv").write_text("\n".join([f"{header}w,h,x,y,", *rows]))
    (root / "test_list.txt").write_text("\n".join(names[1:]))
    boxes = [(names[0], "Mass"), (names[1], "Mass"), (names[1], "Mass"), (names[1], "Infiltrate"), (names[4], "Mass")]
    lines = [f"{name},{label},{100 + k},200,300,400,,," for k, (name, label) in enumerate(boxes)]
    (root / "BBox_List_2017.csv").write_text("\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *lines]))
    return root


def test_cxr14_boxes_of_the_listed_images(tmp_path):
    """Boxes of one class on one image are one finding; images of another list stay out."""
    images = read_cxr14(write_cxr14(tmp_path), Path("test_list.txt"))
    assert [path.name for path in images.paths] == ["00000001_001.png", "00000003_000.png"]
    assert images.patients == ["1", "3"]
    assert (images.attributes.sexes, images.attributes.ages.tolist()) == (["F", "F"], [50, 50])
    mass, infiltration = images.findings[0]
    assert mass == GroundedFinding("Mass", ((101, 200, 300, 400), (102, 200, 300, 400)))
    assert infiltration.label == "Infiltration"


def test_a_list_without_boxes_is_refused(tmp_path):
    root = write_cxr14(tmp_path)
    (root / "test_list.txt").write_text("00000002_000.png")
    with pytest.raises(InputError, match="no image has a box"):
        read_cxr14(root, Path("test_list.txt"))


def test_patients_are_set_aside_whole():
    """A threshold would be chosen on a patient who is scored."""
    patients = [name for index in range(20) for name in (f"p{index}", f"p{index}")] + ["", ""]
    findings = [(GroundedFinding("mass", ((0, 0, 1, 1),)),)] * len(patients)
    images = GroundedImages(
        "x", (8, 8), [Path(str(index)) for index in range(42)], patients, findings, Attributes.unknown(42)
    )
    aside, rest = split_patients(images, 0.25, 1)
    assert not set(aside.patients) & set(rest.patients) - {""}
    assert sorted(map(str, [*aside.paths, *rest.paths])) == sorted(map(str, images.paths))
    assert aside.paths == split_patients(images, 0.25, 1)[0].paths
    assert 5 <= len(aside) <= 12
    with pytest.raises(InputError, match="one patient only"):
        split_patients(images.at([0, 1]), 0.25, 1)
