"""The images that fine-tuning for classification takes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medslip.data import covidx, rsna, siim_acr
from medslip.data.csv_old import TableLayout, read_table
from medslip.data.cxr14 import read_authors_list, read_labelled
from medslip.data.labelled import LabelledImages, read_folder
from medslip.errors import InputError

Kind = Literal["cxr14", "authors", "rsna", "siim_acr", "covidx", "table", "folder"]


_READ_BY = {
    "images": ("authors", "rsna", "siim_acr", "table"),
    "masks": ("siim_acr",),
    "split": ("table", "covidx"),
    "table": ("table",),
}
"""Key -> the kinds of data that it means something for."""


@dataclass(frozen=True)
class ImagesConfig:
    """Which images to classify.

    Attributes:
        kind: "cxr14": the publisher's ChestX-ray14 folder; "authors": the authors' ChestX-ray14 CSV; "rsna": RSNA
            Pneumonia, the publisher's folder or the authors' CSV; "siim_acr": SIIM-ACR Pneumothorax, the publisher's folder
            or a CSV of pictures with masks; "covidx": COVIDx CXR-4, the publisher's folder; "table": any CSV of image paths
            and labels; "folder": every image below a folder, without labels.
        path: The folder, or the CSV.
        list: "cxr14": which images, a file of names in the folder or elsewhere.
        images: The folder of the images, where it is not the CSV's own, or not where the publisher has it.
        masks: "siim_acr": the folder of mask pictures; None takes a folder "masks" beside the CSV.
        split: "table": keep only the rows of this split. "covidx": which list, test unless given.
        table: "table": which column holds what.
        equalise: Spread the grey values of each image first (histogram equalisation), as published for RSNA.
    """

    kind: Kind
    path: Path
    list: Path = Path("test_list.txt")
    images: Path | None = None
    masks: Path | None = None
    split: str | None = None
    table: TableLayout = field(default_factory=TableLayout)
    equalise: bool = False

    def __post_init__(self) -> None:
        for name, kinds in _READ_BY.items():
            if self.kind not in kinds and getattr(self, name) not in (None, TableLayout()):
                raise InputError(f"data.{name}: not read for data.kind {self.kind}; leave it out")


def read_images(config: ImagesConfig, asked: Collection[str] = ()) -> LabelledImages:
    """The images and labels that the config names.

    Args:
        config: Which.
        asked: Classes that a prompt answers for: a table may have them though they are no pathology.

    Raises:
        InputError: They cannot be read.
    """
    if config.kind == "cxr14":
        return read_labelled(config.path, config.list)
    if config.kind == "authors":
        return read_authors_list(config.path, config.images)
    if config.kind == "rsna":
        return rsna.read_labelled(config.path, config.images)
    if config.kind == "siim_acr":
        return siim_acr.read_labelled(config.path, config.images, config.masks)
    if config.kind == "covidx":
        return covidx.read_labelled(config.path, config.split or "test")
    if config.kind == "folder":
        return read_folder(config.path)
    return read_table(config.path, config.table, config.images, config.split, asked).images
