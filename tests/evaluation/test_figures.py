"""Every figure is written as a picture with something in it, odd input included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medslip.evaluation.classification import score
from medslip.evaluation.classifier import Predictions, evaluate
from medslip.evaluation.figures import (
    LOSS_PARTS,
    Tile,
    difference_plot,
    finetuning_curves,
    heat_colours,
    loss_curves,
    overview,
    precision_recall_curves,
    reliability_diagrams,
    roc_curves,
    subgroup_forest,
)
from medslip.evaluation.paired import compare_classifiers


def assert_picture(path: Path, smallest: tuple[int, int]) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] >= smallest[0]
    assert pixels.shape[1] >= smallest[1]
    assert len(np.unique(pixels @ np.array([1, 256, 65536]))) > 20
    assert list(path.parent.glob("*.partial")) == []
    return pixels


@pytest.mark.parametrize(("draw", "classes"), [(roc_curves, 6), (precision_recall_curves, 2)])
def test_curves_are_drawn_with_undefined_classes_and_unknown_labels(draw, classes, tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 2, (80, classes)).astype(np.int8)
    labels[:, -1] = 0
    probabilities = rng.random((80, classes)).astype(np.float32)
    scores = score([f"class_{k}" for k in range(classes)], labels, probabilities, resamples=5)
    draw(tmp_path / "new" / "curves.png", scores, labels, probabilities)
    assert_picture(tmp_path / "new" / "curves.png", (300, 500))


@pytest.mark.parametrize("recalibrated", [True, False])
@pytest.mark.parametrize("resamples", [0, 5])
def test_calibration_and_subgroups_are_drawn_with_and_without_intervals(recalibrated, resamples, tmp_path):
    """A class without positives, or no interval, would end the run after hours, at its last figure."""
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, (120, 3)).astype(np.int8), rng.random((120, 3))
    labels[:, 0] = 0
    images = pd.DataFrame({"path": map(str, range(120)), "patient": "", "sex": ["M", "F", ""] * 40, "view": "PA"})
    test = Predictions("made", images.assign(age=np.nan), ["a_b", "c", "d"], labels, probabilities)
    tables = evaluate(test, test if recalibrated else None, resamples=resamples)
    reliability_diagrams(tmp_path / "calibration.png", tables["calibration"], tables["reliability"])
    assert_picture(tmp_path / "calibration.png", (300, 500))
    subgroup_forest(tmp_path / "subgroups.png", tables["subgroups"], tables["subgroup_gaps"], tables["scores"])
    assert_picture(tmp_path / "subgroups.png", (200, 900))


def test_differences_are_drawn_with_undefined_ones(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.column_stack([rng.integers(0, 2, 60), np.zeros(60)]).astype(np.int8)
    pair = rng.random((60, 2)), rng.random((60, 2))
    table = compare_classifiers(["a", "b"], labels, [pair], [""] * 60, resamples=9)
    difference_plot(tmp_path / "d.png", {name: rows[["name", "difference"]] for name, rows in table.groupby("score")})
    assert_picture(tmp_path / "d.png", (300, 900))


def entry(step: int) -> dict[str, float]:
    return {"step": step, "total": 3.0 - step / 50, "learning_rate": 1e-4, **dict.fromkeys(LOSS_PARTS, 0.5)}


@pytest.mark.parametrize(
    "history",
    [
        [],
        [*map(entry, range(100)), {"step": 99, "validation_total": 2.0, "validation_auroc": 0.3}],
        [entry(0), {"step": 1, "total": float("nan"), "validation_auroc": None}],
    ],
    ids=["empty", "with validation", "undefined values"],
)
def test_loss_curves_are_drawn_from_any_part_of_a_log(history, tmp_path):
    loss_curves(tmp_path / "loss.png", history)
    assert_picture(tmp_path / "loss.png", (400, 1200))
    finetuning_curves(tmp_path / "losses.png", history, "validation_auroc", "Mean AUROC")
    assert_picture(tmp_path / "losses.png", (400, 1000))


def test_a_further_loss_term_is_drawn(tmp_path):
    """A loss that was added to the criterion would be missing in losses.png."""
    history = list(map(entry, range(9)))
    loss_curves(tmp_path / "without.png", history)
    loss_curves(tmp_path / "with.png", [one | {"icl_existence": one["step"] / 9} for one in history])
    assert (tmp_path / "without.png").read_bytes() != (tmp_path / "with.png").read_bytes()


def test_overview_lays_the_heat_map_where_it_is_hot_and_the_box_where_it_belongs(tmp_path):
    grey = np.full((100, 100), 128, np.uint8)
    grey[0, 0], grey[0, 1] = 0, 255
    heat = np.zeros((10, 10))
    heat[:, :3] = 1
    overview(tmp_path / "o.png", [Tile(grey, heat_map=heat, boxes=[(60, 60, 30, 30)])], columns=4)
    pixels = assert_picture(tmp_path / "o.png", (300, 300)).astype(int)
    height, width = pixels.shape[:2]
    colourful = np.ptp(pixels, axis=2) > 40
    assert colourful[:, : width // 5].mean() > 0.8
    assert not colourful[: height // 2, width // 2 :].any()
    assert colourful[height // 2 :, width // 2 :].any()


def test_heat_colours_leave_an_image_visible_where_attention_is_weak():
    """An opaque map would hide what it is to point at."""
    colours = heat_colours(np.array([[0, 0.15, 0.4, 1, 2]]))
    assert colours.dtype == np.uint8
    assert colours[0, :2, 3].tolist() == [0, 0]
    assert 0 < colours[0, 2, 3] < colours[0, 3, 3] < 255
    assert (colours[0, 3] == colours[0, 4]).all()


def test_overview_takes_more_tiles_than_columns_and_refuses_none(tmp_path):
    image = np.random.default_rng(0).random((40, 60))
    overview(tmp_path / "o.png", [Tile(image, f"image {k}\ntwo lines") for k in range(3)], columns=2)
    assert_picture(tmp_path / "o.png", (500, 700))
    with pytest.raises(ValueError, match="tile"):
        overview(tmp_path / "none.png", [])


def test_the_same_numbers_make_the_same_file(tmp_path):
    for name in ("a.png", "b.png"):
        overview(tmp_path / name, [Tile(np.eye(9), "title")])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
