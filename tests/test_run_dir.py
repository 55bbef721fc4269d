"""Run directories: what they hold, and what is left of a run whose input is bad."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest

from medslip import run_dir
from medslip.errors import InputError
from medslip.evaluation.classification import score
from medslip.evaluation.run_page import METRICS_FORMAT, METRICS_VERSION
from medslip.run_dir import (
    agreed_folder,
    bootstrap_settings,
    environment,
    finish,
    read_metrics,
    removed_on_error,
    write_json,
    write_metrics,
)
from medslip.training.distributed import processes
from medslip.training.engine import TrainConfig
from medslip.version import __version__


def begin(folder: Path, weights: bool) -> None:
    (folder / "seed_0").mkdir(parents=True)
    (folder / "config.yaml").write_text("a: 1\n")
    (folder / "valid_list.txt").write_text("a.png\n")
    if weights:
        (folder / "seed_0" / "best.safetensors").touch()


def run_that_ends_with(error: BaseException, folder: Path, weights: bool = False) -> None:
    with removed_on_error(folder):
        begin(folder, weights)
        raise error


@pytest.mark.parametrize("error", [InputError("a.png: cut short"), OSError(28, "No space left on device", "a.png")])
def test_a_run_that_cannot_go_on_leaves_no_folder(tmp_path, error):
    """The second try, with the right input or more space, would be told that the folder is in use."""
    with pytest.raises(type(error), match=r"a\.png"):
        run_that_ends_with(error, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trained_weights_are_never_removed(tmp_path):
    """A bad test image would cost the training."""
    with pytest.raises(InputError, match=r"a\.png"):
        run_that_ends_with(InputError("a.png: cut short"), tmp_path / "run", weights=True)
    assert (tmp_path / "run" / "seed_0" / "best.safetensors").exists()
    assert (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()])
def test_after_any_other_end_the_folder_stays_to_be_looked_at(tmp_path, error):
    with pytest.raises(type(error)):
        run_that_ends_with(error, tmp_path / "run")
    assert (tmp_path / "run" / "valid_list.txt").exists()


def test_somebody_elses_folder_is_refused_and_stays(tmp_path):
    """A wrong --output would delete what is there."""
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        run_dir.begin(tmp_path, None)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


FIRST = '{"kind": "validation"}\n'
STARTED, RESUMED, USED, NOTHING = "started", "resumed", "not empty", "no run to resume"


@pytest.mark.parametrize(
    ("files", "plain", "true", "auto"),
    [
        (None, STARTED, NOTHING, STARTED),
        ({}, STARTED, STARTED, STARTED),
        ({"config.yaml": "", "log.jsonl": ""}, STARTED, STARTED, STARTED),
        ({"config.yaml.partial": "", ".tmpEjlE8B": "", "last.safetensors.partial": ""}, STARTED, STARTED, STARTED),
        ({"config.yaml": "", "log.jsonl": FIRST, "best.safetensors": ""}, USED, STARTED, STARTED),
        ({"config.yaml": "", "log.jsonl": 2 * FIRST, "best.safetensors": ""}, USED, RESUMED, RESUMED),
        ({"config.yaml": "", "last.safetensors": "", "seed_0/.tmpEjlE8B": ""}, USED, RESUMED, RESUMED),
        ({"config.yaml": "", "log.jsonl": FIRST, "best.safetensors": "", "run.html": ""}, USED, RESUMED, RESUMED),
        ({"thesis.txt": ""}, USED, NOTHING, USED),
        ({"thesis.zip.partial": ""}, USED, NOTHING, USED),
    ],
)
@pytest.mark.parametrize("resume", [False, True, "auto"])
def test_what_lies_in_the_folder_decides_whether_a_run_starts(tmp_path, files, plain, true, auto, resume):
    """A requeued job would be refused for ever, or delete what is not its own."""
    folder = tmp_path / "run"
    for name, text in ({} if files is None else files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    if files == {}:
        folder.mkdir()
    expected = {False: plain, True: true, "auto": auto}[resume]
    with processes("cpu") as world:
        if expected in (USED, NOTHING):
            with pytest.raises(InputError, match=expected):
                agreed_folder(folder, "task", world, resume)
        else:
            assert agreed_folder(folder, "task", world, resume) == (folder, expected == RESUMED)
    if files and expected != STARTED:
        kept = set(files) - {"seed_0/.tmpEjlE8B"} | {".lock"} if expected == RESUMED else set(files)
        assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == kept
    elif resume:
        assert [path.name for path in folder.glob("*")] in ([], [".lock"])


OWNER = """
import os, sys, time
from pathlib import Path
from medslip import run_dir
run_dir.lock(Path(sys.argv[1]))
if child := os.fork():
    print(child, flush=True)
