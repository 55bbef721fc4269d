"""Writes phantoms as MIMIC-CXR-JPG, with their reports and RadGraph graphs (layout: the publishers' own)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from medslip.phantoms.study import PhantomStudy
from medslip.phantoms.truth import StudyRecord

MIMIC_FOLDER = "mimic_cxr"
GRAPHS_FILE = Path("radgraph") / "MIMIC-CXR_graphs.json"

_SPLIT_NAMES = {"train": "train", "valid": "validate", "test": "test"}


def mimic_image(study: PhantomStudy) -> str:
    """Where a study's film lies, relative to the corpus."""
    return f"{MIMIC_FOLDER}/files/{study.folder}/{study.dicom}.jpg"


def write_mimic_study(corpus: Path, study: PhantomStudy) -> None:
    """Write one study's film and report."""
    image = corpus / mimic_image(study)
    image.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(study.image).save(image, quality=92)
    image.parent.with_suffix(".txt").write_text(study.report.text, encoding="utf-8")


def write_mimic_tables(corpus: Path, records: Iterable[StudyRecord]) -> None:
    """Write the metadata table, the split table and the graphs of all studies."""
    records = list(records)
    metadata = [
        (r.dicom, r.subject, r.study, "CHEST (PORTABLE AP)" if r.view == "AP" else "CHEST (PA AND LAT)", r.view,
         r.side, r.side, f"21{50 + r.study_of_patient:02d}0101", "120000.000")
        for r in records
    ]  # fmt: skip
    _write_table(
        corpus / MIMIC_FOLDER / "mimic-cxr-2.0.0-metadata.csv.gz",
        ("dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition",
         "Rows", "Columns", "StudyDate", "StudyTime"),
        metadata,
    )  # fmt: skip
    _write_table(
        corpus / MIMIC_FOLDER / "mimic-cxr-2.0.0-split.csv.gz",
        ("dicom_id", "study_id", "subject_id", "split"),
        [(r.dicom, r.study, r.subject, _SPLIT_NAMES[r.split]) for r in records],
    )
    graphs = corpus / GRAPHS_FILE
    graphs.parent.mkdir(parents=True, exist_ok=True)
    with graphs.open("w", encoding="utf-8") as file:
        file.write("{\n")
        file.write(",\n".join(f"{json.dumps(r.graph_key)}: {json.dumps(r.graph)}" for r in records))
        file.write("\n}\n")


def _write_table(path: Path, header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    # A fixed time stamp keeps the file the same at every writing.
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as packed:
        lines = [",".join(str(value) for value in row) for row in (header, *rows)]
        packed.write(("\n".join(lines) + "\n").encode())
