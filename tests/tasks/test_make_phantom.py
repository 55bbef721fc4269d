"""Making a phantom corpus: reproducible, whole or not at all, and harmless to what is there already."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from medslip.errors import InputError
from medslip.tasks.make_phantom import MakePhantomConfig, run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> MakePhantomConfig:
    output = tmp_path_factory.mktemp("phantom") / "corpus"
    config = MakePhantomConfig(output, studies=40, valid_fraction=0.25, test_fraction=0.25, side=64, workers=1)
    run(config)
    return config


def test_a_corpus_of_the_same_config_is_reused(config: MakePhantomConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run would draw everything again."""
    before = (config.output / "findings.csv").stat().st_mtime_ns
    run(replace(config, workers=3))
    assert (config.output / "findings.csv").stat().st_mtime_ns == before
    assert "already" in capsys.readouterr().out


def test_two_processes_write_what_one_writes(config: MakePhantomConfig, tmp_path: Path) -> None:
    """The corpus would depend on the number of processes."""
    other = replace(config, output=tmp_path / "corpus", workers=2)
    run(other)
    one, two = (
        {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (config.output, other.output)
    )
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert not list(tmp_path.glob("*.partial*"))


def test_what_is_there_stays(config: MakePhantomConfig, tmp_path: Path) -> None:
    """Another seed would replace a corpus that models were trained on; a mistyped output would delete a user's files."""
    with pytest.raises(InputError, match="drawn with seed 0, not 4; remove it, or choose another folder"):
        run(replace(config, seed=4))
    assert (config.output / "findings.csv").is_file()
    (tmp_path / "new.partial").mkdir()
    thesis = tmp_path / "new.partial" / "thesis.txt"
    thesis.write_text("years of work")
    run(replace(config, output=tmp_path / "new", studies=2))
    with pytest.raises(InputError, match="not a phantom corpus"):
        run(replace(config, output=thesis.parent))
    with pytest.raises(OSError, match="corpus"):
        run(replace(config, output=thesis / "corpus"))
    assert thesis.read_text() == "years of work"


@pytest.mark.parametrize("wrong", [{"side": 32}, {"studies": 0}, {"workers": 0}, {"seed": -1}, {"test_fraction": 0.9}])
def test_values_out_of_range_raise(config: MakePhantomConfig, wrong: dict[str, float]) -> None:
    """A wrong value would end in a traceback, or in an empty corpus."""
    with pytest.raises(InputError):
        run(replace(config, **wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_after_a_signal_the_same_command_is_right(tmp_path: Path, number: int, status: int) -> None:
    """Half a corpus, or what fills the disk, would stay, or workers go on drawing."""
    # A shell that starts the tests in the background lets its processes ignore SIGINT.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from medslip.cli import main; sys.exit(main())"
    options = {"output": tmp_path / "corpus", "studies": 400, "side": 64}
    command = [sys.executable, "-c", code, "make_phantom", *(f"--{key}={value}" for key, value in options.items())]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(tmp_path.glob("*/mimic_cxr/files/*")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)  # workers hold the pipe until they end, too
    assert process.returncode == status
    assert "Traceback" not in said
    assert bool(list(tmp_path.iterdir())) == (number == signal.SIGKILL)
    run(MakePhantomConfig(**{**options, "studies": 2}, workers=1))  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
