"""CheXpert in the publisher's layout: train.csv, valid.csv and train/patient00001/study1/view1_frontal.jpg."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import pandas as pd

from medslip.data.dataset import DataSet
from medslip.data.reading import ages_of, codes_of, first_line, listed_images, read_cells, sexes_of
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT, UNKNOWN

CLASSES = (
    "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation", "Pneumonia",
    "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
NO_FINDING = "No Finding"

_STATES = {"unknown": UNKNOWN, "present": PRESENT, "absent": ABSENT}


@dataclass(frozen=True)
class CheXpert(DataSet):
    """CheXpert: labels of 13 classes, from reports (train) or radiologists (valid, test).

    Attributes:
        path: The publisher's folder, such as CheXpert-v1.0-small: train.csv, valid.csv, train/, valid/.
        split: train, valid or test, or several, as in train+valid. None takes all that exist.
        views: Which images to read, by the column Frontal/Lateral.
        uncertain: What a label of -1 counts as.
        blank: What a class that the report does not mention counts as.
    """

    kind: ClassVar[str] = "chexpert"
    path: Path = Path("data_file/chexpert")
    split: str | None = "valid"
    views: Literal["frontal", "lateral", "all"] = "frontal"
    uncertain: Literal["unknown", "present", "absent"] = "unknown"
    blank: Literal["unknown", "absent"] = "unknown"

    def load(self) -> ImageTable:
        """The images in the order of the files; patient and study are those of the path."""
        files = self.split_files(".csv")
        left_out: Counter[str] = Counter()
        rows = pd.concat([self._read(file, split, left_out) for split, file in files.items()])
        name = f"CheXpert ({' and '.join(file.name for file in files.values())})"
        return ImageTable(name, rows.drop(columns=list(CLASSES)), rows[list(CLASSES)], left_out=left_out)

    def _read(self, source: Path, split: str, left_out: Counter[str]) -> pd.DataFrame:
        """The images of a file, with their labels."""
        rows = read_cells(source, ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", NO_FINDING, *CLASSES))
        rows["Path"] = rows["Path"].str.replace("\\", "/")
        side = rows["Frontal/Lateral"].str.lower()
        shown = rows[side == self.views] if self.views != "all" else rows
        left_out["images of other views"] += len(rows) - len(shown)
        if not len(shown):
            raise InputError(f"{source}: lists no {self.views} image")
        # A path begins with the name of the publisher's folder, whatever that folder is called here.
        inside = shown["Path"].map(lambda name: str(PurePosixPath(*PurePosixPath(name).parts[1:])))
        paths = listed_images(inside, self.path, source)
        found = shown["Path"].str.extract(r"(?P<patient>patient\d+)/(?P<study>study\d+)/")
        if (line := first_line(found["patient"].isna())) is not None:
            raise InputError(
                f"{source}: line {line}: {shown['Path'][line]} is not of the form .../patient00001/study1/view1_frontal.jpg"
            )
        codes = {"1": PRESENT, "1.0": PRESENT, "0": ABSENT, "0.0": ABSENT}
        codes |= {"-1": _STATES[self.uncertain], "-1.0": _STATES[self.uncertain], "": _STATES[self.blank]}
        labels: dict[str, Any] = {
            name: codes_of(shown[name], codes, source, "1, 0, -1 or blank") for name in (NO_FINDING, *CLASSES)
        }
        known = {
            "path": paths,
            "patient": found["patient"],
            "study": found["patient"] + "/" + found["study"],
            "view": shown["AP/PA"].where(side[shown.index] == "frontal", "LATERAL"),
            "sex": sexes_of(shown["Sex"]),
            "age": ages_of(shown["Age"], source),
            "normal": labels.pop(NO_FINDING) == PRESENT,
        }
        return pd.DataFrame(known | labels, index=shown.index).assign(split=split)
