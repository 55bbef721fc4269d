"""The evaluation of a classifier: every table is there, and predictions.csv gives the numbers back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medslip.evaluation.classifier import Predictions, draw, evaluate, prediction_table
from medslip.evaluation.tables import write_csv

CLASSES = ["Mass", "Fibrosis", "Hernia"]


def predicted(seed: int, sexes: bool = True) -> Predictions:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (120, 3)).astype(np.int8)
    labels[:, 2] = 0
    images = pd.DataFrame({"path": [f"{seed}-{k}.png" for k in range(120)], "view": "", "age": np.nan})
    images["patient"] = [f"{seed}-{k // 2}" for k in range(120)]
    images["sex"] = ["M", "F"] * 60 if sexes else ""
    return Predictions(f"made {seed}", images, CLASSES, labels, rng.uniform(0.2 * labels, 0.6 + 0.4 * labels))


def test_everything_that_a_reader_must_judge_by_is_there():
    """A reader would not find where the model was calibrated, its thresholds chosen, or its groups compared."""
    tables = evaluate(predicted(0), predicted(1), 0.8, 30)
    calibration = tables["calibration"].set_index(["class", "probabilities"])
    mass, again = (calibration.loc[("Mass", which)] for which in ("predicted", "recalibrated"))
    assert 0 <= again["ece"].value < mass["ece"].value <= 1
    assert np.isfinite([again["slope"], again["intercept"]]).all()
    assert ("Hernia", "recalibrated") not in calibration.index
    assert calibration["note"]["Hernia", "predicted"] == "no positives"
    assert tables["reliability"].query("`class` == 'Mass' and probabilities == 'predicted'")["images"].sum() == 120
    point = tables["operating_points"].iloc[0]
    assert (point["class"], point["rule"]) == ("Mass", "specificity")
    assert point["validation_specificity"] >= 0.8
    assert point["ppv"].low <= point["ppv"].value <= point["ppv"].high
    groups, gap = tables["subgroups"].set_index("group"), tables["subgroup_gaps"].iloc[0]
    assert gap["classes"] == ["Mass", "Fibrosis"]
    means = groups["auroc"]
    assert gap["gap"].value == pytest.approx(means[gap["highest"]].value - means[gap["lowest"]].value)


def test_every_figure_has_its_documented_name(tmp_path):
    """The run page would show it without a caption."""
    test = predicted(0)
    draw(tmp_path, evaluate(test, resamples=0), test)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"roc.png", "precision_recall.png", "calibration.png", "subgroups.png"}


def test_without_validation_or_metadata_nothing_is_made_up():
    """Thresholds chosen on test images would pass for honest ones."""
    tables = evaluate(predicted(0, sexes=False), None, resamples=0)
    assert "operating_points" not in tables
    assert tables["calibration"]["probabilities"].unique().tolist() == ["predicted"]
    assert tables["subgroups"].empty
    assert tables["subgroup_gaps"].empty


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_give_the_same_numbers_back(dtype, tmp_path):
    """No score could be recomputed, and no run compared with another."""
    rng = np.random.default_rng(0)
    probabilities, labels = rng.random((50, 3)).astype(dtype), rng.integers(-1, 2, (50, 3)).astype(np.int8)
    images = pd.DataFrame({"path": [Path(f"a/{k}, odd.png") for k in range(50)], "patient": ["", *map(str, range(49))]})
    images = images.assign(view=["", *["PA"] * 49], sex="", age=[np.nan, *range(49)])
    write_csv(prediction_table(images, CLASSES, probabilities, labels), tmp_path / "predictions.csv")
    table = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False, dtype={"patient": str})
    labelled = [f"label_{name}" for name in CLASSES]
    assert list(table.columns) == ["image", "patient", *CLASSES, *labelled, "view", "age"]  # no sex is known
    assert np.array_equal(table[CLASSES].to_numpy().astype(dtype), probabilities)
    assert np.array_equal(table[labelled].to_numpy(), labels)
    assert table["patient"].tolist() == images["patient"].tolist()
    assert table["image"][0] == "a/0, odd.png"
    assert (table["age"][0], table["age"][1]) == ("", "0.0")
    unlabelled = prediction_table(images.assign(view="", age=np.nan), ["Mass"], probabilities[:, :1])
    assert list(unlabelled) == ["image", "patient", "Mass"]
