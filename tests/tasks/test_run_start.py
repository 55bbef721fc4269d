"""What a run that is refused on the way leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from medslip.errors import InputError
from medslip.tasks.run_start import nothing_half_written


def begin(folder: Path, weights: bool) -> None:
    (folder / "seed_0").mkdir(parents=True)
    (folder / "config.yaml").write_text("a: 1\n")
    (folder / "valid_list.txt").write_text("a.png\n")
    if weights:
        (folder / "seed_0" / "best.safetensors").touch()


def run_that_ends_with(error: BaseException, folder: Path, weights: bool = False) -> None:
    with nothing_half_written(folder):
        begin(folder, weights)
        raise error


def test_a_refused_run_leaves_no_folder(tmp_path):
    """The second try with the right input would be told that the folder is in use."""
    with pytest.raises(InputError, match=r"a\.png"):
        run_that_ends_with(InputError("a.png: cut short"), tmp_path / "run")
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
    with pytest.raises(InputError, match="not empty"), nothing_half_written(tmp_path):
        pytest.fail("began in it")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
