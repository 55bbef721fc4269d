"""The demo and every script, run on phantoms as a user runs them, and their messages where there are no phantoms."""

import contextlib
import importlib
import json
import re
import shutil
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import get_type_hints

import nbformat
import pandas as pd
import pytest
import yaml
from nbclient import NotebookClient

from medslip import config
from medslip.cli import TASKS, run_task
from medslip.errors import InputError
from medslip.tasks import demo
from medslip.tasks.demo import DemoConfig
from medslip.tasks.make_phantom import MakePhantomConfig

ROOT = Path(__file__).parents[2]
SHORT = DemoConfig(studies=320, epochs=1)
RUNS = Path("runs/phantom")
BEST = RUNS / "pretrain" / "best.safetensors"


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    """The folder of a short demo, by the packaged configs with smaller images and fewer epochs and resamples."""
    folder, configs = tmp_path_factory.mktemp("demo"), tmp_path_factory.mktemp("configs")
    for file in config.PHANTOM_CONFIGS.iterdir():
        text = file.read_text().replace("side: 128", "side: 64").replace("epochs: 8", "epochs: 1")
        scored = file.stem in ("zeroshot_cls", "ground", "finetune_seg")
        (configs / file.name).write_text(text + "resamples: 50\n" * scored)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.setattr(config, "PHANTOM_CONFIGS", configs)
        patch.setattr(demo.make_phantom, "MakePhantomConfig", partial(MakePhantomConfig, side=64, workers=1))
        demo.run(SHORT)
        yield folder


def test_demo_ends_in_scores_figures_and_a_checkpoint(demonstrated):
    runs = demonstrated / RUNS
    metrics = json.loads((runs / "zeroshot_cls" / "metrics.json").read_text())
    assert len(metrics["scores"]) >= 15
    assert metrics["scores"][-1]["class"] == "mean"
    assert metrics["scores"][-1]["auroc"]["value"] is not None
    for name in ("predictions.csv", "roc.png", "precision_recall.png", "predictions.png", "config.yaml"):
        assert (runs / "zeroshot_cls" / name).stat().st_size > 0
    assert (demonstrated / BEST).is_file()
    assert (runs / "ground" / "overlays.png").is_file()
    segmented = json.loads((runs / "finetune_seg" / "metrics.json").read_text())["scores"]
    assert "dice_on_positives" in {row["score"] for row in segmented}
    page = (runs / "run.html").read_text()
    assert all(run in page for run in ("pretrain", "zeroshot_cls", "ground", "finetune_seg"))
    assert yaml.safe_load((runs / "pretrain" / "config.yaml").read_text())["train"]["epochs"] == 1


def test_demo_repeats_what_is_unfinished_and_trains_again_for_other_phantoms_only(demonstrated, monkeypatch, capsys):
    """A second run of the README's first line would train again, or a step that was stopped half-way lock its folder.

    The same lists, written later, would be mistaken for others, and a good model thrown away.
    """
    monkeypatch.chdir(demonstrated)
    stamp = BEST.stat().st_mtime_ns
    for step in ("finetune_seg", "zeroshot_cls"):
        (RUNS / step / "metrics.json").unlink()
    assert run_task("prepare_data", []) == 0
    demo.run(SHORT)
    assert BEST.stat().st_mtime_ns == stamp
    assert (RUNS / "finetune_seg" / "metrics.json").is_file()
    said = capsys.readouterr().out
    for words in (
        "the corpus is already there",
        "already prepared",
        "already trained",
        "ground: already done",
        "thumbnails",
    ):
        assert words in said
    cells = Path("data_file/phantom_prepared/labels/cells.bin")
    before = cells.read_bytes()
    cells.write_bytes(before[:-2])
    with pytest.raises(InputError, match="contains a run on other phantoms"):
        demo.run(SHORT)
    cells.write_bytes(before)


def test_zeroshot_without_arguments_takes_the_newest_phantom_run(demonstrated, monkeypatch, capsys):
    monkeypatch.chdir(demonstrated)
    assert run_task("zeroshot_cls", []) == 0
    assert "\nmean " in capsys.readouterr().out


