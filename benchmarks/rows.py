"""What the rows of benchmarks/run.py share: the result of one, and how time and memory are measured."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """A measurement beside its goal.

    Attributes:
        name: What is measured.
        measured: The figure.
        goal: The figure that it should not exceed or, with ``at_least``, not fall below.
        unit: "x" for a ratio to the baseline, or "ms", "s", "MB".
        baseline: What it is compared with, and what that took; "" for a figure that stands alone.
        at_least: Whether higher is better.
    """

    name: str
    measured: float
    goal: float
    unit: str
    baseline: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.measured >= self.goal if self.at_least else self.measured <= self.goal


def interleaved(functions: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 1) -> dict[str, float]:
    """Median seconds of each function, called in turn, so that what else the machine does slows all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(warmup + repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if repeat >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(taken) for name, taken in seconds.items()}


def peak_memory(setup: str, work: str) -> float:
    """Peak resident MB that ``work`` adds to what ``setup`` took, both Python statements run in a new process on Linux.

    Raises:
        subprocess.CalledProcessError: They failed.
    """
    peak = "int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    now = peak.replace("VmHWM", "VmRSS")
    # Writing 5 sets the peak to what is in use now.
    code = f"{setup}\nopen('/proc/self/clear_refs', 'w').write('5')\nbefore = {now}\n{work}\nprint(({peak} - before) / 1000)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])
