"""Every script, on phantoms, as a user runs them: draw, prepare, pre-train, classify; and what they say without any."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pandas as pd
import pytest
import yaml

from medslip.cli import TASKS, run_task
from medslip.errors import InputError
from medslip.tasks import demo
from medslip.tasks.demo import DemoConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demonstrated(tmp_path_factory):
    """A shortened demo: 320 phantoms, 1 epoch."""
    folder = tmp_path_factory.mktemp("demo")
    before = Path.cwd()
    os.chdir(folder)
    try:
        demo.run(DemoConfig(studies=320, epochs=1))
    finally:
        os.chdir(before)
    return folder


def test_demo_ends_in_scores_figures_and_a_checkpoint(demonstrated):
    zeroshot = demonstrated / "runs" / "phantom" / "zeroshot_cls"
    metrics = json.loads((zeroshot / "metrics.json").read_text())
    assert len(metrics["scores"]) >= 15
    assert metrics["scores"][-1]["class"] == "mean"
    assert metrics["scores"][-1]["auroc"]["value"] is not None
    for name in ("predictions.csv", "roc.png", "precision_recall.png", "answers.png", "config.yaml"):
        assert (zeroshot / name).stat().st_size > 0
    assert (demonstrated / "runs" / "phantom" / "pretrain" / "best.safetensors").is_file()
    assert (demonstrated / "runs" / "phantom" / "ground" / "overlays.png").is_file()
    segmented = json.loads((demonstrated / "runs/phantom/finetune_seg/metrics.json").read_text())["scores"]
    assert "dice_on_positives" in {row["score"] for row in segmented}
    page = (demonstrated / "runs" / "phantom" / "run.html").read_text()
    for run in ("pretrain", "zeroshot_cls", "ground", "finetune_seg"):
        assert run in page


def test_demo_uses_again_what_is_there(demonstrated, monkeypatch, capsys):
    """A second run of the README's first line must not train again."""
    monkeypatch.chdir(demonstrated)
    stamp = (demonstrated / "runs/phantom/pretrain/best.safetensors").stat().st_mtime_ns
    demo.run(DemoConfig(studies=320, epochs=1))
    assert (demonstrated / "runs/phantom/pretrain/best.safetensors").stat().st_mtime_ns == stamp
    said = capsys.readouterr().out
    assert "already prepared" in said
    assert "already trained" in said
    assert said.count("already there") == 3  # the phantoms, grounding, fine-tuning
    assert "thumbnails" in said


def test_preparing_the_same_phantoms_again_is_no_reason_to_train_again(demonstrated, monkeypatch, capsys):
    """The same lists, written later, would be taken for others, and a good model be thrown away."""
    monkeypatch.chdir(demonstrated)
    assert run_task("prepare_data", []) == 0
    demo.run(DemoConfig(studies=320, epochs=1))
    assert "already trained" in capsys.readouterr().out
    cells = demonstrated / "data_file" / "phantom_prepared" / "labels" / "cells.bin"
    before = cells.read_bytes()
    cells.write_bytes(before[:-2])
    with pytest.raises(InputError, match="holds a run on other phantoms"):
        demo.run(DemoConfig(studies=320, epochs=1))
    cells.write_bytes(before)


def test_demo_goes_on_where_it_was_stopped(demonstrated, tmp_path, monkeypatch, capsys):
    """A step that was stopped half-way would lock its folder, and cost the whole pre-training."""
    shutil.copytree(demonstrated, tmp_path / "demo")
    monkeypatch.chdir(tmp_path / "demo")
    for step in ("finetune_seg", "zeroshot_cls"):
        (tmp_path / "demo" / "runs" / "phantom" / step / "metrics.json").unlink()
    demo.run(DemoConfig(studies=320, epochs=1))
    assert (tmp_path / "demo" / "runs/phantom/finetune_seg/metrics.json").is_file()
    assert "already trained" in capsys.readouterr().out


