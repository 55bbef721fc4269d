"""One row of the table that benchmarks/run.py writes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A measurement beside its goal.

    Attributes:
        name: What was measured.
        goal: What it should be at most, or at least, with the unit.
        measured: The figure, with the unit.
        met: Whether the figure meets the goal.
        baseline: What it was measured against, with its own figure; empty without one.
    """

    name: str
    goal: str
    measured: str
    met: bool
    baseline: str = ""