time.sleep(60)
"""


def test_only_one_process_runs_in_a_folder_and_a_killed_one_keeps_nothing(tmp_path):
    """Two runs would mix their logs and replace each other's weights; a lock left behind would end every restart.

    A worker process that outlives the run holds no lock.
    """
    folder = tmp_path / "run"
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    worker = int(owner.stdout.readline())
    try:
        with processes("cpu") as world:
            for start in (
                lambda: run_dir.begin(folder, TrainConfig()),
                lambda: agreed_folder(folder, "t", world, "auto"),
            ):
                with pytest.raises(InputError, match=rf"^{folder}: process {owner.pid} on \S+ is writing to it; wait"):
                    start()
            assert [path.name for path in folder.iterdir()] == [".lock"]
            owner.kill()
            owner.wait()
            os.kill(worker, 0)  # is still there
            run_dir.begin(folder, TrainConfig())
    finally:
        os.kill(worker, signal.SIGKILL)
        owner.kill()
        owner.wait()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    """Some network file systems have none: the run must go on."""
    monkeypatch.setattr("fcntl.lockf", Mock(side_effect=OSError(37, "No locks available")))
    run_dir.begin(tmp_path, TrainConfig())
    assert (
        f"{tmp_path}/.lock: cannot be locked ([Errno 37] No locks available); let no other run"
        in capsys.readouterr().err
    )


def read_strictly(path: Path) -> Any:
    def fail(word: str):
        raise AssertionError(f"{path} holds {word}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=fail)


def test_json_holds_no_nan_and_takes_numpy_and_paths(tmp_path):
    data = {"a": np.float32("nan"), "b": [np.inf, np.int8(3)], "c": Path("x"), "d": np.array([[1.5, np.nan]]), 5: ()}
    write_json(tmp_path / "new" / "x.json", data)
    expected = {"a": None, "b": [None, 3], "c": "x", "d": [[1.5, None]], "5": []}
    assert read_strictly(tmp_path / "new" / "x.json") == expected


def test_a_failed_write_leaves_the_earlier_file(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert read_strictly(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def example() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (120, 2)).astype(np.int8)
    labels[:, 1] = 0
    return score(["Mass", "Hernia"], labels, rng.random((120, 2)), [str(k // 2) for k in range(120)], 30)


def test_metrics_have_the_documented_form_and_no_nan(tmp_path, estimates_of):
    settings = {"checkpoint": "c", **bootstrap_settings(30, 0, ["p"])}
    page = finish(tmp_path, "zero-shot classification", {"name": "x", "images": 120}, {"scores": example()}, settings)
    metrics = read_strictly(tmp_path / "metrics.json")
    assert read_metrics(tmp_path) == metrics
    assert (metrics["format"], metrics["version"]) == (METRICS_FORMAT, METRICS_VERSION)
    assert (metrics["data"], metrics["checkpoint"]) == ({"name": "x", "images": 120}, "c")
    assert metrics["bootstrap"] == {"resamples": 30, "seed": 0, "unit": "patient", "level": 0.95}
    mass, hernia, mean = metrics["scores"]
    assert (mass["class"], hernia["note"], mean["class"], mean["positives"]) == ("Mass", "no positives", "mean", None)
    assert estimates_of(tmp_path)["/scores/Mass/auroc"]["low"] is not None
    assert page.is_file()


def test_the_bootstrap_says_what_it_resampled():
    """Intervals over single images would pass for intervals over patients, which are wider."""
    for patients, unit in ((["", ""], "image"), (["", "p"], "patient"), (pd.Series(["", ""]), "image")):
        assert bootstrap_settings(5, 0, patients)["bootstrap"]["unit"] == unit


def test_a_setting_cannot_replace_a_table(tmp_path):
    with pytest.raises(ValueError, match="scores"):
        write_metrics(tmp_path, "t", {}, {"scores": example()}, {"scores": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not found; give the directory"),
        ("{", "not a complete JSON file"),
        ("[]", "is not the metrics.json"),
        ("{}", "is not the metrics"),
    ],
)
def test_what_is_not_a_run_is_refused(tmp_path, text, message):
    """A traceback for a mistyped folder."""
    if text is not None:
        (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_metrics(tmp_path)


def test_the_documentation_gives_the_version_and_every_column_of_scores(tmp_path):
    """Whoever reads a metrics.json by docs/metrics.md would meet what it does not explain, or another version."""
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert f'"version": {METRICS_VERSION}' in page
    assert f"| {METRICS_VERSION} |" in page
    for name in (*example(), "resamples", "unit", "data", "environment", "subgroups", "subgroup_gaps", "reliability"):
        assert re.search(rf"\b{name}\b", page), name


def test_environment_names_versions_and_the_device():
    found = environment()
    assert found["medslip"] == __version__
    assert found["device"] == "cpu"
    assert all(found[key] for key in ("python", "torch", "numpy", "device_name", "cpus"))
