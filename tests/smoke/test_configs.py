import importlib
from pathlib import Path

import pytest
import yaml

from medslip.cli import TASKS, parse
from medslip.tasks.pretrain import phantom_config
from medslip.tasks.run_start import PHANTOM_PREPARED, config_to_dict

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


def _config_class(file: Path) -> type:
    module = importlib.import_module(f"medslip.tasks.{file.parent.name}")
    commands = getattr(module, "SUBCOMMANDS", None) or {"": module.COMMAND}
    return commands.get(file.stem, commands.get(""))[0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_config_is_one_that_its_task_accepts(file):
    """A config with a key that was renamed would fail only when a user tries it."""
    assert file.parent.name in TASKS
    parse(_config_class(file), ["--config", str(file)])


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_config_holds_only_what_differs_from_the_defaults(file):
    """A default that is repeated goes stale when the default changes."""
    defaults = config_to_dict(parse(_config_class(file), []))

    def repeated(values, defaults, above=""):
        for key, value in values.items():
            if isinstance(value, dict) and isinstance(defaults[key], dict) and defaults[key]:
                yield from repeated(value, defaults[key], f"{above}{key}.")
            elif value == defaults[key]:
                yield above + key

    about = {"kind", "path", "list"}  # what the file is about may be spelt out
    assert {key.split(".")[-1] for key in repeated(yaml.safe_load(file.read_text()), defaults)} <= about


def test_the_demos_config_is_the_one_in_configs():
    """A reader of configs/pretrain/phantom.yaml must see what the demo runs."""
    class_ = _config_class(CONFIGS / "pretrain" / "phantom.yaml")
    written = parse(class_, ["--config", str(CONFIGS / "pretrain" / "phantom.yaml")])
    assert written == phantom_config(PHANTOM_PREPARED, written.output)
