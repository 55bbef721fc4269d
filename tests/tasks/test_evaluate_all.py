"""All data sets at once: one table, what is missing named, and one that is broken does not stop the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from medslip.cli import run_task
from medslip.config import parse, phantom_config
from medslip.errors import InputError
from medslip.tasks import ground, zeroshot_cls
from medslip.tasks.evaluate_all import EvaluateAllConfig, combine, results_table, run

CONFIG = Path(__file__).parents[2] / "configs" / "evaluate_all" / "paper.yaml"


@pytest.fixture
def config(corpus: Path, tiny_checkpoint: Path, tmp_path: Path) -> EvaluateAllConfig:
    made = phantom_config(
        EvaluateAllConfig, "evaluate_all", corpus, checkpoint=tiny_checkpoint, output=tmp_path / "run"
    )
    assert set(made.classification) == {"phantom", "cxr14", "rsna", "siim_acr", "covidx"}
    assert set(made.grounding) == {"phantom", "rsna", "cxr14"}
    # One of several classes is enough, and its figures take long.
    few = {name: entry for name, entry in made.classification.items() if name not in ("phantom", "rsna")}
    places = {name: entry for name, entry in made.grounding.items() if name != "cxr14"}
    return replace(made, classification=few, grounding=places, resamples=5, workers=0, device="cpu")


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing takes longer than everything else here; the tests of the single tasks draw."""
    for module, name in ((zeroshot_cls, "draw"), (ground, "overview")):
        monkeypatch.setattr(module, name, lambda *arguments: None)


def test_every_layout_is_in_one_table_beside_its_own_run(config, no_figures, capsys, estimates_of):
    """A data set would be missing, or its number differ from its own run's."""
    output = run(config)
    page = (output / "results.md").read_text()
    assert page in capsys.readouterr().out
    assert "mean without Fibrosis" in page
    table = pd.read_csv(output / "results.csv", keep_default_na=False)
    assert set(table["data_set"]) == {"cxr14", "siim_acr", "covidx", "phantom", "rsna"}
    for name in config.classification:
        metrics = json.loads((output / "zeroshot_cls" / name / "metrics.json").read_text())
        lines = table.query("data_set == @name and score == 'auroc' and task != 'grounding'").set_index("class")
        mean = next(row for row in metrics["scores"] if row["class"] == "mean")
        assert float(lines["value"]["mean"]) == pytest.approx(mean["auroc"]["value"])
        assert f"| {name} " in page
    for name in config.grounding:
        metrics = json.loads((output / "grounding" / name / "metrics.json").read_text())
        # The tiny model's patches are a quarter of the image: not every data set has a larger finding.
        prior = [row for row in metrics["scores"] if (row["class"], row["map"]) == ("all findings", "prior")]
        for row in prior:
            lines = table[
                (table["data_set"] == name) & (table["findings"] == row["findings"]) & (table["map"] == "prior")
            ]
            value = lines[(lines["class"] == "all findings") & (lines["score"] == "iou")]["value"].item()
            assert float(value) == pytest.approx(row["iou"]["value"])
        assert prior
    assert "COVID-19" in (output / "run.html").read_text()
    together = json.loads((output / "metrics.json").read_text())
    assert [state["state"] for state in together["data_sets"]] == ["done"] * 5
    assert (together["classification"][0]["data_set"], together["grounding"][0]["data_set"]) == ("cxr14", "phantom")
    places = estimates_of(output)
    assert len([place for place in places if "model - prior" not in place]) == len(table)


def test_data_sets_without_labels_alone_give_an_empty_table():
    """A run over folders of images would end in a traceback, after all were classified."""
    assert list(results_table(combine({}))) == [
        "data_set", "task", "findings", "class", "map", "score", "value", "low", "high", "n",
    ]  # fmt: skip


def test_what_is_missing_is_named_and_what_is_broken_does_not_stop_the_others(config, no_figures, tmp_path, capsys):
    (tmp_path / "broken").mkdir()
    entry = config.classification["covidx"]
    sets = {
        "broken": replace(entry, data=replace(entry.data, path=tmp_path / "broken")),
        "missing": replace(entry, data=replace(entry.data, path=tmp_path / "nowhere")),
        "covidx": entry,
    }
    with pytest.raises(InputError, match=r"^zeroshot_cls on broken: .*test.txt.*the others are in"):
        run(replace(config, classification=sets, grounding={}))
    page = (config.output / "results.md").read_text()
    assert f"missing (zeroshot_cls): not found: {tmp_path / 'nowhere'}" in page
    assert "broken (zeroshot_cls): failed" in page
    run_page = (config.output / "run.html").read_text()
    assert run_page.index(str(tmp_path / "nowhere")) < run_page.index("<h2>Zero-shot classification: COVIDx")
    assert "| covidx " in page


def test_nothing_there_is_one_line_and_status_2(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """An empty table would look like a result."""
    monkeypatch.chdir(tmp_path)
    arguments = ["--checkpoint", str(tiny_checkpoint), "--config", str(CONFIG), "--output", "out"]
    assert run_task("evaluate_all", arguments) == 2
    error = capsys.readouterr().err
    assert "no data set found: data_file/cxr14, data_file/rsna" in error
    assert error.count("\n") == 1
    assert not Path("out").exists()
    assert run_task("evaluate_all", []) == 2
    assert "python scripts/" in capsys.readouterr().err


def test_one_path_of_the_yaml_can_be_changed_on_the_command_line():
    """A data set in another place would need a copy of the file."""
    config = parse(EvaluateAllConfig, ["--config", str(CONFIG), "--checkpoint=x", "--classification.rsna.data.path=y"])
    assert config.classification["rsna"].data.path == Path("y")
    assert config.classification["rsna"].data.equalise
    assert config.grounding["rsna"].data.path == Path("data_file/rsna")


def test_data_sets_must_have_names():
    with pytest.raises(InputError, match="classification: is a group of keys and cannot be set to '3'"):
        parse(EvaluateAllConfig, ["--checkpoint=x", "--classification", "3"])


def test_a_name_that_is_no_folder_is_refused():
    with pytest.raises(InputError, match="cannot be the name of a data set"):
        parse(EvaluateAllConfig, ["--checkpoint=x", "--classification", "{../x: {data: {kind: folder, path: x}}}"])
