"""Writes phantoms as NIH ChestX-ray14: training and validation studies in train_val_list.txt, the rest in test_list.txt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from medslip.phantoms.kinds import kind_of
from medslip.phantoms.study import PhantomStudy
from medslip.phantoms.truth import StudyRecord

CXR14_FOLDER = "cxr14"

_COMPRESSION = 1
"""Of PNG: little larger than level 6, and written several times as fast."""

BOX_FRAME = 1024
"""Side of the square, in pixels, that the publisher's boxes are given in."""

_BOX_NAMES = {
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Effusion": "Effusion",
    "Infiltration": "Infiltrate", "Mass": "Mass", "Nodule": "Nodule", "Pneumothorax": "Pneumothorax",
}  # fmt: skip
"""The classes that the publisher gives boxes for, in the spelling of the box file; phantoms have no Pneumonia."""


def cxr14_name(subject: int, study_of_patient: int) -> str:
    """File name of a film: patient and follow-up number."""
    return f"{subject - 10_000_000 + 1:08d}_{study_of_patient:03d}.png"


def write_cxr14_study(corpus: Path, study: PhantomStudy) -> None:
    """Write one study's film."""
    folder = corpus / CXR14_FOLDER / "images_001" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    patient = study.patient
    name = cxr14_name(patient.number, patient.study_of_patient)
    Image.fromarray(study.image).save(folder / name, compress_level=_COMPRESSION)


def write_cxr14_tables(corpus: Path, records: Iterable[StudyRecord]) -> None:
    """Write the label table, the two lists and the boxes."""
    folder = corpus / CXR14_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    entries = [
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    ]
    boxes = ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    train_valid: list[str] = []
    test: list[str] = []
    for record in records:
        name = cxr14_name(record.subject, record.study_of_patient)
        (test if record.split == "test" else train_valid).append(name)
        classes = [(finding, kind_of(finding.pathology).cxr14) for finding in record.findings]
        labels = "|".join(sorted({label for _, label in classes if label})) or "No Finding"
        spacing = round(0.14 * 2500 / record.side, 3)
        entries.append(
            f"{name},{labels},{record.study_of_patient},{record.subject - 10_000_000 + 1},{record.age},"
            f"{record.sex},{record.view},{record.side},{record.side},{spacing},{spacing}"
        )
        for finding, label in classes:
            if label in _BOX_NAMES:
                box = ",".join(f"{value * BOX_FRAME / record.side:.3f}" for value in finding.box)
                boxes.append(f"{name},{_BOX_NAMES[label]},{box}")
    for file, lines in (
        ("Data_Entry_2017_v2020.csv", entries), ("BBox_List_2017.csv", boxes),
        ("train_val_list.txt", train_valid), ("test_list.txt", test),
    ):  # fmt: skip
        (folder / file).write_text("".join(line + "\n" for line in lines))
