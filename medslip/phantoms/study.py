"""One phantom study: patient, film, findings, report. Everything follows from the corpus's seed and the study's index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medslip.phantoms.body import sample_body
from medslip.phantoms.canvas import Canvas, Frame
from medslip.phantoms.chest import draw_chest
from medslip.phantoms.film import expose
from medslip.phantoms.findings import paint
from medslip.phantoms.kinds import Kind, Site
from medslip.phantoms.painting import Mask
from medslip.phantoms.plans import Plan, choose, reshape
from medslip.phantoms.report import Report, write_report

_BLOCK = 6
_FAMILIES = ((1, 2, 3), (2, 1, 2, 1), (1, 1, 1, 3), (2, 2, 2), (1, 1, 2, 1, 1), (3, 2, 1), (1, 2, 1, 2))
"""How many studies the patients of each block of six studies have."""


@dataclass(frozen=True)
class Finding:
    """A finding as drawn.

    Attributes:
        kind: What it is.
        site: Where it sits: vocabulary anatomy and side.
        mask: side x side, True where it shows.
        box: x, y, width, height in pixels, tight around the mask.
    """

    kind: Kind
    site: Site
    mask: Mask
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Patient:
    """Who is examined, and which of the patient's studies this is.

    Attributes:
        number: Subject number, 8 digits, as MIMIC-CXR writes it.
        study_of_patient: 0 for the first study.
        sex: "F" or "M".
        age: Years.
        seed: Decides the body.
    """

    number: int
    study_of_patient: int
    sex: str
    age: int
    seed: tuple[int, ...]


@dataclass(frozen=True)
class PhantomStudy:
    """A study of one frontal film.

    Attributes:
        index: Its number in the corpus.
        image: side x side, uint8, bones bright.
        findings: What was drawn; empty for a normal study.
        report: Text and graph.
        patient: Who was examined.
        study: Study number, 8 digits.
        dicom: Name of the image, as MIMIC-CXR-JPG makes names.
        view: "PA" or "AP".
    """

    index: int
    image: npt.NDArray[np.uint8]
    findings: tuple[Finding, ...]
    report: Report
    patient: Patient
    study: int
    dicom: str
    view: str

    @property
    def folder(self) -> str:
        """The study's folder in MIMIC-CXR: "p10/p10000032/s50414267"."""
        subject = str(self.patient.number)
        return f"p{subject[:2]}/p{subject}/s{self.study}"

    @property
    def radgraph(self) -> tuple[str, dict[str, Any]]:
        """Key and value of the study's entry in RadGraph's MIMIC-CXR_graphs.json."""
        return f"{self.folder}.txt", {
            "text": " ".join(self.report.tokens),
            "entities": self.report.entities,
            "data_source": "MIMIC-CXR",
            "data_split": "inference",
        }


def patient_of(seed: int, index: int) -> Patient:
    """The patient of a study. Patients have one to three studies, with consecutive indices.

    Args:
        seed: The corpus's seed.
        index: The study's index.
    """
    block, place = divmod(index, _BLOCK)
    sizes = _FAMILIES[int(np.random.default_rng((seed, 1, block)).integers(len(_FAMILIES)))]
    first = 0
    for size in sizes:
        if place < first + size:
            break
        first += size
    key = (seed, 2, block * _BLOCK + first)
    rng = np.random.default_rng(key)
    sex, age = ("F" if rng.random() < 0.48 else "M"), int(np.clip(rng.normal(58, 17), 18, 94))
    return Patient(10_000_000 + block * _BLOCK + first, place - first, sex, age, key)


def draw_study(seed: int, index: int, side: int, plans: Sequence[Plan] | None = None) -> PhantomStudy:
    """Draw one study; the same at every call, in every process and order.

    Args:
        seed: The corpus's seed.
        index: The study's index, from 0.
        side: Pixels along each side of the image, 64 to 1024.
        plans: Findings to draw; None chooses them.

    Raises:
        ValueError: The side is out of range.
    """
    if not 64 <= side <= 1024:
        raise ValueError(f"side {side} is outside 64 to 1024")
    patient = patient_of(seed, index)
    body = sample_body(np.random.default_rng((*patient.seed, 3)), patient.sex == "F")
    rng = np.random.default_rng((seed, 4, index))
    chosen = choose(rng) if plans is None else list(plans)
    view = "PA" if rng.random() < 0.6 else "AP"
    canvas = Canvas(side, _position(rng))
    chest = draw_chest(canvas, reshape(body, chosen), np.random.default_rng((seed, 5, index)))
    findings = tuple(_finding(plan, paint(chest, plan, body)) for plan in chosen)
    image = expose(
        canvas, chest.density, view,
        np.random.default_rng((seed, 6, index)), np.random.default_rng((seed, 7, index)),
    )  # fmt: skip
    return PhantomStudy(
        index=index,
        image=image,
        findings=findings,
        report=write_report(chosen, np.random.default_rng((seed, 8, index))),
        patient=patient,
        study=50_000_000 + index,
        dicom=_dicom_name(seed, index),
        view=view,
    )


def _position(rng: np.random.Generator) -> Frame:
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
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise RuntimeError(f"{plan.kind.pathology} at {plan.site.anatomy} left no mark on the film")
    x, y = int(columns[0]), int(rows[0])
    return Finding(plan.kind, plan.site, mask, (x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1))


def _dicom_name(seed: int, index: int) -> str:
    digest = hashlib.sha1(f"{seed}/{index}".encode(), usedforsecurity=False).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))
