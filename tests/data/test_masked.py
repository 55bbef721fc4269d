"""Images with masks."""

from __future__ import annotations

import csv
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medslip.data.masked import MaskFiles, read_mask, read_phantom_masks
from medslip.errors import InputError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four phantoms; s1 (valid) has an effusion and two nodules, s3 (test) nothing, s0 trains, s2 (test) an effusion."""
    findings = [("s0", "effusion", ""), ("s1", "effusion", "e1"), ("s1", "nodule", "n1"), ("s1", "nodule", "n2"),
                ("s2", "effusion", "e2")]  # fmt: skip
    splits = ["train", "valid", "test", "test"]
    for index in range(4):
        Image.fromarray(np.zeros((8, 10), np.uint8)).save(tmp_path / f"s{index}.png")
    for column, name in enumerate(("e1", "n1", "n2", "e2")):
        mask = np.zeros((8, 10), bool)
        mask[2:4, 2 * column : 2 * column + 2] = True
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    with (tmp_path / "findings.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "study", "patient", "split", "view", "sex", "age"))
        writer.writerows(
            (f"s{index}.png", f"s{index}", f"p{index}", split, "PA", "FM"[index % 2], 40 + index)
            for index, split in enumerate(splits)
        )
    with (tmp_path / "findings.jsonl").open("w") as file:
        for study, pathology, mask in findings:
            name = f"{mask}.png" if mask else ""
            split = splits[int(study[1:])]
            line = {
                "image": f"{study}.png",
                "study": study,
                "split": split,
                "pathology": pathology,
                "anatomy": "heart_size",
            }
            file.write(json.dumps(line | {"box": [1, 2, 3, 4], "mask": name}) + "\n")
    return tmp_path


def test_phantoms_that_were_trained_on_are_left_out(corpus):
    data = read_phantom_masks(corpus, "effusion")
    assert [path.name for path in data.paths] == ["s1.png", "s2.png", "s3.png"]
    assert data.patients == ["p1", "p2", "p3"]
    assert data.marked.tolist() == [True, True, False]
    assert [int(data.mask(index).sum()) for index in range(3)] == [4, 4, 0]
    assert data.mask(2).shape == (8, 10)


def test_several_masks_of_an_image_are_one(corpus):
    assert read_phantom_masks(corpus, "nodule").mask(0).sum() == 8


def test_taken_images_keep_their_own_masks_also_in_a_worker(corpus):
    """A mask of another image would teach nonsense without any error."""
    data = read_phantom_masks(corpus, "effusion")
    taken = pickle.loads(pickle.dumps(data.take(np.array([2, 0, 1])).take(np.array([2, 1]))))
    assert [path.name for path in taken.paths] == ["s2.png", "s1.png"]
    assert taken.marked.tolist() == [True, True]
    assert (taken.attributes.sexes, taken.attributes.ages.tolist()) == (["F", "M"], [42, 41])
    assert np.array_equal(taken.mask(0), data.mask(1))
    assert np.array_equal(taken.mask(1), data.mask(0))


def test_a_finding_without_masks_is_refused(corpus):
    with pytest.raises(InputError, match="no validation or test phantom has a mask of 'hernia'"):
        read_phantom_masks(corpus, "hernia")


def test_a_folder_that_is_no_corpus_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"findings\.csv"):
        read_phantom_masks(tmp_path, "effusion")


def test_masks_of_0_and_1_and_with_the_noise_of_jpeg_are_those_that_were_drawn(tmp_path):
    """Grey beside an edge would be inside, or a mask of 0 and 1 be empty for one task and whole for another."""
    drawn = np.zeros((64, 64), bool)
    drawn[16:48, 24:56] = True
    Image.fromarray(drawn.astype(np.uint8)).save(tmp_path / "ones.png")
    Image.fromarray(drawn.astype(np.uint8) * 255).save(tmp_path / "noisy.jpg", quality=75)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "empty.png")
    for name, expected in (("ones.png", drawn), ("noisy.jpg", drawn), ("empty.png", np.zeros_like(drawn))):
        assert np.array_equal(read_mask(tmp_path / name), expected), name


def test_a_mask_of_another_size_is_refused(tmp_path):
    for name, shape in (("image.png", (8, 8)), ("mask.png", (8, 9))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / name)
    with pytest.raises(InputError, match=r"mask\.png: the mask has 9 x 8 pixels, its image .* 8 x 8"):
        MaskFiles([tmp_path / "image.png"], [[tmp_path / "mask.png"]])(0)
