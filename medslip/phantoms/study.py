"""One phantom study: patient, image, findings, report. Everything follows from the corpus seed and the study's index."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from medslip.phantoms.body import sample_body
from medslip.phantoms.canvas import Canvas, Frame
from medslip.phantoms.chest import draw_chest
from medslip.phantoms.film import expose
from medslip.phantoms.findings import Kind, Plan, Site, choose
from medslip.phantoms.painters import Mask, anatomies, paint, reshape
from medslip.phantoms.report import Report, write_report

_BLOCK = 6
_FAMILIES = ((1, 2, 3), (2, 1, 2, 1), (1, 1, 1, 3), (2, 2, 2), (1, 1, 2, 1, 1), (3, 2, 1), (1, 2, 1, 2))
"""How many studies each patient of a block of six studies has."""

Box = tuple[int, int, int, int]
"""x, y, width, height in pixels, tight around a mask."""


@dataclass(frozen=True)
class Finding:
    """A finding as drawn."""

    kind: Kind
    site: Site
    mask: Mask  # side x side, True where it shows
    box: Box


@dataclass(frozen=True)
class Patient:
    """Who is examined, and which of the patient's studies this is."""

    number: int  # 8 digits, as MIMIC-CXR writes it
    study_of_patient: int  # 0 for the first study
    sex: str  # "F" or "M"
    age: int  # years
    seed: tuple[int, ...]  # of the body


@dataclass(frozen=True)
class PhantomStudy:
    """A study of one frontal image."""

    image: npt.NDArray[np.uint8]  # side x side, bones bright
    findings: tuple[Finding, ...]  # empty for a normal study
    anatomies: dict[str, Box]  # by the names of Chest ImaGenome
    report: Report
    patient: Patient
    number: int  # 8 digits
    dicom: str  # name of the image, as MIMIC-CXR-JPG makes names
    view: str  # "PA" or "AP"

    @property
    def folder(self) -> str:
        """The study's folder in MIMIC-CXR: "p10/p10000032/s50414267"."""
        subject = str(self.patient.number)
        return f"p{subject[:2]}/p{subject}/s{self.number}"

    @property
    def radgraph(self) -> tuple[str, dict[str, Any]]:
        """Key and value of the study's entry in RadGraph's MIMIC-CXR_graphs.json."""
        report, about = self.report, {"data_source": "MIMIC-CXR", "data_split": "inference"}
        return f"{self.folder}.txt", {"text": " ".join(report.tokens), "entities": report.entities, **about}


def patient_of(seed: int, index: int) -> Patient:
    """The patient of a study of a corpus. Patients have one to three studies, with consecutive indices."""
    block, place = divmod(index, _BLOCK)
    sizes = _FAMILIES[int(np.random.default_rng((seed, 1, block)).integers(len(_FAMILIES)))]
    first = max(start for start in itertools.accumulate(sizes, initial=0) if start <= place)
    key = (seed, 2, block * _BLOCK + first)
    rng = np.random.default_rng(key)
    sex, age = ("F" if rng.random() < 0.48 else "M"), int(np.clip(rng.normal(58, 17), 18, 94))
    return Patient(10_000_000 + block * _BLOCK + first, place - first, sex, age, key)


def draw_study(seed: int, index: int, side: int, plans: Sequence[Plan] | None = None) -> PhantomStudy:
    """Draw a study of a corpus, with given findings or chosen ones; the same at every call, in every process and order."""
    if not 64 <= side <= 1024:
        raise ValueError(f"side {side} is outside 64 to 1024")
    patient = patient_of(seed, index)
    body = sample_body(np.random.default_rng((*patient.seed, 3)), patient.sex == "F")
    rng, texture, exposure, grain, words = (np.random.default_rng((seed, stream, index)) for stream in range(4, 9))
    chosen = choose(rng) if plans is None else plans
    view = "PA" if rng.random() < 0.6 else "AP"
    canvas = Canvas(side, _position(rng))
    chest = draw_chest(canvas, reshape(body, chosen), body, texture)
    findings = tuple(_finding(plan, paint(chest, plan)) for plan in chosen)
    image = expose(canvas, chest.density, view, exposure, grain)
    name = hashlib.sha1(f"{seed}/{index}".encode(), usedforsecurity=False).hexdigest()
    dicom = "-".join(name[start : start + 8] for start in range(0, 40, 8))
    places = {anatomy: _box(mask) for anatomy, mask in anatomies(chest).items()}
    report = write_report(chosen, words)
    return PhantomStudy(image, findings, places, report, patient, 50_000_000 + index, dicom, view)


def _position(rng: Generator) -> Frame:
    """How the patient stands before the plate, and how near."""
    scale = rng.uniform(0.45, 0.62)
    return Frame(
        centre_x=0.5 + rng.normal(0, 0.04),
        centre_y=float(np.clip(0.44 - 0.5 * scale + rng.normal(0, 0.045), 0.04, 0.3)),
        scale_x=scale * rng.uniform(0.9, 1.1),
        scale_y=scale,
        angle=rng.normal(0, 0.055),
        bend=rng.normal(0, 0.018),
        bend_phase=rng.uniform(0, 6),
    )


def _finding(plan: Plan, mask: Mask) -> Finding:
    return Finding(plan.kind, plan.site, mask, _box(mask))


def _box(mask: Mask) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1
