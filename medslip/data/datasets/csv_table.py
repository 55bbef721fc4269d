"""Any CSV table of image paths and labels: one column per class, or one with a list of findings."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.data.dataset import ListedDataSet
from medslip.data.reading import ages_of, codes_of, listed_or_found, read_cells, sexes_of
from medslip.data.splits import splits_of
from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT, UNKNOWN
from medslip.vocabulary import CXR14_CLASSES, PATHOLOGIES, class_key, pathology_of

_CODES = {
    "1": PRESENT, "1.0": PRESENT, "true": PRESENT,
    "0": ABSENT, "0.0": ABSENT, "false": ABSENT,
    "-1": UNKNOWN, "-1.0": UNKNOWN, "": UNKNOWN, "nan": UNKNOWN,
}  # fmt: skip
_OPTIONAL = ("patient", "study", "split", "view", "sex", "age")


@dataclass(frozen=True)
class ImageColumns:
    """Which column of a table holds what.

    An optional column that is None is used if the table has a column of that very name; one that is named must exist.

    Attributes:
        image: Image paths.
        patient: Patients.
        study: Studies. Without one, every image is a study.
        split: Splits (train, valid, test).
        view: Views.
        sex: M or male, F or female, in any case; anything else is unknown.
        age: Years, such as 43 or 43.5, or as DICOM writes them (043Y, 006M); empty, "nan" or "unknown" is unknown.
    """

    image: str = "image"
    patient: str | None = None
    study: str | None = None
    split: str | None = None
    view: str | None = None
    sex: str | None = None
    age: str | None = None


@dataclass(frozen=True)
class Columns(ImageColumns):
    """Which column of a table of labels holds what.

    Attributes:
        findings: A list of findings, separated ("Edema|Effusion") or as Python and JSON write it ("['Edema', 'Effusion']").
            None: one column per class, with 1, 0, and -1 or empty for unknown.
    """

    findings: str | None = None


def _columns_of(rows: pd.DataFrame, columns: ImageColumns, source: Path) -> dict[str, str]:
    """The table's column for each of patient, study, split, view, sex and age, empty if it has none.

    Raises:
        InputError: A column that is named does not exist.
    """
    has = ", ".join(repr(name) for name in rows.columns[:20])
    for key, name in vars(columns).items():
        if name is not None and name not in rows.columns:
            what = "image path" if key == "image" else key.replace("_", " ")
            raise InputError(
                f"{source}: has no column {name!r} for the {what}; it has {has}; name the right one (key data.columns.{key})"
            )
    return {what: getattr(columns, what) or (what if what in rows.columns else "") for what in _OPTIONAL}


def known_images(rows: pd.DataFrame, columns: ImageColumns, data: ListedDataSet) -> pd.DataFrame:
    """The columns of an image table that a user's table has, except for the labels; ``path`` is as the table has it.

    Raises:
        InputError: A column does not exist, patients are not known, or a split or an age is not valid.
    """
    column_of = _columns_of(rows, columns, data.path)
    texts = {what: rows[name].str.strip() for what, name in column_of.items() if name}
    images = pd.DataFrame({"path": rows[columns.image].str.strip(), **texts})
    images = data.identified(images, "name the column (key data.columns.patient)")
    if "sex" in images:
        images["sex"] = sexes_of(images["sex"])
    if "age" in images:
        images["age"] = ages_of(images["age"].rename(column_of["age"]), data.path)
    if "split" in images:
        images["split"] = splits_of(images["split"], data.path)
    return images


@dataclass(frozen=True)
class CsvTable(ListedDataSet):
    """Any CSV table of image paths and labels.

    Attributes:
        path: The CSV file.
        images: Folder that the image paths are relative to and may not leave; None takes the table's own, and then paths may
            also be absolute. Names without a folder may also be in its subfolders.
        split: Only the rows of this split, or of several, as in valid+test. None takes all.
        columns: Which column holds what.
        separator: Separates the findings of a list.
        no_finding: The word, in a list or as a column, for an image without findings.
    """

    kind: ClassVar[str] = "csv"
    images: Path | None = None
    split: str | None = None
    columns: Columns = field(default_factory=Columns)
    separator: str = "|"
    no_finding: str = "No Finding"

    def load(self) -> ImageTable:
        """The images in the order of the table."""
        rows = read_cells(self.path)
        known = known_images(rows, self.columns, self)
        # Labels of all rows: the splits of a table have the same classes, whichever each of them happens to contain.
        labels, normal = self._listed_findings(rows) if self.columns.findings else self._class_columns(rows)
        images = known.assign(normal=normal)
        if self.split is not None:
            chosen = self._of_split(known)
            images, labels = images[chosen], labels[chosen]
        paths = listed_or_found(images["path"], self.images, self.path)
        name = self.path.stem if self.split is None else f"{self.path.stem} ({self.split})"
        return ImageTable(name, images.assign(path=paths), labels)

    def _of_split(self, known: pd.DataFrame) -> pd.Series:
        """Which rows are of the split."""
        if "split" not in known:
            raise InputError(f"{self.path}: has no column 'split' to choose {self.split!r} from")
        chosen = known["split"].isin(self.splits)
        if not chosen.any():
            raise InputError(f"{self.path}: no row has split {self.split!r}")
        return chosen

    def _listed_findings(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, npt.NDArray[np.bool_]]:
        """Labels and "no finding" from lists of findings: a class that is not listed is absent; an empty list is unknown."""
        listed = []
        for line, text in rows[str(self.columns.findings)].items():
            parts = text.split(self.separator)
            if text.strip().startswith("["):
                try:
                    parts = [str(part) for part in ast.literal_eval(text.strip())]
                except (ValueError, SyntaxError):
                    raise InputError(f"{self.path}: line {line}: {text!r} is not a complete list of texts") from None
            findings = [part.strip() for part in parts if part.strip()]
            if self.no_finding in findings and len(findings) > 1:
                raise InputError(f"{self.path}: line {line}: {self.no_finding!r} is listed with other findings")
            listed.append(findings)
        classes = _in_order({name for findings in listed for name in findings} - {self.no_finding})
        labels = np.array([[name in findings for name in classes] for findings in listed], np.int8)
        labels[[not findings for findings in listed]] = UNKNOWN
        normal = np.array([self.no_finding in findings for findings in listed], bool)
        return pd.DataFrame(labels.reshape(len(rows), len(classes)), rows.index, classes), normal

    def _class_columns(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, npt.NDArray[np.bool_]]:
        """Labels and "no finding" from one column per class."""
        for name in self.classes:
            if name not in rows.columns:
                raise InputError(f"{self.path}: has no column {name!r} for that class")
        taken = {self.columns.image, self.no_finding, *(getattr(self.columns, what) or what for what in _OPTIONAL)}
        labels = {}
        for name in (column for column in rows.columns if column and column not in taken):
            mapped = self.classes.get(name, pathology_of(name))
            if mapped or (mapped is None and _looks_like_labels(rows[name])):
                labels[name] = codes_of(rows[name], _CODES, self.path, "1, 0, -1 or empty")
        if not labels:
            raise InputError(
                f"{self.path}: no column is named after a class; map columns to pathologies (key data.classes), or give "
                "the column with the list of findings (key data.columns.findings)"
            )
        normal = np.zeros(len(rows), bool)
        if self.no_finding in rows.columns:
            normal = codes_of(rows[self.no_finding], _CODES, self.path, "1, 0, -1 or empty") == PRESENT
        return pd.DataFrame(labels, rows.index), normal


def _in_order(classes: set[str]) -> list[str]:
    """ChestX-ray14 classes as published, then pathologies as in the vocabulary, then others by name."""
    order = {name: index for index, name in enumerate((*CXR14_CLASSES, *PATHOLOGIES))}
    return sorted(classes, key=lambda name: (order.get(name, len(order)), class_key(name), name))


def _looks_like_labels(column: pd.Series) -> bool:
    cells = set(column.str.strip().str.lower())
    return cells <= _CODES.keys() and bool(cells & {"1", "1.0", "true", "0", "0.0", "false"})
