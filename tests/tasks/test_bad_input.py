"""Input that cannot be used, given to the scripts: one line that names file and row or key, status 2, no folder.

What each reader rejects is tested in tests/data/datasets.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from medslip.cli import run_task
from medslip.tasks.make_phantom import MakePhantomConfig
from medslip.tasks.make_phantom import run as make_phantom

DATA = {
    "zeroshot_cls": {"data": "cxr14"},
    "ground": {"data": "coco"},
    "finetune_seg": {"data.train": "siim_acr"},
    "finetune_cls": {"data.train": "cxr14", "data.test": "cxr14"},
}
"""What each task reads unless a test says otherwise: part of the data -> kind."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms in every publisher's layout."""
    return make_phantom(
        MakePhantomConfig(tmp_path_factory.mktemp("phantom") / "corpus", 60, 0.3, 0.4, side=64, workers=1)
    )


@pytest.fixture
def corpus(drawn: Path, tmp_path: Path) -> Path:
    """A copy of them, to be damaged."""
    return Path(shutil.copytree(drawn, tmp_path / "corpus"))


@pytest.fixture
def refused(tiny_checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a task with input that it must refuse; gives the one line that it said."""

    def run(task: str, *arguments: object) -> str:
        output = tmp_path / "run"
        data = [(f"--{part}.kind={kind}", f"--{part}.path=none") for part, kind in DATA.get(task, {}).items()]
        given = ["--checkpoint", tiny_checkpoint, "--device", "cpu", "--output", output, *sum(data, ()), *arguments]
        if task.startswith("finetune"):
            given += ["--data.side", 32, "--data.workers", 0, "--train.epochs", 1]
        else:
            given += ["--workers", 0, "--resamples", 5]
        status = run_task(task, list(map(str, given)))
        said = [line for line in re.split(r"[\r\n]", capfd.readouterr().err) if line.strip() and "%|" not in line]
        assert len(said) == 1, said
        assert said[0].startswith("error: ")
        assert status == 2
        assert not output.exists()
        return said[0]

    return run


def images(task: str, kind: str, path: Path) -> list[object]:
    """Arguments that name a task's images."""
    key = "data.train" if task.startswith("finetune") else "data"
    return [f"--{key}.kind", kind, f"--{key}.path", path]


def edit(path: Path, old: str, new: str, line: int = 0) -> Path:
    """Replace a pattern where it first stands, in the whole file or in one line, counted from 1."""
    lines = path.read_text().splitlines(keepends=True)
    place = slice(line - 1, line) if line else slice(None)
    text, count = re.subn(old, new, "".join(lines[place]), count=1, flags=re.MULTILINE)
    assert count, f"{path} has no {old}"
    lines[place] = [text]
    path.write_text("".join(lines))
    return path


def line_with(path: Path, pattern: str) -> int:
    """The first line in which a pattern stands, from 1."""
    return next(number for number, line in enumerate(path.read_text().splitlines(), 1) if re.search(pattern, line))


@pytest.mark.parametrize("task", ["finetune_seg", "zeroshot_cls"])
def test_run_lengths_that_leave_the_image(corpus, refused, task):
    """A mask would be cut off or wrapped round in silence."""
    table = corpus / "siim_acr" / "train-rle.csv"
    edit(table, r",[^,\n]*$", ",4000 200", line=5)
    error = refused(task, *images(task, "siim_acr", table.parent))
    assert f"{table}: line 5: the run lengths end at pixel 4200" in error


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("task", ["zeroshot_cls", "ground"])
def test_missing_checkpoint(drawn, tmp_path, refused, task, suffix):
    """Whoever misspells a .pth needs the file before its prompts."""
    missing = tmp_path / f"missing{suffix}"
    error = refused(task, *images(task, "rsna", drawn / "rsna"), "--checkpoint", missing)
    assert f"{missing}: no such checkpoint" in error


@pytest.mark.parametrize("task", ["finetune_cls", "zeroshot_cls"])
def test_text_as_pth_checkpoint(drawn, tmp_path, refused, task):
    """Prompts would be asked for first, which do not help."""
    path = tmp_path / "notes.pth"
    path.write_text("hello, these are notes\n")
    error = refused(task, *images(task, "rsna", drawn / "rsna"), "--checkpoint", path)
    assert f"{path}: not a PyTorch file of tensors alone" in error


def test_box_outside_an_rsna_image(corpus, refused):
    table = corpus / "rsna" / "stage_2_train_labels.csv"
    line = line_with(table, ",1$")
    edit(table, r",.*,1$", ",900,900,300,100,1", line=line)
    error = refused("ground", "--data.kind", "rsna", "--data.path", table.parent)
    assert f"{table}: line {line}: the box " in error


def test_dicom_without_pixels_in_a_folder(corpus, refused):
    path = sorted((corpus / "rsna").rglob("*.dcm"))[0]
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)
    error = refused("zeroshot_cls", "--data.kind", "folder", "--data.path", path.parent)
    assert f"{path}: contains no image (no DICOM pixel data); remove it from the list" in error


def covidx(corpus: Path) -> list[object]:
    """Arguments that fine-tune on the lists of COVIDx, each of which is made to have a positive."""
    arguments: list[object] = []
    for part in ("train", "valid", "test"):
        edit(corpus / "covidx" / f"{part.removesuffix('id')}.txt", "negative", "positive", line=1)
        arguments += [f"--data.{part}.kind", "covidx", f"--data.{part}.path", corpus / "covidx"]
        arguments += [f"--data.{part}.split", part]
    return arguments


