"""The account of a preparation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medslip.data.summary import CellCounter
from medslip.labels import A, P

CELLS = st.dictionaries(st.tuples(st.integers(0, A - 1), st.integers(0, P - 1)), st.integers(0, 1), max_size=9)


@given(st.lists(CELLS, max_size=6))
def test_counts_are_those_of_the_matrices(studies: list[dict[tuple[int, int], int]]) -> None:
    """The summary would not describe the store."""
    by_cells, by_matrix = CellCounter(), CellCounter()
    matrices = np.full((len(studies), A, P), -1, np.int8)
    for matrix, cells in zip(matrices, studies, strict=True):
        for cell, state in cells.items():
            matrix[cell] = state
        by_matrix.add(matrix)
        by_cells.add_cells([a for a, _ in cells], [p for _, p in cells], list(cells.values()))
    summary = by_cells.summary("x", {"train": 1})
    assert summary == by_matrix.summary("x", {"train": 1})
    sizes = (matrices >= 0).sum(axis=(1, 2))
    assert (summary.present, summary.absent) == ((matrices == 1).sum(), (matrices == 0).sum())
    assert summary.cells_mean == pytest.approx(sizes.mean() if len(sizes) else 0)
    assert summary.cells_median == (np.median(sizes) if len(sizes) else 0)
    assert summary.cells_max == sizes.max(initial=0)


def test_most_frequent_pair_comes_first() -> None:
    """The table of frequent pairs would mislead."""
    counter = CellCounter()
    for state in (1, 0, 1):
        counter.add_cells([4], [8], [state])
    counter.add_cells([0, 4], [0, 8], [1, 1])
    first, second = counter.summary("x", {}).pairs
    assert (first.anatomy, first.pathology, first.present, first.absent) == ("left_pleural", "effusion", 3, 1)
    assert (second.anatomy, second.pathology, second.present, second.absent) == ("trachea", "normal", 1, 0)


def test_summary_is_written_and_readable(tmp_path: Path) -> None:
    """summary.json would miss a figure that the text shows."""
    counter = CellCounter()
    counter.add_cells([4], [8], [1])
    summary = counter.summary("OpenI", {"train": 2}, {"images of view LL": 3, "nothing": 0}, ("A note.",))
    data = json.loads(summary.write(tmp_path / "out").read_text())
    assert data["images"] == {"train": 2}
    assert data["pairs"][0]["pathology"] == "effusion"
    text = str(summary)
    assert "left_pleural / effusion" in text
    assert "3  images of view LL" in text
    assert "nothing" not in text
    assert "A note." in text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["summary.json"]
