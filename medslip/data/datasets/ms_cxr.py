"""MS-CXR in the publisher's layout: sentences of MIMIC-CXR's reports with the boxes that they describe.

MS_CXR_Local_Alignment_v1.0.0.csv (or another version) has one row per box: category_name, label_text, path (as in
MIMIC-CXR-JPG), x, y, w, h, image_width, image_height, dicom_id and, since version 1.1.0, split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from medslip.data.dataset import DataSet
from medslip.data.reading import check_columns, first_line, listed_images, read_box, read_cells
from medslip.data.splits import splits_of
from medslip.data.table import FINDING_COLUMNS, ImageTable
from medslip.errors import InputError

_COLUMNS = ("category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height")


@dataclass(frozen=True)
class MsCxr(DataSet):
    """MS-CXR: sentences and the boxes that they describe.

    Attributes:
        path: The publisher's CSV file, or the folder that has it.
        images: MIMIC-CXR-JPG's folder, which has files/.
        split: train, valid or test, or several, as in valid+test, by the column split. None takes all.
    """

    kind: ClassVar[str] = "ms_cxr"
    path: Path = Path("data_file/ms_cxr")
    images: Path = Path("data_file/mimic_cxr")
    split: str | None = None

    def load(self) -> ImageTable:
        """The images in the order of the file; a finding's class is the category, its text the sentence."""
        source = next(iter(sorted(self.path.glob("MS_CXR_Local_Alignment_*.csv"), reverse=True)), self.path)
        rows = read_cells(source)
        check_columns(list(rows.columns), [*_COLUMNS, *(["split"] if self.split else [])], source)
        if "split" in rows:
            rows["split"] = splits_of(rows["split"], source)
            rows = rows[rows["split"].isin(self.splits)]
        if not len(rows):
            raise InputError(f"{source}: no row has split {self.split!r}")
        found = rows["path"].str.extract(r"(?P<patient>p\d{8})/(?P<study>s\d+)/")
        for wrong, what in (
            (found["patient"].isna(), "path {path} is not of the form files/p10/p10000032/s50414267/NAME.jpg"),
            (rows["label_text"] == "", "has no sentence (label_text)"),
            (
                ~rows[["image_width", "image_height"]].map(str.isdecimal).all(axis=1),
                "image_width or image_height is not a whole number",
            ),
        ):
            if (line := first_line(wrong)) is not None:
                raise InputError(f"{source}: line {line}: {what.format(path=rows['path'][line])}")
        first = rows.drop_duplicates("path")
        images = found.loc[first.index].assign(
            path=listed_images(first["path"], self.images, source),
            split=first.get("split", ""),
            height=first["image_height"].astype(int),
            width=first["image_width"].astype(int),
        )
        row_of = dict(zip(first["path"], np.arange(len(first)), strict=True))
        boxes = [
            (row_of[path], category, *read_box(box, f"{source}: line {line}", int(height), int(width)), None, text)
            for line, category, text, path, *box, width, height in rows[list(_COLUMNS)].itertuples(name=None)
        ]
        findings = pd.DataFrame(boxes, columns=[*FINDING_COLUMNS, "text"])
        return ImageTable(f"MS-CXR ({self.split})" if self.split else "MS-CXR", images, findings=findings)
