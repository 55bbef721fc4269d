"""Reading the findings of a phantom corpus back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
