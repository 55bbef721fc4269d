"""The image table: choosing images with what belongs to them, and what its splits must not share."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medslip.data.masks import runs_of
from medslip.data.table import FINDING_COLUMNS, Finding, ImageTable, check_scorable, check_shared
from medslip.errors import InputError

NAN = float("nan")


def table_of(names: str, labels: list[list[int]], patients: list[str]) -> ImageTable:
    images = pd.DataFrame({"path": [f"{name}.png" for name in names], "patient": patients})
    return ImageTable("set", images, pd.DataFrame(labels, columns=["Mass", "Hernia", "Edema"][: len(labels[0])]))


@pytest.fixture
def localised() -> ImageTable:
    """Four images of 8 x 6: a has two boxes of a mass and one of an edema, c a mass with a mask alone, b and d nothing."""
    mask = np.zeros((8, 6), bool)
    mask[2:4, 1:5] = True
    images = pd.DataFrame({"path": list("abcd"), "sex": list("FMFM"), "height": 8, "width": 6})
    boxes = [(0, "mass", 1, 2, 3, 4, None), (2, "mass", *(NAN,) * 4, runs_of(mask)), (0, "edema", 0, 0, 2, 2, None)]
    findings = pd.DataFrame([*boxes, (0, "mass", 4, 5, 9, 9, None)], columns=list(FINDING_COLUMNS))
    return ImageTable("set", images, findings=findings)


def test_findings_are_grouped_by_class_and_clipped_at_the_edges(localised: ImageTable) -> None:
    """A box that its publisher rounded over the edge would index outside the image."""
    mass, edema = localised.findings_of(0)
    assert mass == Finding("mass", ((1, 2, 3, 4), (4, 5, 2, 3)))
    assert edema == Finding("edema", ((0, 0, 2, 2),))
    assert localised.findings_of(1) == []
    assert localised.findings_of(2)[0].boxes == ((1, 2, 4, 2),)  # around the mask
    assert localised.finding_classes == ("edema", "mass")
    assert localised.found("edema").tolist() == [True, False, False, False]
    assert localised.mask(2, "mass").sum() == 8
    assert localised.mask(1, "mass").shape == (8, 6)


def test_chosen_images_keep_their_own_findings_also_in_a_worker(localised: ImageTable) -> None:
    """A mask of another image would teach nonsense without any error."""
    taken = pickle.loads(pickle.dumps(localised.at([3, 2, 0]).at([1, 2])))
    assert [path.name for path in taken.paths] == ["c", "a"]
    assert taken.images["sex"].tolist() == ["F", "F"]
    assert taken.mask(0, "mass").sum() == 8
    assert taken.findings_of(1) == localised.findings_of(0)


@given(st.floats(-1, 999), st.floats(-1, 999), st.floats(2, 25))
def test_a_clipped_box_is_in_the_image(x: float, y: float, side: float) -> None:
    images = pd.DataFrame({"path": ["a"], "height": 1000, "width": 1001})
    found = pd.DataFrame([(0, "mass", x, y, side, side, None)], columns=list(FINDING_COLUMNS))
    left, top, width, height = ImageTable("set", images, findings=found).findings_of(0)[0].boxes[0]
    assert min(left, top) >= 0
    assert min(width, height) > 0
    assert left + width <= 1001 * (1 + 1e-9)
    assert top + height <= 1000 * (1 + 1e-9)


def test_unknown_columns_are_filled_in() -> None:
    images = table_of("ab", [[1], [0]], ["p", "q"]).at([1])
    assert images.patients == ["q"]
    assert images.label_array.tolist() == [[0]]
    assert images.metadata.to_numpy().tolist() == [["", "", pytest.approx(NAN, nan_ok=True)]]
    with pytest.raises(InputError, match="set: has no labels"):
        ImageTable("set", pd.DataFrame({"path": ["a"]})).label_array  # noqa: B018


def test_patients_and_images_of_two_splits_are_named_and_unknown_patients_pass() -> None:
    first = table_of("ab", [[1], [0]], ["p1", ""])
    check_shared({"train": first, "test": table_of("cd", [[1], [0]], ["p2", ""])})
    with pytest.raises(InputError, match=r"one patient is in train and in test \(a\.png and c\.png\)"):
        check_shared({"train": first, "test": table_of("c", [[1]], ["p1"])})
    again = table_of("b", [[1]], ["p3"])
    absolute = ImageTable("set", again.images.assign(path=[str(Path("b.png").absolute())]))
    for test in (again, absolute):
        with pytest.raises(InputError, match=r"image .*b.png is in train and in test"):
            check_shared({"train": first, "test": test})


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([[0], [0]], "class Mass is present in none of the 2 images; nothing"),
        ([[1], [-1]], "class Mass is absent in none of the 2 images; nothing"),
        ([[-1], [-1]], "class Mass is present in none of the 2 images; nothing"),
        ([[0, 0], [0, 0]], "class Mass is present in none of the 2 images, and 1 more classes"),
    ],
)
def test_images_on_which_nothing_can_be_scored_are_refused(labels: list[list[int]], words: str) -> None:
    """A training, and then no score."""
    with pytest.raises(InputError, match=words):
        check_scorable(table_of("ab", labels, ["", ""]))


def test_one_class_with_a_score_is_enough() -> None:
    """ChestX-ray14's rare classes are empty in a small list; the scores leave them out and say so."""
    check_scorable(table_of("ab", [[1, 0, 0], [0, 0, 1]], ["", ""]))
