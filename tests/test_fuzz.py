"""A few damaged files for every reader; benchmarks/fuzz.py has many more, and shows how to repeat one."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "benchmarks/fuzz.py"


@pytest.mark.skipif(sys.platform != "linux", reason="its limits need Linux")
def test_damaged_files_are_read_or_end_in_one_line():
    """A traceback, a hang or a full memory instead of the line that says which file is bad."""
    done = subprocess.run([sys.executable, FUZZ, "--cases", "200"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
