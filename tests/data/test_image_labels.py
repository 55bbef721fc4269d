"""Image labels as triplets: what becomes present, absent and unmentioned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medslip.data.image_labels import class_pathologies, join, pathology_of, pathology_states, write_image_labels
from medslip.data.labelled import LabelledImages
from medslip.data.records import read_list
from medslip.errors import InputError
from medslip.labels import LabelStore
from medslip.vocabulary import ANATOMIES, CXR14_CLASSES, PATHOLOGIES

TAIL, NORMAL = PATHOLOGIES.index("tail_abnorm_obs"), PATHOLOGIES.index("normal")


def images_of(labels: list[list[int]], patients: list[str]) -> LabelledImages:
    number = len(patients)
    return LabelledImages(
        "test", ("mass", "edema"), [Path(f"/{index}.png") for index in range(number)], np.array(labels, np.int8),
        patients, [""] * number, [""] * number, np.full(number, np.nan),
    )  # fmt: skip


def test_class_names_that_stand_for_pathologies() -> None:
    assert [pathology_of(name) for name in ("Pleural_Thickening", "Pleural Effusion", "EDEMA", "COVID-19")] == [
        "thicken", "effusion", "edema", None,
    ]  # fmt: skip
    for name, pathology in CXR14_CLASSES.items():
        assert pathology_of(name) == pathology


def test_unknown_classes_and_pathologies_are_refused() -> None:
    assert class_pathologies(["x", "mass"], {"x": "opacity"}, "t") == ["opacity", "mass"]
    with pytest.raises(InputError, match="t: unknown class 'x'; map it"):
        class_pathologies(["x"], {}, "t")
    with pytest.raises(InputError, match="'shadow', which is no pathology"):
        class_pathologies(["x"], {"x": "shadow"}, "t")


@given(arrays(np.int8, (5, 14), elements=st.integers(-1, 1)), arrays(bool, 5))
def test_states_repeat_the_labels_and_the_catch_all_is_never_absent(labels: np.ndarray, normal: np.ndarray) -> None:
    pathologies = list(CXR14_CLASSES.values())
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


def test_studies_are_merged_and_left_out_images_stay_out(tmp_path: Path) -> None:
    images = images_of([[0, 0], [1, -1], [1, 1]], ["p", "p", "q"])
    states = pathology_states(np.asarray(images.labels), ["mass", "edema"], np.zeros(3, bool))
    summary = write_image_labels(tmp_path, images, states, ["s", "s", "t"], ["train", "valid", None], {}, ())
    assert summary.studies == 1
    assert summary.images == {"train": 1, "valid": 1}
    matrix = LabelStore(tmp_path / "labels").dense(0)
    row = matrix[ANATOMIES.index("unspecified")]
    assert (row[PATHOLOGIES.index("mass")], row[PATHOLOGIES.index("edema")]) == (1, 0)
    assert (matrix != -1).sum() == 2
    assert read_list(tmp_path / "valid.csv").table["row"].tolist() == [0]
    assert not (tmp_path / "test.csv").exists()


def test_a_study_of_two_patients_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    images = images_of([[0, 0], [1, 1]], ["p", "q"])
    states = pathology_states(np.asarray(images.labels), ["mass", "edema"], np.zeros(2, bool))
    with pytest.raises(InputError, match="study s belongs to patients p and q"):
        write_image_labels(tmp_path, images, states, ["s", "s"], ["train", "train"], {}, ())
    assert list(tmp_path.iterdir()) == []


def test_join_keeps_order() -> None:
    joined = join([images_of([[0, 1]], ["a"]), images_of([[1, 0]], ["b"])])
    assert joined.patients == ["a", "b"]
    assert np.asarray(joined.labels).tolist() == [[0, 1], [1, 0]]