def test_zeroshot_script_without_arguments_takes_the_newest_phantom_run(demonstrated):
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "zeroshot_cls.py")],
        cwd=demonstrated,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\nmean " in done.stdout


def test_zeroshot_reads_the_phantoms_chestxray14_layout(demonstrated, monkeypatch, tmp_path):
    """What is written in a publisher's layout must be read by that publisher's reader, with the same labels."""
    monkeypatch.chdir(demonstrated)
    arguments = ["--checkpoint", "runs/phantom/pretrain/best.safetensors"]
    arguments += ["--data.kind", "cxr14", "--data.path", "data_file/phantom/cxr14"]
    assert run_task("zeroshot_cls", [*arguments, "--output", str(tmp_path / "out"), "--workers", "0"]) == 0
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    truth = pd.read_csv(demonstrated / "data_file/phantom/findings.csv").query("split == 'test'")
    assert len(predictions) == len(truth)
    assert predictions["label_Effusion"].sum() == truth["effusion"].sum()
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    notes = {row["class"]: row["note"] for row in metrics["scores"]}
    assert notes["Pneumonia"] == "no positives"  # phantoms have none: said, and not a NaN in the mean
    assert "without Pneumonia" in notes["mean"]


def test_a_folder_of_images_and_a_free_text_query_need_no_labels(demonstrated, monkeypatch, tmp_path):
    monkeypatch.chdir(demonstrated)
    images = next((demonstrated / "data_file/phantom/cxr14").glob("images_*/images"))
    arguments = ["--checkpoint", "runs/phantom/pretrain/best.safetensors", "--workers", "0"]
    arguments += ["--data.kind", "folder", "--data.path", str(images)]
    arguments += ["--prompt", '{"broken rib": "rib fracture: a break in the line of a rib"}']
    assert run_task("zeroshot_cls", [*arguments, "--output", str(tmp_path / "out")]) == 0
    assert "broken rib" in pd.read_csv(tmp_path / "out" / "predictions.csv").columns


@pytest.mark.parametrize("task", sorted(TASKS))
def test_help_explains_every_script(task, capsys):
    module = importlib.import_module(f"medslip.tasks.{task}")
    commands = getattr(module, "SUBCOMMANDS", None)
    for source, (config_class, _) in commands.items() if commands else [("", module.COMMAND)]:
        with pytest.raises(SystemExit) as ended:
            run_task(task, [*source.split(), "--help"])
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


def test_run_config_is_plain_yaml(demonstrated):
    config = yaml.safe_load((demonstrated / "runs/phantom/pretrain/config.yaml").read_text())
    assert config["train"]["epochs"] == 1


@pytest.mark.parametrize("studies", [100, 5000])
def test_a_small_demo_goes_on_without_masks_and_a_large_one_says_what_is_wrong(studies, tmp_path, monkeypatch, capsys):
    """Few phantoms may leave no mask to learn from; that must not cost the report of everything else."""
    monkeypatch.setattr(demo.make_phantom, "run", lambda config: None)
    monkeypatch.setattr(demo, "_prepare", lambda config: None)
    monkeypatch.setattr(demo, "_pretrain", lambda config: tmp_path / "pretrain" / "best.safetensors")
    for name in ("pretrain", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text('{"task": "a run"}')
    for step in ("_classify", "_ground"):
        monkeypatch.setattr(demo, step, lambda config, checkpoint: tmp_path / "run")

    def refuse(config, checkpoint):
        raise InputError("none of the 3 images to test has a mask")

    monkeypatch.setattr(demo, "_segment", refuse)
    if studies == 5000:
        with pytest.raises(InputError, match="none of the 3 images"):
            demo.run(DemoConfig(output=tmp_path, studies=studies))
        return
    demo.run(DemoConfig(output=tmp_path, studies=studies))
    assert "left out: none of the 3 images" in capsys.readouterr().out
    assert (tmp_path / "run.html").is_file()
