"""SIIM-ACR Pneumothorax in the publisher's layout, and the common PNG form.

Layout: train-rle.csv (one row per mask, "-1" for none), dicom-images-train/<study>/<series>/<ImageId>.dcm; or, of the second
stage, stage_2_train.csv and stage_2_images/. PNG form: a CSV file with a column image_path and, if patients have several
images, patient; and a folder of masks with the images' file names (a DICOM's mask is a PNG), white inside the pneumothorax.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from tqdm import tqdm

from medslip.data.dataset import DataSet
from medslip.data.dicom import DICOM_SUFFIXES
from medslip.data.images import read_headers
from medslip.data.masks import Runs, check_mask_size, read_mask
from medslip.data.reading import check_files, check_repeats, find_images, header_columns, listed_images, read_cells
from medslip.data.table import FINDING_COLUMNS, ImageTable, one_class
from medslip.errors import InputError

CLASS = "Pneumothorax"

TABLE_FILE = "train-rle.csv"
IMAGES_FOLDER = "dicom-images-train"
NO_MASK = "-1"

_LAYOUTS = {TABLE_FILE: IMAGES_FOLDER, "stage_2_train.csv": "stage_2_images"}


@dataclass(frozen=True)
class SiimAcr(DataSet):
    """SIIM-ACR Pneumothorax: images labelled for pneumothorax, and masks.

    Attributes:
        path: The publisher's folder, or the CSV file of the PNG form.
        images: Where the images are: the publisher's are looked up by name in all subfolders, the paths of the PNG form are
            relative to it. None takes the publisher's folder of images, or the CSV file's own folder.
        masks: PNG form: the folder of masks. None takes a folder "masks" next to the CSV file.
    """

    kind: ClassVar[str] = "siim_acr"
    path: Path = Path("data_file/siim_acr")
    images: Path | None = None
    masks: Path | None = None

    def load(self) -> ImageTable:
        """The images in the order of the table. Without a named patient, an image counts as one patient."""
        return self._published() if self.path.is_dir() else self._pictures()

    def _published(self) -> ImageTable:
        file = next((name for name in _LAYOUTS if (self.path / name).exists()), TABLE_FILE)
        source = self.path / file
        rows = read_cells(source, ("ImageId", "EncodedPixels"))
        rows["EncodedPixels"] = rows["EncodedPixels"].str.strip()
        empty = rows["EncodedPixels"].eq(NO_MASK).groupby(rows["ImageId"]).transform("any")
        check_repeats(rows["ImageId"], rows.duplicated() | empty, source, "masks")
        images = rows.drop_duplicates("ImageId")
        paths = find_images(images["ImageId"], self.images or self.path / _LAYOUTS[file], source)
        table = self._table(source, paths, images["ImageId"].tolist(), [""] * len(images))
        masks = []
        for row, (line, text) in zip(
            pd.factorize(rows["ImageId"])[0].tolist(), rows["EncodedPixels"].items(), strict=True
        ):
            runs = parse_runs(text, *table.frame(row), f"{source}: line {line}")
            if len(runs):
                masks.append((row, runs))
        return _with_masks(table, masks)

    def _pictures(self) -> ImageTable:
        source = self.path
        rows = read_cells(source)
        if "image_path" not in rows.columns:
            raise InputError(f"{source}: has no column 'image_path'")
        masks = self.masks or source.parent / "masks"
        paths = listed_images(rows["image_path"], self.images, source)
        files = paths.map(lambda path: str(_mask_of(Path(path), masks)))
        check_files(files.tolist(), files.index, source, "mask")
        patients = rows["patient"].str.strip().tolist() if "patient" in rows.columns else [""] * len(rows)
        table = self._table(source, paths, rows["image_path"].tolist(), patients)
        marked: list[tuple[int, Any]] = []
        pairs = zip(table.paths, files, strict=True)
        for row, (path, file) in enumerate(tqdm(pairs, "masks", len(table), unit="image", leave=False, disable=None)):
            mask = read_mask(Path(file))
            check_mask_size(Path(file), mask.shape, path, table.frame(row))
            if mask.any():
                marked.append((row, Path(file)))
        return _with_masks(table, marked)

    def _table(self, source: Path, paths: pd.Series, names: list[str], patients: list[str]) -> ImageTable:
        headers = read_headers([Path(path) for path in paths])
        known = [said or header.patient or name for said, header, name in zip(patients, headers, names, strict=True)]
        columns = {"path": paths.tolist(), "patient": known, "study": names, **header_columns(headers)}
        return ImageTable(f"SIIM-ACR ({source.name})", pd.DataFrame(columns))


def _with_masks(table: ImageTable, masks: list[tuple[int, Any]]) -> ImageTable:
    nowhere = (np.nan,) * 4
    found = pd.DataFrame([(row, CLASS, *nowhere, mask) for row, mask in masks], columns=list(FINDING_COLUMNS))
    marked = np.isin(np.arange(len(table)), [row for row, _ in masks])
    return ImageTable(table.name, table.images, one_class(CLASS, marked), found)


def _mask_of(image: Path, masks: Path) -> Path:
    """The mask of the image's own name; DICOM images have PNG masks."""
    return masks / (f"{image.stem}.png" if image.suffix.lower() in DICOM_SUFFIXES else image.name)


def parse_runs(text: str, height: int, width: int, where: str = "run lengths") -> Runs:
    """The publisher's run lengths: pairs of how many pixels after the previous run's end a run starts, and its length.

    Pixels count from the upper left corner down the first column, then down the next; so these are the alternating runs
    of masks.py without the last one.

    Args:
        text: The numbers, separated by blanks; "-1" is an empty mask.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        where: Begins an error's message.

    Raises:
        InputError: The text is not run lengths, or they leave the image.
    """
    words = text.split()
    if not words or (
        words != [NO_MASK] and (len(words) % 2 or not all(re.fullmatch(r"\d{1,9}", word) for word in words))
    ):
        raise InputError(f"{where}: {text[:20]!r}... is neither {NO_MASK} nor pairs of a start and a length")
    numbers = [] if words == [NO_MASK] else [int(word) for word in words]
    if 0 in numbers[1::2]:
        raise InputError(f"{where}: a run has length 0")
    if sum(numbers) > height * width:
        raise InputError(
            f"{where}: the run lengths end at pixel {sum(numbers)}, outside the image of {height} x {width} pixels; each "
            "start must count from the end of the previous run"
        )
    return np.array(numbers, np.int32)
