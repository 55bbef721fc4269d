"""Image labels as triplets: what becomes present, absent and unmentioned."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medslip.data.image_labels import label_cells, pathology_states
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.vocabulary import ANATOMIES, CLASS_PATHOLOGIES, CXR14_CLASSES, PATHOLOGIES

TAIL, NORMAL = PATHOLOGIES.index("tail_abnorm_obs"), PATHOLOGIES.index("normal")


@given(arrays(np.int8, (5, 14), elements=st.integers(-1, 1)), arrays(bool, 5))
def test_states_repeat_the_labels_and_the_catch_all_is_never_absent(labels: np.ndarray, normal: np.ndarray) -> None:
    pathologies = [CLASS_PATHOLOGIES[name] for name in CXR14_CLASSES]
    states = pathology_states(labels, pathologies, normal)
    assert not (states[:, TAIL] == 0).any()
    assert ((states[:, NORMAL] == 1) == normal).all()
    for column, pathology in enumerate(pathologies):
        expected = labels[:, column]
        if pathology == "tail_abnorm_obs":
            expected = np.where(expected == 1, 1, -1)
        np.testing.assert_array_equal(states[:, PATHOLOGIES.index(pathology)], expected)
    assert (states != -1).sum() == (labels[:, np.array(pathologies) != "tail_abnorm_obs"] != -1).sum() + (
        states[:, [TAIL, NORMAL]] == 1
    ).sum()


def test_classes_that_share_a_pathology_are_present_if_any_is() -> None:
    labels = np.array([[0, 1], [0, -1], [-1, -1]], np.int8)
    states = pathology_states(labels, ["mass", "mass"], np.zeros(3, bool))
    assert states[:, PATHOLOGIES.index("mass")].tolist() == [1, 0, -1]


def test_studies_are_merged_present_before_absent() -> None:
    images = pd.DataFrame({"path": ["a", "b", "c"], "study": ["s", "s", "t"], "normal": [False, False, True]})
    table = ImageTable("test", images, pd.DataFrame({"mass": [0, 1, 0], "edema": [0, -1, -1]}))
    row = ANATOMIES.index("unspecified")
    mass, edema = (PATHOLOGIES.index(name) for name in ("mass", "edema"))
    assert list(label_cells(table, {})) == [
        ("s", {(row, mass): 1, (row, edema): 0}),
        ("t", {(row, NORMAL): 1, (row, mass): 0}),
    ]


def test_images_without_labels_cannot_be_prepared() -> None:
    with pytest.raises(InputError, match="test: has neither reports nor labels"):
        list(label_cells(ImageTable("test", pd.DataFrame({"path": ["a"]})), {}))
