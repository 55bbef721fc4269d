"""A run's files: readable by anyone, without NaN, never half-written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medslip.data.attributes import Attributes
from medslip.data.labelled import LabelledImages
from medslip.evaluation.classification import Scores, score
from medslip.evaluation.judgement import judge
from medslip.evaluation.run_folder import (
    METRICS_FORMAT,
    METRICS_VERSION,
    environment,
    judgement_table,
    score_table,
    write_json,
    write_metrics,
    write_predictions,
    write_unscored_metrics,
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
    assert (metrics["format"], metrics["version"]) == ("medslip-metrics", 3)
    assert metrics["data"] == {"name": "x", "images": 120, "patients": 60}
    assert metrics["bootstrap"] == {"resamples": 30, "seed": 0, "unit": "patient", "level": 0.95}
    mass, _, hernia = metrics["classes"]
    auroc = mass["scores"]["auroc"]
    assert auroc["interval"]["low"] <= auroc["value"] <= auroc["interval"]["high"]
    assert hernia["scores"]["auroc"] == {"value": None, "interval": None}
    assert hernia["undefined"] == "no positives"
    assert metrics["macro"]["classes"] == ["Mass", "Fibrosis"]
    assert metrics["macro"]["left_out"] == {"Hernia": "no positives"}
    assert metrics["macro_without"]["Fibrosis"]["scores"]["auroc"] == auroc
    assert metrics["checkpoint"] == "c"
    assert [metrics[key] for key in ("calibration", "operating_points", "subgroups")] == [None] * 3


def labelled(seed: int, sexes: bool = True) -> tuple[LabelledImages, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (120, 3)).astype(np.int8)
    labels[:, 2] = 0
    images = LabelledImages(
        f"made {seed}", tuple(CLASSES), [Path(f"{seed}-{k}.png") for k in range(120)], labels,
        [f"{seed}-{k // 2}" for k in range(120)], [""] * 120, ["M", "F"] * 60 if sexes else [""] * 120, np.full(120, np.nan),
    )  # fmt: skip
    return images, rng.uniform(0.2 * labels, 0.6 + 0.4 * labels)


def test_metrics_hold_the_judgement_beside_the_scores(tmp_path, estimates_of):
    """A reader who must judge the model would not find where it was calibrated, chosen, or compared."""
    images, probabilities = labelled(0)
    judgement = judge(images, probabilities, labelled(1), 0.8, 30)
    write_metrics(tmp_path, "t", {}, example(), judgement=judgement)
    metrics = read_strictly(tmp_path / "metrics.json")
    mass, _, hernia = metrics["calibration"]["classes"]
    assert 0 <= mass["recalibrated"]["scores"]["ece"]["value"] < mass["scores"]["ece"]["value"] <= 1
    assert sum(each["images"] for each in mass["bins"]) == 120
    assert (hernia["undefined"], hernia["recalibrated"]) == ("no positives", None)
    assert hernia["scores"]["ece"] == {"value": None, "interval": None}
    assert metrics["calibration"]["validation"] == {"name": "made 1", "images": 120, "patients": 60}
    assert metrics["operating_points"]["specificity"] == 0.8
    point = metrics["operating_points"]["classes"][0]["at_specificity"]
    assert point["chosen"]["validation_specificity"] >= 0.8
    ppv = point["scores"]["ppv"]
    assert ppv["interval"]["low"] <= ppv["value"] <= ppv["interval"]["high"]
    assert list(metrics["subgroups"]) == ["sex"]
    compared = metrics["subgroups"]["sex"]["comparisons"]["auroc"]
    assert compared["classes"] == ["Mass", "Fibrosis"]
    means = compared["means"]
    gap = means[compared["highest"]]["value"] - means[compared["lowest"]]["value"]
    assert compared["gap"]["value"] == pytest.approx(gap)
    places = estimates_of(tmp_path)
    for place in (
        "/classes/0/scores/auroc",
        "/macro/scores/max_f1",
        "/calibration/classes/0/bins/0/frequency",
        "/operating_points/classes/0/at_max_f1/scores/npv",
        "/subgroups/sex/groups/0/classes/0/scores/sensitivity",
    ):
        assert places[place]["interval"] is not None, place


@pytest.mark.parametrize(("patients", "unit"), [(None, "image"), (["", ""] * 4, "image"), (["", "p"] * 4, "patient")])
def test_the_bootstrap_says_what_it_resampled(patients, unit, tmp_path):
    """Intervals over single images would pass for intervals over patients, which are wider."""
    write_metrics(tmp_path, "t", {}, score(["a"], np.array([[0], [1]] * 4), np.arange(8.0)[:, None], patients, 5))
    assert read_strictly(tmp_path / "metrics.json")["bootstrap"]["unit"] == unit


def test_the_page_of_shapes_names_every_entry(tmp_path):
    """Whoever reads a metrics.json by docs/metrics.md would meet what it does not explain, or another version."""
    images, probabilities = labelled(0)
    write_metrics(tmp_path, "t", {"name": "x"}, example(), judgement=judge(images, probabilities, labelled(1), 0.8, 30))
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    metrics = read_strictly(tmp_path / "metrics.json")
    assert f'"version": {metrics["version"]}' in page
    assert f"| {metrics['version']} |" in page
    metrics["environment"] = {}

    def keys(entry: Any) -> set[str]:
        if isinstance(entry, list):
            return set().union(*map(keys, entry))
        return set(entry).union(*map(keys, entry.values())) if isinstance(entry, dict) else set()

    ours = {
        key for key in keys(metrics) if re.fullmatch("[a-z][a-z0-9_]*", key)
    }  # the others are names of classes and groups
    assert {"scores", "recalibrated", "validation_sensitivity"} <= ours
    assert {key for key in ours if not re.search(rf"\b{key}\b", page)} == set()


def test_without_validation_or_attributes_their_entries_are_null(tmp_path):
    """Thresholds chosen on test would pass for honest ones."""
    images, probabilities = labelled(0, sexes=False)
    write_metrics(tmp_path, "t", {}, example(), judgement=judge(images, probabilities, None, resamples=0))
    metrics = read_strictly(tmp_path / "metrics.json")
    assert metrics["operating_points"] is None
    assert metrics["subgroups"] is None
    assert metrics["calibration"]["validation"] is None
    assert metrics["calibration"]["classes"][0]["recalibrated"] is None


def test_unscored_metrics_carry_the_format(tmp_path):
    """A reader could not tell what the file is."""
    write_unscored_metrics(tmp_path, "t", {"name": "x"}, extra={"checkpoint": "c"})
    metrics = read_strictly(tmp_path / "metrics.json")
    assert (metrics["format"], metrics["version"]) == (METRICS_FORMAT, METRICS_VERSION)
    assert set(metrics) == {"format", "version", "task", "data", "environment", "checkpoint"}


@pytest.mark.parametrize("validated", [True, False])
def test_the_judgement_table_has_equal_lines_and_no_nan(validated):
    """Columns that slip under another heading."""
    images, probabilities = labelled(0)
    judgement = judge(images, probabilities, labelled(1) if validated else None, 0.8, 20)
    lines = judgement_table(judgement).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1
    assert ("threshold" in lines[0]) == validated
    assert lines[4].split()[:3] == ["Hernia", "-", "-"]
    assert any(line.startswith("AUROC by sex: F 0.") for line in lines)
    assert "nan" not in "".join(lines).lower()


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


def test_predictions_tell_view_sex_and_age_where_they_are_known(tmp_path):
    """Two runs could not be compared by subgroup; an unknown age must not read as a number."""
    attributes = Attributes(["", "PA"], ["", ""], np.array([np.nan, 61]))
    write_predictions(tmp_path, ["a.png", "b.png"], ["", ""], ["Mass"], np.array([[0.25], [0.5]]), None, attributes)
    expected = "image,patient,Mass,view,age\na.png,,0.25,,\nb.png,,0.5,PA,61.0\n"
    assert (tmp_path / "predictions.csv").read_text() == expected


def test_predictions_without_labels_have_no_label_columns(tmp_path):
    write_predictions(tmp_path, ["a.png"], [""], ["Mass"], np.array([[0.25]]))
    assert (tmp_path / "predictions.csv").read_text() == "image,patient,Mass\na.png,,0.25\n"


def test_the_table_says_why_a_mean_has_no_interval():
    """A missing interval would look like a fault of the program."""
    labels = np.array([[1, 1], [0, 0], [1, 0], [0, 0]], np.int8)
    scores = score(
        ("Mass", "Hernia"), labels, np.random.default_rng(0).random((4, 2)), ["a", "b", "c", "d"], resamples=9
    )
    assert score_table(scores).endswith(
        "no interval of the mean: all positives, or all negatives, of Hernia are of one patient"
    )
    assert "no interval" not in score_table(
        score(("Mass",), labels[:, :1], np.linspace(0, 1, 4)[:, None], None, resamples=9)
    )


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
