import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from medslip.cli import TASKS, parse

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
    module = importlib.import_module(f"medslip.tasks.{task}")
    commands = getattr(module, "SUBCOMMANDS", None)
    if not arguments or "--help" in arguments or arguments[0] in ("SOURCE", "..."):
        return
    config_class = commands[arguments.pop(0)][0] if commands else module.COMMAND[0]
    parse(config_class, arguments)


def test_the_first_block_is_two_lines_and_ci_runs_the_second():
    """Two copy-paste lines are the promise; CI must check what a user is told to type."""
    block = re.search(r"```\w*\n(.*?)```", README, re.DOTALL).group(1).strip().splitlines()
    assert len(block) == 2
    assert "scripts/demo.py" in block[0]
    printed = subprocess.run(
        ["bash", "-c", "eval() { :; }; . .ci/run"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert printed == f"+ {block[1]}\n"


def test_the_python_example_runs(tmp_path, monkeypatch):
    """Names that the README imports must exist."""
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    imports = "\n".join(line for line in code.splitlines() if line.startswith(("import", "from")))
    subprocess.run([sys.executable, "-c", imports], check=True, cwd=ROOT)