def test_zeroshot_reads_the_phantoms_chestxray14_layout(demonstrated, monkeypatch, tmp_path):
    """A score on the phantoms in a publisher's layout would be of other images or labels."""
    monkeypatch.chdir(demonstrated)
    arguments = ["--checkpoint", str(BEST), "--data.kind", "cxr14", "--data.path", "data_file/phantom/cxr14"]
    arguments += ["--resamples", "50"]
    assert run_task("zeroshot_cls", [*arguments, "--output", str(tmp_path / "out"), "--workers", "0"]) == 0
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    truth = pd.read_csv("data_file/phantom/findings.csv").query("split == 'test'")
    assert len(predictions) == len(truth)
    assert predictions["label_Effusion"].sum() == truth["effusion"].sum()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    notes = {row["class"]: row["note"] for row in metrics["scores"]}
    assert notes["Pneumonia"] == "no positives"  # phantoms have none, which must not make the mean NaN
    assert "without Pneumonia" in notes["mean"]


def test_a_folder_of_images_and_a_free_text_query_need_no_labels(demonstrated, monkeypatch, tmp_path):
    monkeypatch.chdir(demonstrated)
    images = sorted(Path("data_file/phantom/cxr14/images_001/images").iterdir())
    (tmp_path / "images").mkdir()
    shutil.copy(images[0], tmp_path / "images")
    arguments = ["--checkpoint", str(BEST), "--data.kind", "folder", "--data.path", str(tmp_path / "images")]
    arguments += ["--prompt", '{"broken rib": "rib fracture: a break in the line of a rib"}']
    assert run_task("zeroshot_cls", [*arguments, "--output", str(tmp_path / "out"), "--workers", "0"]) == 0
    assert "broken rib" in pd.read_csv(tmp_path / "out" / "predictions.csv").columns


def test_the_tutorial_runs(demonstrated):
    """The notebook is what most people try first; its pictures must be there."""
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(demonstrated)}}).execute()
    shown = [set(output["data"]) for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert sum("image/png" in kinds for kinds in shown) == 2
    assert sum("text/html" in kinds for kinds in shown) == 4


@pytest.mark.parametrize("task", sorted(TASKS))
def test_help_explains_every_script(task, capsys):
    config_class, _ = importlib.import_module(f"medslip.tasks.{task}").COMMAND
    with pytest.raises(SystemExit) as ended:
        run_task(task, ["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for field in fields(config_class):
        assert re.search(rf"--{field.name}\b", said), field.name
        if is_dataclass(get_type_hints(config_class)[field.name]):
            continue  # its own keys are explained instead
        documents = "\n".join(cls.__doc__ or "" for cls in config_class.__mro__[:-1])
        explained = re.search(rf"^ +{field.name}: (.*)$", documents, re.MULTILINE)
        assert explained, f"{field.name} has no explanation"
        assert " ".join(explained[1].split()[:4]) in said, field.name


@pytest.mark.parametrize("task", ["prepare_data", "pretrain", "zeroshot_cls"])
def test_without_phantoms_a_script_names_the_command_that_makes_them(task, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_task(task, []) == 2
    error = capsys.readouterr().err
    assert "python scripts/" in error
    assert error.count("\n") == 1


def test_each_task_has_its_script():
    for task in TASKS:
        assert (ROOT / "scripts" / f"{task}.py").is_file()


@pytest.mark.parametrize("studies", [100, 5000])
def test_only_a_small_demo_skips_fine_tuning_without_masks(studies, tmp_path, monkeypatch, capsys):
    """Few phantoms may have no mask to learn from; that must not cost the run page of everything else."""
    for name in ("pretrain", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text('{"task": "a run"}')
    monkeypatch.setattr(demo.make_phantom, "run", lambda config: None)
    monkeypatch.setattr(demo, "_prepare", lambda config: None)
    monkeypatch.setattr(demo, "_pretrain", lambda config: tmp_path / "pretrain" / "best.safetensors")
    for step in ("_classify", "_ground"):
        monkeypatch.setattr(demo, step, lambda config, checkpoint: tmp_path / "run")

    def fail(config, checkpoint):
        raise InputError("none of the 3 images of the test split has a mask")

    monkeypatch.setattr(demo, "_segment", fail)
    with contextlib.ExitStack() as stack:
        if studies == 5000:
            stack.enter_context(pytest.raises(InputError, match="none of the 3 images"))
        demo.run(DemoConfig(output=tmp_path, studies=studies))
    if studies == 100:
        assert "skipped: none of the 3 images" in capsys.readouterr().out
        assert (tmp_path / "run.html").is_file()
