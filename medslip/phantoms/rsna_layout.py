"""Writes phantoms as RSNA Pneumonia: DICOM films and boxes of opacities.

Phantoms have no pneumonia. Consolidations and infiltrates stand in for it: the publisher's readers marked opacities of
the lung that may be pneumonia, and these two are the phantoms' own. Masses, nodules, oedema and effusions are left
unmarked, as there.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medslip.data.boxes import BOX_FRAME
from medslip.data.images import Header, uid_of, write_dicom
from medslip.data.rsna import IMAGES_FOLDER, LABELS_FILE
from medslip.phantoms.study import PhantomStudy
from medslip.phantoms.truth import StudyRecord

RSNA_FOLDER = "rsna"

OPACITIES = ("consolidation", "infiltrate")
"""Kinds that are marked."""

JPEG_QUALITY = 92
"""Of the films: like the publisher's, they are compressed."""


def header_of(study: PhantomStudy) -> Header:
    """What a film's DICOM header says."""
    patient, (height, width) = study.patient, study.image.shape
    return Header(f"p{patient.number}", patient.sex, float(patient.age), study.view, height, width)


def write_rsna_study(corpus: Path, study: PhantomStudy) -> None:
    """Write one study's film. It is named after the image, as patients of phantoms have several."""
    folder = corpus / RSNA_FOLDER / IMAGES_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    write_dicom(folder / f"{study.dicom}.dcm", study.image, header_of(study), uid_of(study.dicom), JPEG_QUALITY)


def write_rsna_tables(corpus: Path, records: Iterable[StudyRecord]) -> None:
    """Write the boxes of the validation and test studies."""
    lines = ["patientId,x,y,width,height,Target"]
    for record in records:
        if record.split == "train":
            continue
        boxes = [finding.box for finding in record.findings if finding.pathology in OPACITIES]
        for box in boxes:
            cells = ",".join(f"{value * BOX_FRAME / record.side:.1f}" for value in box)
            lines.append(f"{record.dicom},{cells},1")
        if not boxes:
            lines.append(f"{record.dicom},,,,,0")
    (corpus / RSNA_FOLDER).mkdir(parents=True, exist_ok=True)
    (corpus / RSNA_FOLDER / LABELS_FILE).write_text("".join(line + "\n" for line in lines))