def test_patient_in_two_splits(corpus, refused):
    """The test would be on what was learnt from."""
    train, test = (corpus / "covidx" / f"{name}.txt" for name in ("train", "test"))
    patient = train.read_text().split()[0]
    edit(test, r"^p\d+", patient, line=2)
    first, second = train.read_text().split()[1], test.read_text().splitlines()[1].split()[1]
    error = refused("finetune_cls", *covidx(corpus))
    assert f"one patient is in train and in test ({first} and {second}); keep it in one of them" in error
    assert "COVIDx CXR-4 (test.txt)" in error


def test_patient_of_the_scored_images_among_the_validation_images(corpus, refused):
    table = corpus / "findings.csv"
    arguments = [
        f"--{part}.{key}={value}"
        for part in ("data", "validation")
        for key, value in (("kind", "csv"), ("path", table))
    ]
    patient = table.read_text().splitlines()[line_with(table, ",test,") - 1].split(",")[2]
    edit(table, r",p\d+,valid,", f",{patient},valid,")
    error = refused("zeroshot_cls", *arguments, "--data.split", "test", "--validation.split", "valid")
    assert "keep it in one of them" in error
    assert patient not in error


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_class_that_no_image_has(corpus, refused, name):
    """Training would learn that there is nothing, and its test would be without a score."""
    arguments, path = covidx(corpus), corpus / "covidx" / f"{name}.txt"
    path.write_text(path.read_text().replace("positive", "negative"))
    error = refused("finetune_cls", *arguments)
    assert f"COVIDx CXR-4 ({name}.txt): class COVID-19 is present in none of the " in error
    assert "use more images" in error


def test_masks_that_are_all_empty(corpus, refused):
    table = corpus / "siim_acr" / "train-rle.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(f"{line.split(',')[0]},-1" for line in lines[1:])]))
    error = refused("finetune_seg", *images("finetune_seg", "siim_acr", table.parent))
    assert "train-rle.csv" in error
    assert "has a mask" in error


KEYS = [
    ("ground", "threshold"),
    ("ground", "box_iou"),
    ("ground", "aside"),
    ("zeroshot_cls", "specificity"),
    ("finetune_cls", "specificity"),
    ("finetune_cls", "data.fraction"),
    ("finetune_seg", "data.fraction"),
    ("finetune_cls", "data.valid_fraction"),
    ("finetune_seg", "data.test_fraction"),
]


@pytest.mark.parametrize(("task", "key"), KEYS)
@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan", ".nan"])
def test_share_outside_0_to_1(refused, task, key, value):
    """Every comparison with nan is false: it would pass for a threshold, and every score would be of nothing."""
    data = () if task.startswith("finetune") else ("--data.kind=folder", "--data.path=x")
    error = refused(task, *data, f"--{key}={value}")
    assert key.rpartition(".")[2] in error
    assert value.lstrip(".") in error
    assert "Union" not in error
    assert "subtypes" not in error


@pytest.mark.parametrize("task", ["finetune_cls", "finetune_seg"])
def test_fewer_resamples_than_none(refused, task):
    """It would be found after hours of training, with the scores lost."""
    assert "resamples: -1 is less than 0" in refused(task, "--resamples", -1)


@pytest.mark.parametrize(
    ("task", "kind", "key"),
    [("zeroshot_cls", "rsna", "split"), ("zeroshot_cls", "folder", "images"), ("prepare_data", "csv", "masks"),
     ("ground", "coco", "list")],
)  # fmt: skip
def test_option_that_a_kind_of_data_does_not_have(refused, task, kind, key):
    """Who asks for the validation split would be given all images."""
    error = refused(task, f"--data.kind={kind}", f"--data.{key}=valid")
    assert f"data.{key}: data of kind {kind} has no such option; it has path, " in error


def test_threshold_outside_0_to_1_in_a_yaml(refused, tmp_path):
    (tmp_path / "all.yaml").write_text("grounding: {phantom: {data: {kind: folder, path: x}, threshold: 1.5}}\n")
    error = refused("evaluate_all", "--config", tmp_path / "all.yaml")
    assert f"{tmp_path}/all.yaml: " in error
    assert "threshold: 1.5 is outside 0..1" in error


@pytest.mark.parametrize("part", ["train", "val", "test"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_file_that_is_not_an_image_is_found_before_the_training(corpus, refused, part, content, monkeypatch):
    """It would be found after hours of training, at the first look at the test images."""
    monkeypatch.setattr("medslip.tasks.finetune._run_seed", lambda *_: pytest.fail("trained"))
    path = sorted((corpus / "covidx" / part).iterdir())[-1]
    path.write_bytes(content)
    assert f"{path}: " in refused("finetune_cls", *covidx(corpus))


def test_film_that_is_not_an_image_is_found_before_the_training(corpus, refused, monkeypatch):
    monkeypatch.setattr("medslip.tasks.finetune._run_seed", lambda *_: pytest.fail("trained"))
    findings = (corpus / "findings.jsonl").read_text().splitlines()
    marked = next(json.loads(line) for line in findings if '"split": "test", "pathology": "effusion' in line)
    (corpus / marked["image"]).write_bytes(b"<html>not found</html>")
    error = refused("finetune_seg", *images("finetune_seg", "coco", corpus / "coco"), "--data.train.split", "test")
    assert f"{corpus / marked['image']}: neither PNG, JPEG nor DICOM" in error


def test_image_that_is_cut_short_leaves_no_run_folder(corpus, refused):
    """Its header is whole, so it is met on the way: what was begun must not look like a run."""
    path = sorted((corpus / "covidx" / "train").iterdir())[0]
    path.write_bytes(path.read_bytes()[:600])
    error = refused("finetune_cls", *covidx(corpus), "--train.batch_size", 64)
    assert f"{path}: damaged or truncated" in error
