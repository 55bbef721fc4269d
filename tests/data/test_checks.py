"""Lists that must not be trained or tested on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medslip.data.checks import refuse_duplicates, refuse_repeated_files, refuse_shared, refuse_without_scores
from medslip.data.labelled import LabelledImages
from medslip.errors import InputError


def images(names: str, labels: list[list[int]], patients: list[str]) -> LabelledImages:
    unknown = [""] * len(names)
    paths = [Path(f"{name}.png") for name in names]
    ages = np.full(len(names), np.nan)
    return LabelledImages("set", ("Mass",), paths, np.array(labels, np.int8), patients, unknown, unknown, ages)


def test_an_image_listed_twice_is_named_with_both_lines() -> None:
    with pytest.raises(InputError, match=r"list.csv: line 4: image a is listed twice, also in line 2"):
        refuse_duplicates(["a", "b", "a"], [2, 3, 4], Path("list.csv"))


def test_patients_and_images_of_two_splits_are_named_and_unknown_patients_pass() -> None:
    first = images("ab", [[1], [0]], ["p1", ""])
    refuse_shared({"train": first, "test": images("cd", [[1], [0]], ["p2", ""])})
    with pytest.raises(InputError, match=r"patient p1 is in train and in test"):
        refuse_shared({"train": first, "test": images("c", [[1]], ["p1"])})
    with pytest.raises(InputError, match=r"image b.png is in train and in test"):
        refuse_shared({"train": first, "test": images("b", [[1]], ["p3"])})


@pytest.mark.parametrize(("second", "passes"), [("./x/../a.png", False), ("x/a.png", True)])
def test_a_file_in_another_spelling_is_the_same_file(second: str, passes: bool) -> None:
    """An image listed as a.png and as ./x/../a.png would count double."""
    paths = [Path("a.png"), Path(second)]
    if passes:
        refuse_repeated_files(paths, [2, 3], Path("list.csv"))
    else:
        with pytest.raises(InputError, match=r"list.csv: line 3: image a.png is listed twice, also in line 2"):
            refuse_repeated_files(paths, [2, 3], Path("list.csv"))


def test_a_row_without_a_name_is_named() -> None:
    with pytest.raises(InputError, match=r"list.csv: line 3: names no image"):
        refuse_duplicates(["a", ""], [2, 3], Path("list.csv"))


@pytest.mark.parametrize(
    ("labels", "what"), [([[0], [0]], "present"), ([[1], [-1]], "absent"), ([[-1], [-1]], "present")]
)
def test_images_on_which_nothing_can_be_scored_are_refused(labels: list[list[int]], what: str) -> None:
    """A training, and then no score."""
    with pytest.raises(InputError, match=f"class Mass is {what} in none of the 2 images; nothing"):
        refuse_without_scores(images("ab", labels, ["", ""]))


def test_one_class_with_a_score_is_enough() -> None:
    """ChestX-ray14's rare classes are empty in a small list; the scores leave them out and say so."""
    both = images("ab", [[1], [0]], ["", ""])
    labels = np.array([[1, 0, 0], [0, 0, 1]], np.int8)
    refuse_without_scores(replace(both, classes=("Mass", "Hernia", "Edema"), labels=labels))
    with pytest.raises(InputError, match=r"class Hernia is present in none of the 2 images, and 1 more classes"):
        refuse_without_scores(replace(both, classes=("Hernia", "Edema"), labels=labels[:, [1, 1]]))


def test_images_without_labels_are_named() -> None:
    with pytest.raises(InputError, match="set: has no labels"):
        refuse_without_scores(replace(images("a", [[1]], [""]), labels=None))
