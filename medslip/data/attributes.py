"""What is known of images beside their labels: view, sex and age, by which scores are told apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.data.images import Header


@dataclass(frozen=True)
class Attributes:
    """What is known of n images.

    Attributes:
        views: n view names, empty where unknown.
        sexes: n, "M", "F" or empty.
        ages: n, years, NaN where unknown.
    """

    views: list[str]
    sexes: list[str]
    ages: npt.NDArray[np.float64]

    def __getitem__(self, name: str) -> pd.Series:
        """One of view, sex and age as a column."""
        return pd.Series({"view": self.views, "sex": self.sexes, "age": self.ages}[name])

    @staticmethod
    def unknown(images: int) -> Attributes:
        """Of n images of which nothing is known."""
        return Attributes([""] * images, [""] * images, np.full(images, np.nan))

    @staticmethod
    def of_headers(headers: Sequence[Header]) -> Attributes:
        """As the images' own files say."""
        return Attributes(
            [header.view for header in headers],
            [header.sex for header in headers],
            np.array([header.age for header in headers], np.float64),
        )

    def at(self, indices: Collection[int] | npt.NDArray[np.intp]) -> Attributes:
        """Of the images at these positions, in the order given."""
        return Attributes(
            [self.views[index] for index in indices],
            [self.sexes[index] for index in indices],
            self.ages[np.asarray(indices, np.intp)],
        )

    def frame(self, paths: Sequence[Path], patients: Sequence[str]) -> pd.DataFrame:
        """One row per image: ``path``, ``patient``, ``view``, ``sex``, ``age``."""
        columns = {"path": list(paths), "patient": list(patients), "view": self.views, "sex": self.sexes}
        return pd.DataFrame({**columns, "age": self.ages})
