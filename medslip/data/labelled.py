"""Images with class labels, as an evaluation needs them: whatever the publisher's layout was, this is what a reader gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medslip.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom"})


@dataclass(frozen=True)
class LabelledImages:
    """n images with the labels of C classes.

    Attributes:
        name: What the data set is called in reports.
        classes: C class names, as the publisher spells them.
        paths: n image files.
        labels: n x C, int8: 1 present, 0 absent, -1 unknown; None where there are no labels.
        patients: n patient names, empty where unknown; images of one patient are resampled together.
        views: n view names, empty where unknown.
        sexes: n, "M", "F" or empty.
        ages: n, years, NaN where unknown.
    """

    name: str
    classes: tuple[str, ...]
    paths: list[Path]
    labels: npt.NDArray[np.int8] | None
    patients: list[str]
    views: list[str]
    sexes: list[str]
    ages: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.paths)


def read_folder(folder: Path) -> LabelledImages:
    """Every image below a folder, sorted by path, without labels.

    Raises:
        InputError: The folder does not exist or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise InputError(f"{folder}: holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    unknown = [""] * len(paths)
    return LabelledImages(
        folder.name, (), paths, None, list(unknown), list(unknown), list(unknown), np.full(len(paths), np.nan)
    )
