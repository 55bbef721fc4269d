"""The wheel and the sdist, built and used in another folder, as people who install the package use it."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"


def run(arguments, folder, **environment):
    """Run Python, without this checkout on its path; returns what it printed."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=kept | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folder with the installed wheel, and the files of sdist and wheel; both built from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    checkout = folder / "checkout"
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], capture_output=True
    )
    if listed.returncode:
        pytest.skip("needs a git checkout")
    for name in listed.stdout.decode().split("\0")[:-1]:
        if (ROOT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            (checkout / name).write_bytes((ROOT / name).read_bytes())
    sdist = folder / run(["-c", BUILD, "build_sdist", folder], checkout).split()[-1]
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    wheel = folder / run(["-c", BUILD, "build_wheel", folder], source).split()[-1]
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_file_of_the_package(built):
    """Templates, rules, configs and py.typed are needed where no checkout is."""
    files = {path.relative_to(ROOT) for path in (ROOT / "medslip").rglob("*") if path.is_file()}
    wanted = {path for path in files if "__pycache__" not in path.parts}
    assert {path for path in wanted if not (built / path).is_file()} == set()


def test_the_installed_package_works_in_another_folder(built, tmp_path):
    """Draw phantoms and prepare them: reads resources, writes only here."""
    code = (
        "import sys, medslip; from medslip.cli import main; print(medslip.__file__); "
        "commands = '--help', 'make_phantom --studies 40 --side 64 --workers 1', 'prepare_data'; "
        "sys.exit(any(main(command.split()) for command in commands))"
    )
    said = run(["-c", code], tmp_path, PYTHONPATH=str(built), OMP_NUM_THREADS="1")
    assert "zeroshot_cls" in said
    assert (tmp_path / "data_file" / "phantom_prepared" / "train.csv").is_file()
    assert Path(said.splitlines()[0]).is_relative_to(built)
