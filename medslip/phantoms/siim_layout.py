"""Writes phantoms as SIIM-ACR Pneumothorax: DICOM films, and masks as relative run lengths, in the films' own pixels."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medslip.data.images import read_image, uid_of, write_dicom
from medslip.data.siim_acr import IMAGES_FOLDER, NO_MASK, TABLE_FILE, encode_rle
from medslip.phantoms.rsna_layout import JPEG_QUALITY, header_of
from medslip.phantoms.study import PhantomStudy
from medslip.phantoms.truth import StudyRecord

SIIM_FOLDER = "siim_acr"


def write_siim_study(corpus: Path, study: PhantomStudy) -> None:
    """Write one study's film, in a folder a study and a series."""
    levels = (uid_of(f"{study.dicom}/study"), uid_of(f"{study.dicom}/series"))
    folder = (corpus / SIIM_FOLDER / IMAGES_FOLDER).joinpath(*levels)
    folder.mkdir(parents=True, exist_ok=True)
    name = uid_of(study.dicom)
    write_dicom(folder / f"{name}.dcm", study.image, header_of(study), name, JPEG_QUALITY)


def write_siim_tables(corpus: Path, records: Iterable[StudyRecord]) -> None:
    """Write the run lengths of the validation and test studies, one row a pneumothorax.

    The corpus's masks are read: they must be there already.
    """
    lines = ["ImageId, EncodedPixels"]
    for record in records:
        if record.split == "train":
            continue
        masks = [finding.mask for finding in record.findings if finding.pathology == "pneumothorax"]
        texts = [encode_rle(read_image(corpus / mask) > 0) for mask in masks]
        lines += [f"{uid_of(record.dicom)},{text}" for text in texts or [NO_MASK]]
    (corpus / SIIM_FOLDER).mkdir(parents=True, exist_ok=True)
    (corpus / SIIM_FOLDER / TABLE_FILE).write_text("".join(line + "\n" for line in lines))
