"""A run's files: readable by anyone, without NaN, never half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medslip.evaluation.classification import Scores, score
from medslip.evaluation.run_folder import (
    environment,
    score_table,
    write_json,
    write_metrics,
    write_predictions,
)
from medslip.version import __version__

CLASSES = ["Mass", "Fibrosis", "Hernia"]


def example() -> Scores:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (120, 3)).astype(np.int8)
    labels[:, 2] = 0
    return score(CLASSES, labels, rng.normal(labels, 1), [str(k // 2) for k in range(120)], resamples=30)


def read_strictly(path: Path):
    def refuse(word: str):
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_json_holds_no_nan_and_takes_numpy_and_paths(tmp_path):
    data = {
        "a": np.float32("nan"),
        "b": [np.inf, np.int8(3)],
        "c": Path("x"),
        "d": np.array([[1.5, np.nan]]),
        5: (),
    }
    write_json(tmp_path / "new" / "x.json", data)
    expected = {"a": None, "b": [None, 3], "c": "x", "d": [[1.5, None]], "5": []}
    assert read_strictly(tmp_path / "new" / "x.json") == expected


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert read_strictly(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_metrics_have_the_documented_shape_and_no_nan(tmp_path):
    write_metrics(
        tmp_path,
        "zero-shot classification",
        {"name": "x"},
        example(),
        ("Fibrosis",),
        extra={"checkpoint": "c"},
    )
    metrics = read_strictly(tmp_path / "metrics.json")
    assert (metrics["format"], metrics["version"]) == ("medslip-metrics", 1)
    assert metrics["data"] == {"name": "x", "images": 120, "patients": 60}
    assert metrics["bootstrap"] == {"resamples": 30, "seed": 0, "unit": "patient", "level": 0.95}
    mass, _, hernia = metrics["classes"]
    assert mass["intervals"]["auroc"]["low"] <= mass["auroc"] <= mass["intervals"]["auroc"]["high"]
    assert hernia["auroc"] is None
    assert hernia["undefined"] == "no positives"
    assert metrics["macro"]["classes"] == ["Mass", "Fibrosis"]
    assert metrics["macro"]["left_out"] == {"Hernia": "no positives"}
    assert metrics["macro_without"]["Fibrosis"]["auroc"] == mass["auroc"]
    assert metrics["checkpoint"] == "c"


def test_metrics_cannot_be_overwritten_by_extra_entries(tmp_path):
    with pytest.raises(ValueError, match="macro"):
        write_metrics(tmp_path, "t", {}, example(), extra={"macro": 1})


def test_environment_names_versions_and_the_device():
    found = environment()
    assert found["medslip"] == __version__
    assert found["device"] == "cpu"
    assert all(found[key] for key in ("python", "torch", "numpy", "device_name", "cpus"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_give_the_same_numbers_back(dtype, tmp_path):
    rng = np.random.default_rng(0)
    probabilities, labels = rng.random((50, 3)).astype(dtype), rng.integers(-1, 2, (50, 3)).astype(np.int8)
    patients = ["", *map(str, range(49))]
    images = [Path(f"a/{k}, odd.png") for k in range(50)]
    write_predictions(tmp_path, images, patients, CLASSES, probabilities, labels)
    table = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False, dtype={"patient": str})
    assert list(table.columns) == ["image", "patient", *CLASSES, *(f"label_{name}" for name in CLASSES)]
    assert np.array_equal(table[CLASSES].to_numpy().astype(dtype), probabilities)
    assert np.array_equal(table[[f"label_{name}" for name in CLASSES]].to_numpy(), labels)
    assert list(table["patient"]) == patients
    assert table["image"][0] == "a/0, odd.png"


def test_predictions_without_labels_have_no_label_columns(tmp_path):
    write_predictions(tmp_path, ["a.png"], [""], ["Mass"], np.array([[0.25]]))
    assert (tmp_path / "predictions.csv").read_text() == "image,patient,Mass\na.png,,0.25\n"


def test_the_table_shows_every_class_both_means_and_what_is_left_out():
    scores = example()
    text = score_table(scores, ("Fibrosis", "not there"))
    lines = text.splitlines()
    assert len({len(line) for line in lines[:8]}) == 1
    mass = scores.classes[0]
    interval = mass.intervals["auroc"]
    assert f"{mass.auroc:.3f} [{interval.low:.3f}, {interval.high:.3f}]" in lines[2]
    assert lines[4].split() == ["Hernia", "0", "-", "-", "-", "-"]
    assert lines[6].startswith("mean of 2 classes ")
    assert lines[7].startswith("mean of 1 class, without Fibrosis ")
    assert lines[8] == "not in the mean: Hernia (no positives)"
    assert "nan" not in text.lower()
