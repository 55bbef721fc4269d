"""The data set classes of torchxrayvision, which read CheXpert, PadChest, VinDr-CXR, OpenI and others."""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from medslip.data.dataset import DataSet
from medslip.data.reading import listed_or_found
from medslip.data.table import ImageTable
from medslip.errors import InputError, one_line
from medslip.labels import UNKNOWN
from medslip.vocabulary import CLASS_PROMPTS, class_key, pathology_of


def _in_mimic(csv: pd.DataFrame) -> pd.Series:
    patient, study = csv["subject_id"].astype(str), csv["study_id"].astype(str)
    return "p" + patient.str[:2] + "/p" + patient + "/s" + study + "/" + csv["dicom_id"] + ".jpg"


_FILES: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "BRAX_Dataset": lambda csv: csv["PngPath"].str.removeprefix("images/"),
    "CheX_Dataset": lambda csv: csv["Path"].str.partition("/")[2],
    "COVID19_Dataset": lambda csv: csv["filename"],
    "MIMIC_Dataset": _in_mimic,
    "NIH_Dataset": lambda csv: csv["Image Index"],
    "NIH_Google_Dataset": lambda csv: csv["Image Index"],
    "NLMTB_Dataset": lambda csv: "CXR_png/" + csv["fname"],
    "Openi_Dataset": lambda csv: csv["imageid"],
    "PC_Dataset": lambda csv: csv["ImageID"],
    "RSNA_Pneumonia_Dataset": lambda csv: csv["patientId"],
    "SIIM_Pneumothorax_Dataset": lambda csv: csv["ImageId"],
    "TBX11K_Dataset": lambda csv: "imgs/" + csv["file_name"],
    "VinBrain_Dataset": lambda csv: csv["image_id"],
    "VinDr_Dataset": lambda csv: csv["image_id"],
}
"""Class -> the images' files, relative to ``imgpath``, with or without suffix."""

_LABELS = frozenset(map(class_key, CLASS_PROMPTS))


@dataclass(frozen=True)
class TorchXRayVision(DataSet):
    """A data set class of torchxrayvision (pip install -e '.[xrv]'), with its labels.

    Attributes:
        path: Its folder of images (imgpath); names without a folder may also be in subfolders.
        dataset: The class, such as CheX_Dataset, PC_Dataset (PadChest), VinDr_Dataset, Openi_Dataset or NIH_Dataset.
        csvpath: Its table of labels. None takes the one that is packaged with torchxrayvision, if there is one.
        views: Views to read, such as PA and AP; empty for the class's own choice, and * for all.
        arguments: Further arguments of the class, as in {unique_patients: false}: by default most take one image per patient.
    """

    kind: ClassVar[str] = "xrv"
    dataset: str = ""
    csvpath: Path | None = None
    views: list[str] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)

    def load(self) -> ImageTable:
        """The images in the order of the class, with the labels that can be queried."""
        if self.dataset not in _FILES:
            raise InputError(f"data.dataset: {self.dataset!r} is not one of {', '.join(_FILES)}")
        if not self.path.is_dir():
            raise InputError(f"{self.path}: no such folder of images")
        try:
            made = importlib.import_module("torchxrayvision").datasets
        except ImportError as error:
            raise InputError(f"{one_line(error)}; install torchxrayvision: pip install -e '.[xrv]'") from None
        made = getattr(made, self.dataset)
        given: dict[str, Any] = {"csvpath": None if self.csvpath is None else str(self.csvpath), "views": self.views}
        given = {name: value for name, value in given.items() if value} | self.arguments
        for name in given:
            if name not in inspect.signature(made).parameters:
                raise InputError(f"data.arguments: {self.dataset} of torchxrayvision has no argument {name!r}")
        try:
            data = made(imgpath=str(self.path), **given)
        except Exception as error:  # a bare Exception where a file is missing
            raise InputError(
                f"{self.path}: torchxrayvision cannot read it as {self.dataset} ({one_line(error)})"
            ) from None
        if not len(data.csv):
            raise InputError(f"{self.path}: {self.dataset} has no image of these views")
        left_out: Counter[str] = Counter()
        values = dict(zip(data.pathologies, data.labels.T, strict=True))
        for name in [name for name in values if not self._has_query(name)]:
            left_out[f"labels of {name}, which has no query"] = int(np.isfinite(values.pop(name)).sum())
        labels = {name: np.where(np.isfinite(of), of, UNKNOWN).astype(np.int8) for name, of in values.items()}
        source = Path(str(getattr(data, "csvpath", self.path)))
        rows = data.csv.reset_index(drop=True)
        images = {"path": listed_or_found(_FILES[self.dataset](rows), self.path, source), **_known(rows)}
        return ImageTable(
            self.dataset, pd.DataFrame(images), pd.DataFrame(labels), source=str(source), left_out=left_out
        )

    def _has_query(self, name: str) -> bool:
        return name in self.classes or pathology_of(name) is not None or class_key(name) in _LABELS


def _known(rows: pd.DataFrame) -> dict[str, Any]:
    """What torchxrayvision says of patients and images, where it does."""
    known: dict[str, Any] = {}
    if "patientid" in rows:
        known["patient"] = rows["patientid"].astype(str)
    if "view" in rows:
        known["view"] = rows["view"].fillna("").astype(str).replace("UNKNOWN", "")
    if "age_years" in rows:
        known["age"] = pd.to_numeric(rows["age_years"], errors="coerce")
    if "sex_male" in rows:
        known["sex"] = np.select([rows["sex_male"].astype(bool), rows["sex_female"].astype(bool)], ["M", "F"], "")
    return known
