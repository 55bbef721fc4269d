"""Writes phantoms as COVIDx CXR-4: three text lists beside three folders of PNG.

Phantoms have no COVID-19. A patchy infiltrate stands in for it, the phantoms' nearest to ground-glass opacities. A score
on them says that the way from list to score works, and nothing about COVID-19.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from medslip.data.splits import split_of
from medslip.phantoms.study import PhantomStudy
from medslip.phantoms.truth import StudyRecord

COVIDX_FOLDER = "covidx"

POSITIVE = "infiltrate"
"""The kind that counts as positive."""

_VALID_FRACTION = 0.25


def _list_of(subject: int, split: str) -> str:
    """Training phantoms are not evaluated, so the validation patients of the corpus are parted into two lists."""
    if split == "test":
        return "test"
    return "val" if split_of(str(subject), 0, _VALID_FRACTION, 0.0) == "valid" else "train"


def write_covidx_study(corpus: Path, study: PhantomStudy, split: str) -> None:
    """Write one study's film into the folder of its list."""
    folder = corpus / COVIDX_FOLDER / _list_of(study.patient.number, split)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(study.image).save(folder / f"{study.dicom}.png")


def write_covidx_tables(corpus: Path, records: Iterable[StudyRecord]) -> None:
    """Write the lists: train.txt and val.txt of the corpus's validation studies, test.txt of its test studies."""
    lines: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for record in records:
        if record.split == "train":
            continue
        found = POSITIVE in {finding.pathology for finding in record.findings}
        label = "positive" if found else "negative"
        lines[_list_of(record.subject, record.split)].append(f"p{record.subject} {record.dicom}.png {label} phantom")
    (corpus / COVIDX_FOLDER).mkdir(parents=True, exist_ok=True)
    for name, rows in lines.items():
        (corpus / COVIDX_FOLDER / f"{name}.txt").write_text("".join(row + "\n" for row in rows))
