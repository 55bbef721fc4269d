"""What a preparation made: studies, images, cells, the most frequent pairs, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medslip.files import to_json, write_text
from medslip.labels import PRESENT, UNKNOWN, A, Matrix, P
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

FREQUENT_PAIRS = 20
"""How many of the most frequent (anatomy, pathology) pairs a summary names."""


@dataclass(frozen=True)
class PairCount:
    """How many studies have a cell present and how many absent."""

    anatomy: str
    pathology: str
    present: int
    absent: int


@dataclass(frozen=True)
class PreparationSummary:
    """The account of one preparation, for a reader and for summary.json.

    Attributes:
        source: What was read, such as "MIMIC-CXR-JPG".
        studies: Rows of the label store.
        images: List name (train, valid, test) -> images in it.
        present: Cells that are 1, over all studies.
        absent: Cells that are 0.
        cells_mean: Mentioned cells per study, mean.
        cells_median: The same, median.
        cells_max: The same, largest.
        pairs: The most frequent pairs, most frequent first.
        left_out: What was left out, with its reason -> how many.
        notes: Further remarks, one sentence each.
    """

    source: str
    studies: int
    images: dict[str, int]
    present: int
    absent: int
    cells_mean: float
    cells_median: float
    cells_max: int
    pairs: tuple[PairCount, ...]
    left_out: dict[str, int]
    notes: tuple[str, ...] = ()

    def write(self, folder: Path) -> Path:
        """Write summary.json into the prepared data set's folder, whole or not at all; returns its path."""
        path = Path(folder) / "summary.json"
        write_text(path, to_json(asdict(self), indent=1) + "\n")
        return path

    def __str__(self) -> str:
        images = ", ".join(f"{name} {count:,}" for name, count in self.images.items())
        lines = [
            f"{self.source}: {self.studies:,} studies, {sum(self.images.values()):,} images ({images})",
            f"cells per study: mean {self.cells_mean:.1f}, median {self.cells_median:g}, "
            f"largest {self.cells_max} ({self.present:,} present, {self.absent:,} absent)",
        ]
        if self.pairs:
            width = max(len(f"{pair.anatomy} / {pair.pathology}") for pair in self.pairs)
            lines.append(f"{'most frequent pairs':<{width + 2}}  {'present':>9} {'absent':>9}")
            lines += [
                f"  {f'{pair.anatomy} / {pair.pathology}':<{width}}  {pair.present:>9,} {pair.absent:>9,}"
                for pair in self.pairs
            ]
        if any(self.left_out.values()):
            lines.append("left out")
            lines += [f"  {count:>9,}  {reason}" for reason, count in self.left_out.items() if count]
        return "\n".join([*lines, *self.notes])


class CellCounter:
    """Counts cells study by study, in memory that does not grow with the studies."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, A * P), np.int64)  # absent, present
        self._sizes: Counter[int] = Counter()

    def add(self, matrix: Matrix) -> None:
        """Count one study's A x P matrix (1, 0, -1)."""
        cell = np.flatnonzero(matrix != UNKNOWN)
        self.add_cells(cell // P, cell % P, matrix.reshape(-1)[cell])

    def add_cells(self, anatomy: npt.ArrayLike, pathology: npt.ArrayLike, state: npt.ArrayLike) -> None:
        """Count one study given as its mentioned cells, each named once; states 1 or 0."""
        cell = np.asarray(anatomy, np.int64) * P + np.asarray(pathology, np.int64)
        self._counts[np.asarray(state, np.int64), cell] += 1
        self._sizes[len(cell)] += 1

    def summary(
        self,
        source: str,
        images: Mapping[str, int],
        left_out: Mapping[str, int] | None = None,
        notes: tuple[str, ...] = (),
    ) -> PreparationSummary:
        """The account of everything counted so far; the arguments are PreparationSummary's attributes."""
        sizes = np.array(sorted(self._sizes), np.int64)
        studies = np.array([self._sizes[size] for size in sizes.tolist()], np.int64)
        total = int(studies.sum())
        absent, present = (int(count) for count in self._counts.sum(axis=1))
        return PreparationSummary(
            source=source,
            studies=total,
            images=dict(images),
            present=present,
            absent=absent,
            cells_mean=(present + absent) / max(1, total),
            cells_median=_median(sizes, studies),
            cells_max=int(sizes.max(initial=0)),
            pairs=self._frequent_pairs(),
            left_out=dict(left_out or {}),
            notes=notes,
        )

    def _frequent_pairs(self) -> tuple[PairCount, ...]:
        both = self._counts.sum(axis=0)
        order = [int(cell) for cell in np.argsort(-both, kind="stable")[:FREQUENT_PAIRS] if both[cell]]
        return tuple(
            PairCount(
                ANATOMIES[cell // P],
                PATHOLOGIES[cell % P],
                int(self._counts[PRESENT, cell]),
                int(self._counts[0, cell]),
            )
            for cell in order
        )


def _median(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> float:
    """Median of sorted values that occur ``counts`` times each; 0 of nothing."""
    if not len(values):
        return 0.0
    upto = np.cumsum(counts)
    middle = [(upto[-1] - 1) // 2, upto[-1] // 2]
    return float(values[np.searchsorted(upto, middle, side="right")].mean())
