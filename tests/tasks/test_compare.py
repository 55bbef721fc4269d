"""Comparing run folders: matched by image whatever the order, and refused where a comparison would mean nothing."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medslip.cli import run_task
from medslip.data.images import read_image
from medslip.errors import InputError
from medslip.evaluation.classifier import prediction_table
from medslip.evaluation.tables import write_csv
from medslip.tasks.compare import CompareConfig, run

CLASSES = ("effusion", "mass")


def classified(
    folder: Path, answers: int, images: str = "images", classes: tuple[str, ...] = CLASSES, **metrics
) -> Path:
    """A run of zero-shot classification of 40 images."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (40, len(classes))).astype(np.int8)
    probabilities = np.random.default_rng(answers).random(labels.shape)
    names = [f"{images}/{index}.png" for index in range(40)]
    known = pd.DataFrame({"path": names, "patient": [f"p{index // 2}" for index in range(40)]})
    write_csv(
        prediction_table(known.assign(view="", sex="", age=np.nan), classes, probabilities, labels),
        folder / "predictions.csv",
    )
    about = {"format": "medslip-metrics", "version": 1, "task": "zero-shot classification", **metrics}
    (folder / "metrics.json").write_text(json.dumps(about))
    return folder


def change(folder: Path, how) -> Path:
    """Rewrite a run's table."""
    path = folder / "predictions.csv"
    how(pd.read_csv(path, dtype=str, keep_default_na=False)).to_csv(path, index=False)
    return folder


def compared(a: Path, b: Path, output: Path, **options):
    run(CompareConfig(a, b, resamples=30, output=output, **options), show=False)
    metrics = json.loads((output / "metrics.json").read_text())
    return metrics["differences"], metrics


def test_differences_do_not_depend_on_what_patients_are_called(tmp_path):
    """With other hash keys, or with patients kept in one run, the same comparison would have other intervals."""
    a, b = classified(tmp_path / "a", 1), classified(tmp_path / "b", 2)
    expected, _ = compared(a, b, tmp_path / "expected")

    def hashed(table: pd.DataFrame, key: str) -> pd.DataFrame:
        return table.assign(patient=[hashlib.sha256((key + name).encode()).hexdigest() for name in table["patient"]])

    for number, folder in enumerate((a, b)):
        change(folder, lambda table, key=str(number): hashed(table, key))
        assert compared(a, b, tmp_path / folder.name / "out")[0] == expected


def test_the_command_line_takes_two_folders_and_leaves_a_run_folder(tmp_path, monkeypatch, capsys, estimates_of):
    monkeypatch.chdir(tmp_path)
    classified(Path("a"), 1), classified(Path("b"), 2)
    assert run_task("compare", ["a", "b", "--resamples", "20", "--output", "out"]) == 0
    said = capsys.readouterr().out
    assert "B - A" in said
    assert "\nmean " in said
    assert read_image(tmp_path / "out" / "differences.png").size
    assert "Differences" in Path("out/run.html").read_text()
    table = pd.read_csv("out/differences.csv")
    assert len(table) == 3 * 4
    assert np.allclose(table["b"] - table["a"], table["difference"])
    places = estimates_of(Path("out"))
    rows = [f"/differences/{row['name']} {row['score']}/difference" for _, row in table.iterrows()]
    assert [places[row]["low"] for row in rows] == table["difference_low"].tolist()
    assert run_task("compare", ["--config", "out/config.yaml", "--output", "again"]) == 0
    assert Path("again/differences.csv").read_bytes() == Path("out/differences.csv").read_bytes()


def test_the_order_of_lines_does_not_matter(tmp_path):
    """Answers would be compared with another image's."""
    a, b = classified(tmp_path / "a", 1), classified(tmp_path / "b", 2)
    before, _ = compared(a, b, tmp_path / "one")
    change(b, lambda table: table.sample(frac=1, random_state=1))
    after, metrics = compared(a, b, tmp_path / "two")
    assert before == after
    change(a, lambda table: table.sample(frac=1, random_state=2))
    after, _ = compared(a, b, tmp_path / "three")
    # Patients are numbered, and so drawn, in run A's order.
    assert [row | {"difference": 0, "clear": 0} for row in before] == [
        row | {"difference": 0, "clear": 0} for row in after
    ]
    assert metrics["bootstrap"]["unit"] == "patient"


