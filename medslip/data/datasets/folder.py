"""Every image below a folder, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from medslip.data.dataset import DataSet
from medslip.data.reading import IMAGE_SUFFIXES, files_below, may_be_image
from medslip.data.table import ImageTable
from medslip.errors import InputError


@dataclass(frozen=True)
class Folder(DataSet):
    """Every image below a folder, sorted by path, without labels; DICOM files need no suffix.

    Attributes:
        path: The folder.
    """

    kind: ClassVar[str] = "folder"

    def load(self) -> ImageTable:
        """The images."""
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such folder of images")
        files = pd.Series(sorted(files_below(self.path)), dtype=object)
        is_image = files.map(may_be_image).astype(bool)
        others = files[~is_image].map(lambda path: path.suffix or path.name)
        left_out = {f"files that are not images ({what})": count for what, count in others.value_counts().items()}
        paths = files[is_image].tolist()
        if not paths:
            raise InputError(f"{self.path}: contains no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return ImageTable(self.path.name, pd.DataFrame({"path": paths}), left_out=left_out)
