"""A list that prepare_data wrote, with its label store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from medslip.data.dataset import DataSet
from medslip.data.prepared import read_list
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.labels import Cells, LabelStore
from medslip.vocabulary import FINDINGS, pathology_index


@dataclass(frozen=True)
class Prepared(DataSet):
    """A list that prepare_data wrote; an image has a class if its study has it at any location.

    Attributes:
        path: The list, such as test.csv.
        labels: Its label store; None takes the folder "labels" next to the list.
    """

    kind: ClassVar[str] = "prepared"
    labels: Path | None = None

    def load(self) -> ImageTable:
        """The images of the list, labelled for the findings that are both present and absent somewhere."""
        table = read_list(self.path)
        store = LabelStore(self.labels or self.path.parent / "labels")
        rows = table.images["row"].tolist()
        store.check(table.images, table.source)
        states = np.stack([store.dense(row).max(axis=0) for row in rows])
        labels = {name: states[:, pathology_index(name)] for name in FINDINGS}
        scored = {name: column for name, column in labels.items() if {0, 1} <= set(column.tolist())}
        return replace(table, labels=pd.DataFrame(scored, index=range(len(rows))))

    def triplets(self, table: ImageTable, left_out: Counter[str]) -> Iterator[tuple[str, Cells]]:
        """Nothing: the list is prepared."""
        raise InputError(f"{self.path}: is already prepared; use it for pre-training")