def test_images_of_a_moved_data_set_are_found_by_name_and_the_others_named(tmp_path):
    a, b = classified(tmp_path / "a", 1), classified(tmp_path / "b", 2, images="elsewhere")
    change(b, lambda table: table.iloc[3:])
    _, metrics = compared(a, b, tmp_path / "out")
    assert metrics["data"]["images"] == 37
    assert metrics["data"]["images_only_a"] == [f"images/{index}.png" for index in range(3)]
    assert metrics["data"]["images_only_b"] == []


def test_common_classes_are_compared_and_the_others_named(tmp_path):
    a, b = classified(tmp_path / "a", 1), classified(tmp_path / "b", 2)
    change(b, lambda table: table.rename(columns={"mass": "nodule", "label_mass": "label_nodule"}))
    differences, metrics = compared(a, b, tmp_path / "out")
    assert {entry["name"] for entry in differences} == {"effusion", "mean"}
    assert (metrics["data"]["classes_only_a"], metrics["data"]["classes_only_b"]) == (["mass"], ["nodule"])


def test_what_cannot_be_compared_is_refused_in_words(tmp_path):
    """A difference between different things would be printed as if it meant something."""
    a = classified(tmp_path / "a", 1)
    relabelled = change(classified(tmp_path / "b", 2), lambda t: t.assign(label_mass=["1", *t["label_mass"][1:]]))
    was = int(pd.read_csv(a / "predictions.csv")["label_mass"][0])
    if was == 1:
        change(relabelled, lambda t: t.assign(label_mass=["0", *t["label_mass"][1:]]))
    cases = {
        "images/0.png has mass": relabelled,
        "only runs of the same task": classified(tmp_path / "c", 2, task="fine-tuned classification"),
        "cannot compare runs of 'pretraining'": classified(tmp_path / "d", 2, task="pretraining"),
        "no image in common": change(classified(tmp_path / "e", 2), lambda t: t.assign(image=t["image"] + "x")),
        "no class in common": classified(tmp_path / "f", 2, classes=("nodule",)),
        "line 41: images/38.png occurs twice": change(
            classified(tmp_path / "g", 2), lambda t: t.assign(image=[*t["image"][:-1], "images/38.png"])
        ),
        "line 2: mass 'high' is not a number": change(
            classified(tmp_path / "h", 2), lambda t: t.assign(mass=["high", *t["mass"][1:]])
        ),
        "metrics.json: not found": tmp_path / "nowhere",
        r"metrics.json: task cannot be \[\]": classified(tmp_path / "i", 2, task=[]),
        "metrics.json: seeds cannot be": classified(tmp_path / "j", 2, seeds=[[]]),
    }
    for message, other in cases.items():
        with pytest.raises(InputError, match=message):
            compared(a, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_seeds_are_paired_by_number(tmp_path):
    """Seed 0 would be compared with seed 1, or one seed alone."""
    for name, seeds in (("a", (0, 1, 2)), ("b", (1, 2, 5))):
        folder = tmp_path / name
        for seed in seeds:
            classified(folder / f"seed_{seed}", seed, task="fine-tuned classification", seed=seed)
        scores = [{"score": "auroc", "mean": 0.5, **{f"seed_{seed}": 0.5 for seed in seeds}}]
        about = {"format": "medslip-metrics", "task": "fine-tuned classification", "seeds": seeds, "scores": scores}
        (folder / "metrics.json").write_text(json.dumps(about))
    differences, metrics = compared(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    assert (metrics["seeds"], metrics["seeds_only_a"], metrics["seeds_only_b"]) == ([1, 2], [0], [5])
    assert all(entry["difference"]["value"] == 0 and entry["by_seed"] == [0, 0] for entry in differences)


def grounded(folder: Path, findings: list[tuple[str, str, float, int]], patients: bool = False) -> Path:
    """A run of grounding: image, class, score, larger than a patch."""
    scores = ("pointing", "pointing_patch", "pixel_auroc", "contrast_to_noise", "iou", "dice")
    rows = [
        {"image": image, "patient": image if patients else "", "class": name, "larger_than_a_patch": larger}
        | {f"model_{score}": value for score in scores}
        for image, name, value, larger in findings
    ]
    folder.mkdir()
    pd.DataFrame(rows).to_csv(folder / "predictions.csv", index=False)
    (folder / "metrics.json").write_text(json.dumps({"format": "medslip-metrics", "task": "grounding"}))
    return folder


def test_findings_are_paired_by_image_and_class(tmp_path):
    a = grounded(
        tmp_path / "a", [("x", "mass", 0.5, 1), ("x", "nodule", 0, 0), ("y", "mass", 1, 1), ("z", "edema", 1, 1)]
    )
    b = grounded(tmp_path / "b", [("y", "mass", 0.75, 1), ("x", "nodule", 1, 0), ("x", "mass", 1, 1)])
    differences, metrics = compared(a, b, tmp_path / "out")
    found = {
        (e["group"], e["name"]): (e["cases"], e["difference"]["value"]) for e in differences if e["score"] == "iou"
    }
    assert found == {
        ("larger", "mass"): (2, 0.125),
        ("larger", "all findings"): (2, 0.125),
        ("smaller", "nodule"): (1, 1.0),
        ("smaller", "all findings"): (1, 1.0),
    }
    assert metrics["data"]["classes_only_a"] == ["edema"]
    assert (metrics["bootstrap"]["unit"], metrics["data"]["patients"]) == ("image", 2), "no patient is known"


def test_a_finding_that_one_run_does_not_know_of_is_refused(tmp_path):
    a = grounded(tmp_path / "a", [("x", "mass", 0.5, 1), ("x", "nodule", 0, 0), ("y", "nodule", 0, 0)])
    b = grounded(tmp_path / "b", [("x", "mass", 0.5, 1), ("y", "nodule", 0, 0)])
    with pytest.raises(InputError, match="x has no nodule"):
        compared(a, b, tmp_path / "out")


def segmented(folder: Path, dice: list[float], marked: list[int], patients: bool = False) -> Path:
    folder.mkdir()
    names = [f"{index}.png" for index in range(len(dice))]
    table = pd.DataFrame(
        {"image": names, "patient": names if patients else "", "marked_pixels": marked, "dice": dice, "iou": dice}
    )
    table.to_csv(folder / "predictions.csv", index=False)
    about = {"format": "medslip-metrics", "task": "segmentation", "data": {"finding": "mass"}}
    (folder / "metrics.json").write_text(json.dumps(about))
    return folder


def test_segmentations_are_compared_image_by_image(tmp_path):
    a, b = segmented(tmp_path / "a", [0.5, 1, 0], [9, 0, 0]), segmented(tmp_path / "b", [1, 1, 1], [9, 0, 0])
    differences, metrics = compared(a, b, tmp_path / "out")
    found = {entry["score"]: entry["difference"]["value"] for entry in differences}
    assert found["dice"] == pytest.approx(0.5)
    assert metrics["bootstrap"]["unit"] == "image", "no patient is known"
    assert (found["dice_on_positives"], found["empty_mask_accuracy"], found["dice_balanced"]) == (0.5, 0.5, 0.5)
    other = segmented(tmp_path / "c", [1, 1, 1], [9, 2, 0])
    with pytest.raises(InputError, match="different labels"):
        compared(a, other, tmp_path / "again")


@pytest.mark.parametrize("kind", ["classification", "grounding", "segmentation"])
def test_every_image_of_a_patient_twice_changes_no_interval(tmp_path, kind):
    """Images of one patient would count as patients of their own, and every interval be too narrow."""
    folders = [tmp_path / name for name in "ab"]
    for seed, folder in enumerate(folders):
        values = np.random.default_rng(seed).random(12).tolist()
        if kind == "classification":
            classified(folder, seed)
        elif kind == "grounding":
            grounded(folder, [(f"{index}.png", "mass", value, 1) for index, value in enumerate(values)], True)
        else:
            segmented(folder, values, [9, 0] * 6, patients=True)
    once, _ = compared(*folders, tmp_path / "once")
    for folder in folders:
        change(folder, lambda table: pd.concat([table, table.assign(image="again/" + table["image"])]))
    twice, metrics = compared(*folders, tmp_path / "twice")
    assert metrics["data"]["patients"] * 2 <= metrics["data"]["images"]
    ends = [[entry["difference"][end] for entry in found for end in ("low", "high")] for found in (once, twice)]
    assert any(ends[0])
    for one, other in zip(*ends, strict=True):
        assert one == pytest.approx(other, abs=1e-9)
