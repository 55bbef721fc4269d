"""Reading CheXpert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medslip.data.datasets.chexpert import CLASSES, CheXpert
from medslip.errors import InputError
from medslip.labels import LabelStore
from medslip.tasks.prepare_data import PrepareConfig, run
from medslip.vocabulary import ANATOMIES, PATHOLOGIES, class_pathologies

HEADER = f"Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,{','.join(CLASSES)}\n"
ROWS = {
    "train": [
        ("patient1/study1/view1_frontal.jpg", "Female,68,Frontal,AP", "1.0", {}),
        ("patient1/study2/view1_frontal.jpg", "Female,70,Frontal,PA", "", {"Edema": "-1.0", "Pleural Effusion": "1.0"}),
        ("patient1/study2/view2_lateral.jpg", "Female,70,Lateral,", "", {"Edema": "-1.0", "Pleural Effusion": "1.0"}),
    ],
    "valid": [("patient2/study1/view1_frontal.jpg", "Unknown,0,Frontal,AP", "0.0", dict.fromkeys(CLASSES, "0.0"))],
}


def write_layout(root: Path, **changed: list[tuple[str, str, str, dict[str, str]]]) -> Path:
    """The publisher's folder, under another name than its paths begin with."""
    for split, rows in (ROWS | changed).items():
        lines = []
        for name, about, normal, labels in rows:
            (root / split / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 4)).save(root / split / name)
            values = ",".join(labels.get(label, "") for label in CLASSES)
            lines.append(f"CheXpert-v1.0-small/{split}/{name},{about},{normal},{values}\n")
        (root / f"{split}.csv").write_text(HEADER + "".join(lines))
    return root


def test_labels_and_metadata_of_the_frontal_images(tmp_path: Path) -> None:
    table = CheXpert(write_layout(tmp_path), split="train").read()
    images = table.images
    assert [path.relative_to(tmp_path).as_posix() for path in table.paths] == [
        f"train/{name}" for name, *_ in ROWS["train"][:2]
    ]
    assert images["patient"].tolist() == ["patient1", "patient1"]
    assert images["study"].tolist() == ["patient1/study1", "patient1/study2"]
    assert table.metadata.to_numpy().tolist() == [["AP", "F", 68], ["PA", "F", 70]]
    assert images["normal"].tolist() == [True, False]
    assert table.labels is not None
    assert table.labels["Pleural Effusion"].tolist() == [-1, 1]
    assert table.labels["Edema"].tolist() == [-1, -1]
    assert table.left_out == {"images of other views": 1}


@pytest.mark.parametrize(("uncertain", "code"), [("unknown", -1), ("present", 1), ("absent", 0)])
def test_uncertain_and_blank_labels_count_as_the_user_says(tmp_path: Path, uncertain: Any, code: int) -> None:
    labels = CheXpert(write_layout(tmp_path), split="train", uncertain=uncertain, blank="absent").read().labels
    assert labels is not None
    assert labels["Edema"].tolist() == [0, code]


def test_views_and_splits_are_a_choice(tmp_path: Path) -> None:
    root = write_layout(tmp_path)
    assert len(CheXpert(root).read()) == 1  # the radiologists' labels
    assert CheXpert(root, split=None, views="all").read().images["view"].tolist() == ["AP", "PA", "LATERAL", "AP"]
    assert CheXpert(root, split="train", views="lateral").read().images["study"].tolist() == ["patient1/study2"]


def test_every_class_has_a_query_and_a_study_is_prepared_once(tmp_path: Path) -> None:
    """The views of a study would be studies of their own, or its classes be left out."""
    assert set(class_pathologies(CLASSES, {}, "")) <= set(PATHOLOGIES)
    summary = run(PrepareConfig(CheXpert(write_layout(tmp_path), views="all"), tmp_path / "out"))
    assert (summary.studies, summary.images) == (3, {"train": 3, "valid": 1})
    row = LabelStore(tmp_path / "out" / "labels").dense(1)[ANATOMIES.index("unspecified")]
    assert np.flatnonzero(row == 1).tolist() == [PATHOLOGIES.index("effusion")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ("patient1/study1/a.jpg", "Male,68,Frontal,AP", "x", {}),
            r"train.csv: line 2, column 'No Finding': 'x' is not",
        ),
        (("patient1/study1/a.jpg", "Male,old,Frontal,AP", "", {}), r"line 2, column 'Age': 'old' is not an age"),
        (("p1/a.jpg", "Male,68,Frontal,AP", "", {}), r"line 2: .*p1/a.jpg is not of the form"),
        (("patient1/study1/a.jpg", "Male,68,Lateral,", "", {}), r"train.csv: lists no frontal image"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: tuple[str, str, str, dict[str, str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CheXpert(write_layout(tmp_path, train=[row]), split="train").read()
