"""Lists that must not be trained or tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medslip.data.checks import refuse_duplicates, refuse_empty_classes, refuse_shared
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


@pytest.mark.parametrize(("labels", "what"), [([[0], [0]], "present"), ([[1], [-1]], "absent")])
def test_an_empty_class_is_named(labels: list[list[int]], what: str) -> None:
    with pytest.raises(InputError, match=f"class Mass is {what} in none of the 2 images"):
        refuse_empty_classes(images("ab", labels, ["", ""]))
