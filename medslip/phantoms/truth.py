"""What is known of each phantom: findings.csv, findings.jsonl and the masks."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from medslip.phantoms.kinds import KIND_NAMES
from medslip.phantoms.study import PhantomStudy


@dataclass(frozen=True)
class FindingRecord:
    """A finding of a study.

    Attributes:
        pathology: Vocabulary name.
        anatomy: Vocabulary name.
        side: "left", "right" or "": the patient's side.
        box: x, y, width, height in pixels.
        mask: Its mask's file, relative to the corpus.
    """

    pathology: str
    anatomy: str
    side: str
    box: tuple[int, int, int, int]
    mask: str


@dataclass(frozen=True)
class StudyRecord:
    """A study without its pixels: what the tables of every layout are written from.

    Attributes:
        image: The film's file, relative to the corpus.
        split: "train", "valid" or "test".
        subject: Patient number, 8 digits.
        study: Study number, 8 digits.
        study_of_patient: 0 for the patient's first study.
        dicom: Name of the image in MIMIC-CXR-JPG.
        view: "PA" or "AP".
        sex: "F" or "M".
        age: Years.
        side: Pixels along each side of the film.
        findings: What is there.
        absent: Kinds that the report denies.
        graph_key: Key in RadGraph's file.
        graph: Value in RadGraph's file.
    """

    image: str
    split: str
    subject: int
    study: int
    study_of_patient: int
    dicom: str
    view: str
    sex: str
    age: int
    side: int
    findings: tuple[FindingRecord, ...]
    absent: tuple[str, ...]
    graph_key: str
    graph: dict[str, Any]


def record_of(study: PhantomStudy, split: str, image: str) -> StudyRecord:
    """The record of a study whose film lies at ``image``."""
    key, graph = study.radgraph
    findings = tuple(
        FindingRecord(
            finding.kind.pathology, finding.site.anatomy, finding.site.side, finding.box,
            f"masks/s{study.study}_{finding.kind.pathology}.png",
        )
        for finding in study.findings
    )  # fmt: skip
    return StudyRecord(
        image=image, split=split, subject=study.patient.number, study=study.study,
        study_of_patient=study.patient.study_of_patient, dicom=study.dicom, view=study.view,
        sex=study.patient.sex, age=study.patient.age, side=len(study.image), findings=findings,
        absent=study.report.absent, graph_key=key, graph=graph,
    )  # fmt: skip


def write_masks(corpus: Path, study: PhantomStudy, record: StudyRecord) -> None:
    """Write a mask of one bit a pixel for each finding."""
    for finding, entry in zip(study.findings, record.findings, strict=True):
        path = corpus / entry.mask
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(finding.mask).save(path, compress_level=1)


def write_truth(corpus: Path, records: Iterable[StudyRecord]) -> None:
    """Write findings.csv, one line a study, and findings.jsonl, one line a finding."""
    header = ("image", "study", "patient", "split", "view", "sex", "age", *KIND_NAMES)
    with (
        (corpus / "findings.csv").open("w", newline="") as table,
        (corpus / "findings.jsonl").open("w") as lines,
    ):
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(header)
        for record in records:
            study, patient = f"s{record.study}", f"p{record.subject}"
            present = {finding.pathology for finding in record.findings}
            cells = [int(name in present) for name in KIND_NAMES]
            writer.writerow((record.image, study, patient, record.split, record.view, record.sex, record.age, *cells))
            for finding in record.findings:
                line = {
                    "study": study, "image": record.image, "split": record.split, "pathology": finding.pathology,
                    "anatomy": finding.anatomy, "side": finding.side, "box": list(finding.box), "mask": finding.mask,
                }  # fmt: skip
                lines.write(json.dumps(line) + "\n")
