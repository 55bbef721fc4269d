"""Reads the findings of a phantom corpus back: where each one is, on which film, of which patient."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medslip.data.attributes import Attributes
from medslip.data.images import years
from medslip.errors import InputError
from medslip.vocabulary import ANATOMIES, PATHOLOGIES


@dataclass(frozen=True)
class PhantomFinding:
    """A finding that was drawn.

    Attributes:
        image: The film's file.
        study: Study name, such as "s50002016".
        patient: Patient name, such as "p10000001".
        pathology: Vocabulary name.
        anatomy: Vocabulary name.
        box: x, y, width, height in pixels of the film.
        mask: A PNG of one bit a pixel; None where the line names none.
        view: "PA" or "AP"; empty where the corpus does not say.
        sex: "F" or "M"; empty where it does not say.
        age: Years; NaN where it does not say.
        where: File and line, for messages.
    """

    image: Path
    study: str
    patient: str
    pathology: str
    anatomy: str
    box: tuple[int, int, int, int]
    mask: Path | None
    view: str
    sex: str
    age: float
    where: str


def read_findings(corpus: Path, *splits: str) -> list[PhantomFinding]:
    """The findings of some splits, in the order of findings.jsonl.

    Args:
        corpus: The corpus' folder.
        splits: Any of "train", "valid" and "test".

    Raises:
        InputError: There is no corpus, it holds no finding of the splits, or a line is not as it was written; the message names
            the file and line.
    """
    corpus = Path(corpus)
    studies = _studies(corpus / "findings.csv")
    path = corpus / "findings.jsonl"
    if not path.is_file():
        raise InputError(
            f"{path}: no phantom corpus; make one with: python scripts/make_phantom.py (or: medslip make_phantom)"
        )
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}: line {number}"
        try:
            line = json.loads(text)
            if line["split"] in splits:
                found.append(_finding(corpus, line, studies, where))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{where}: is no finding ({error}); make the corpus again") from None
    if not found:
        raise InputError(f"{path}: holds no finding of split {' or '.join(splits)}")
    return found


def table_attributes(table: pd.DataFrame) -> Attributes:
    """View, sex and age of the lines of findings.csv, unknown where it has no such columns."""
    views, sexes, ages = (table.get(name, pd.Series("", table.index)).tolist() for name in ("view", "sex", "age"))
    return Attributes(views, sexes, np.array([years(age) for age in ages], np.float64))


def _studies(path: Path) -> dict[str, dict[str, str]]:
    """Study -> its line of findings.csv."""
    if not path.is_file():
        raise InputError(
            f"{path}: no phantom corpus; make one with: python scripts/make_phantom.py (or: medslip make_phantom)"
        )
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if not {"study", "patient"} <= set(reader.fieldnames or ()):
            raise InputError(f"{path}: has no columns study and patient")
        return {row["study"]: row for row in reader}


def _finding(corpus: Path, line: dict[str, Any], studies: dict[str, dict[str, str]], where: str) -> PhantomFinding:
    pathology, anatomy = line["pathology"], line["anatomy"]
    if pathology not in PATHOLOGIES or anatomy not in ANATOMIES:
        raise ValueError(f"{pathology!r} at {anatomy!r} is not in the vocabulary")
    x, y, width, height = (int(value) for value in line["box"])
    mask = corpus / line["mask"] if line["mask"] else None
    study = studies[line["study"]]
    return PhantomFinding(
        image=corpus / line["image"],
        study=line["study"],
        patient=study["patient"],
        pathology=pathology,
        anatomy=anatomy,
        box=(x, y, width, height),
        mask=mask,
        view=study.get("view", ""),
        sex=study.get("sex", ""),
        age=years(study.get("age", "")),
        where=where,
    )
