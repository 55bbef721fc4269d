"""Measure what the program costs beside its goals: speed and memory of training, inference and data reading.

    python benchmarks/run.py [--only NAME ...] [--output FOLDER]

Nothing else should run meanwhile. Prints a table, and writes it with a figure to FOLDER (runs/benchmarks). NOTES.md says what
was tried for each row, and what came of it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from rows import Row

MODULES = ("model_rows", "data_rows")
"""Each has ROWS, name -> function that measures a list of rows."""


def main() -> None:
    """Measure the rows that are asked for."""
    measures = {name: function for module in MODULES for name, function in importlib.import_module(module).ROWS.items()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(measures), metavar="NAME", help=", ".join(measures))
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    asked = parser.parse_args()
    began, rows = time.perf_counter(), []
    for name in asked.only or measures:
        print(f"{name} ...", flush=True)
        measured = measures[name]()
        rows += measured
        print(*map(_line, measured), sep="\n", flush=True)
    asked.output.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame([(r.name, _goal(r), _value(r), "met" if r.met else "missed", r.baseline) for r in rows])
    table.columns = ["what", "goal", "measured", "verdict", "beside"]
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[2]:.1f} over 15 minutes, "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; {time.perf_counter() - began:.0f} s in all"
    )
    text = "\n".join(f"| {' | '.join(line)} |" for line in [table.columns, ["---"] * 5, *table.to_numpy()])
    (asked.output / "benchmarks.md").write_text(f"{text}\n\n{machine}\n")
    _figure(rows, asked.output / "benchmarks.png")
    print(f"\n{text}\n\n{machine}\n{asked.output}/benchmarks.md, benchmarks.png")


def _value(row: Row) -> str:
    return f"{row.measured:.3g} {row.unit}" if row.measured < 1000 else f"{row.measured:,.0f} {row.unit}"


def _goal(row: Row) -> str:
    return f"{'at least' if row.at_least else 'at most'} {row.goal:g} {row.unit}"


def _line(row: Row) -> str:
    return f"  {row.name}: {_value(row)} ({_goal(row)}: {'met' if row.met else 'missed'}) {row.baseline}"


def _figure(rows: list[Row], path: Path) -> None:
    """Each row as a share of its goal; left of 1 is met."""
    figure, panel = plt.subplots(figsize=(8, 0.4 * len(rows) + 1.2), layout="constrained")
    shares = [row.goal / row.measured if row.at_least else row.measured / row.goal for row in rows]
    panel.barh([row.name for row in rows], shares, color=["#0072b2" if row.met else "#d55e00" for row in rows])
    for place, (share, row) in enumerate(zip(shares, rows, strict=True)):
        panel.text(share, place, f" {_value(row)}", va="center", fontsize=8)
    panel.axvline(1, color="black", linewidth=1)
    panel.set_xscale("log")
    panel.margins(x=0.15)
    panel.invert_yaxis()
    panel.set_xlabel("cost as a share of the goal (logarithmic); blue: met")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
