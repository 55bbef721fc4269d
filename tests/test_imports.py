"""Two rules, checked in the sources: imports go one way, and each heavy dependency is imported by few modules."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "medslip"

LEVELS = (
    {"errors", "version", "resources"},
    {"files"},
    {"vocabulary"},
    {"labels"},
    {"model", "losses", "data"},
    {"checkpoints", "data_options"},
    {"config", "training", "evaluation"},
    {"run_dir"},
    {"predictor"},
    {"phantoms"},
    {"tasks"},
    {"cli"},
)
"""From the bottom up; a package may import from the levels below its own, and from itself."""

LEVEL = {package: level for level, packages in enumerate(LEVELS) for package in packages}

OWNERS = {
    "transformers": ("model/text_encoder.py",),
    "pydicom": ("data/dicom.py", "phantoms/dicom.py"),
    "torch.distributed": ("training/distributed.py",),
    "torch.nn.parallel": ("training/distributed.py",),
    "matplotlib": ("evaluation/figures.py",),
    "jsonargparse": ("config.py",),
    "safetensors": ("model/weights.py",),
    "huggingface_hub": ("checkpoints/hub.py", "predictor.py"),
    "radgraph": ("labels/extractors.py",),
    "jinja2": ("evaluation/run_page.py",),
    "markupsafe": ("evaluation/run_page.py",),
}

FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def package_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_package_has_a_level():
    """A package that this file does not know would escape the rule."""
    assert {package_of(path) for path in FILES} - {"__init__"} <= LEVEL.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    """Data that depend on training, or a model that depends on data, could not be used, tested or read alone."""
    package = package_of(path)
    if package == "__init__":
        return  # the public API
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "medslip" or parts[1] == package:
            continue
        assert LEVEL[parts[1]] < LEVEL[package], f"{package} imports {name}"


def test_only_the_demo_and_make_phantom_import_phantoms():
    """Otherwise phantoms could be handled in a way of their own, unlike real data."""
    users = {path for path in FILES if any(name.startswith("medslip.phantoms") for name in imported(path))}
    files = {user.relative_to(PACKAGE).as_posix() for user in users if package_of(user) != "phantoms"}
    assert files <= {"tasks/demo.py", "tasks/make_phantom.py"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_heavy_dependency_has_one_owner(path):
    """So that it can be replaced, or be left out where it is not needed, in one place."""
    file = path.relative_to(PACKAGE).as_posix()
    for name in imported(path):
        for dependency, owners in OWNERS.items():
            if name == dependency or name.startswith(f"{dependency}."):
                assert file in owners, f"{file} imports {name}"
