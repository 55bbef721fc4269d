import importlib
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml

from medslip.cli import TASKS
from medslip.config import PHANTOM_CONFIGS, config_to_dict, parse, phantom_file

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path for path in CONFIGS.rglob("*.yaml") if not path.is_symlink()) + sorted(PHANTOM_CONFIGS.iterdir())
IDS = [f"{path.parent.name}/{path.name}" for path in FILES]


def _config_class(file: Path) -> type:
    task = file.stem if file.parent == PHANTOM_CONFIGS else file.parent.name
    return importlib.import_module(f"medslip.tasks.{task}").COMMAND[0]


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_every_config_is_one_that_its_task_accepts(file):
    """A config with a key that was renamed would fail only when a user tries it."""
    config_class = _config_class(file)
    keys = {field.name for field in fields(config_class)}
    checkpoint = ["--checkpoint", "x"] if "checkpoint" in keys else []
    parse(config_class, ["--config", str(file), *checkpoint])


def _defaults(config_class: type) -> dict:
    """Key -> default, as in YAML; without the keys that have none."""
    kinds, defaults = get_type_hints(config_class), {}
    for field in fields(config_class):
        if field.default is not MISSING:
            defaults[field.name] = config_to_dict(field.default)
        elif field.default_factory is not MISSING:
            defaults[field.name] = config_to_dict(field.default_factory())
        elif is_dataclass(kinds[field.name]):
            defaults[field.name] = _defaults(kinds[field.name])
    return defaults


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_a_config_holds_only_what_differs_from_the_defaults(file):
    """A default that is repeated goes stale when the default changes."""

    def repeated(values, defaults, above=""):
        for key, value in values.items():
            if isinstance(value, dict) and defaults.get(key):
                yield from repeated(value, defaults[key], f"{above}{key}.")
            elif key in defaults and value == defaults[key]:
                yield above + key

    about = {"kind", "path", "list"}  # what the file is about may be spelt out
    found = repeated(yaml.safe_load(file.read_text()), _defaults(_config_class(file)))
    assert {key.split(".")[-1] for key in found} <= about


def test_each_task_that_needs_data_has_one_phantom_config():
    """Without arguments, every other task would fail; and a copy in configs/ would drift from what the demo runs."""
    assert {task for task in TASKS if phantom_file(task) is None} == {
        "compare",
        "convert_authors_release",
        "demo",
        "make_phantom",
    }
    for task in TASKS:
        if (copy := CONFIGS / task / "phantom.yaml").exists():
            assert copy.resolve() == phantom_file(task)
