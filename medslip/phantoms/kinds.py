"""What can be found in a phantom: one row a kind, with where it may sit and how often it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Side = Literal["left", "right", ""]
"""The patient's side; empty for the midline and for both."""


@dataclass(frozen=True)
class Site:
    """A place where a kind may sit.

    Attributes:
        anatomy: Vocabulary name that the report's phrase stands for.
        side: The patient's side.
        zones: What the finding takes up; two findings of one study never share a zone, so that each stays visible.
    """

    anatomy: str
    side: Side
    zones: frozenset[str]


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        pathology: Vocabulary name; also the kind's name.
        title: What the contact sheet calls it.
        weight: Relative chance of being drawn, chosen so that 8 to 13 % of the studies have each kind.
        sites: Where it may sit, all equally likely.
        cxr14: Its NIH ChestX-ray14 class; None where there is none.
    """

    pathology: str
    title: str
    weight: float
    sites: tuple[Site, ...]
    cxr14: str | None = None


def _sided(anatomy: str, *zones: str) -> tuple[Site, ...]:
    """The same place on both sides; "{}" stands for the side."""
    sides: tuple[Side, ...] = ("left", "right")
    return tuple(Site(anatomy.format(side), side, frozenset(zone.format(side) for zone in zones)) for side in sides)


def _midline(anatomy: str, *zones: str) -> tuple[Site, ...]:
    return (Site(anatomy, "", frozenset(zones)),)


_LEVELS = (
    *_sided("{}_upper_lung", "{} upper"), *_sided("{}_mid_lung", "{} mid"), *_sided("{}_lower_lung", "{} lower"),
)  # fmt: skip

_LOBES = (
    *_sided("upper_{}_lobe", "{} upper"), *_sided("lower_{}_lobe", "{} lower"),
    Site("middle_right_lobe", "right", frozenset({"right mid", "right lower"})),
)  # fmt: skip

KINDS: tuple[Kind, ...] = (
    Kind("edema", "Pulmonary oedema", 1.9, _midline(
        "pulmonary", "texture", "left mid", "right mid", "left lower", "right lower"), "Edema"),
    Kind("emphysema", "Bullous emphysema", 1.55,
         _sided("{}_upper_lung", "texture", "{} upper", "{} wall", "diaphragms"), "Emphysema"),
    Kind("effusion", "Pleural effusion", 1.45,
         _sided("{}_pleural", "{} angle", "{} lower", "diaphragms"), "Effusion"),
    Kind("pneumothorax", "Pneumothorax", 1.1,
         _sided("{}_pleural", "{} wall", "{} upper", "{} bones"), "Pneumothorax"),
    Kind("elevation", "Elevated hemidiaphragm", 1.45, _sided("{}_diaphragm", "{} angle", "{} lower", "diaphragms")),
    Kind("consolidation", "Consolidation", 1.1, _LOBES, "Consolidation"),
    Kind("infiltrate", "Patchy infiltrate", 1.3, (*_sided("{}_mid_lung", "texture", "{} mid"),
         *_sided("{}_lower_lung", "texture", "{} lower")), "Infiltration"),
    Kind("atelectasis", "Linear atelectasis", 1.2, _sided("{}_lower_lung", "{} lower"), "Atelectasis"),
    Kind("cardiomegaly", "Cardiomegaly", 1.05, _midline("heart_size", "heart"), "Cardiomegaly"),
    Kind("thicken", "Pleural thickening", 1.05, _sided("{}_pleural", "{} wall", "{} bones"), "Pleural_Thickening"),
    Kind("mass", "Mass", 1.1, (*_LEVELS, *_sided("{}_hilar", "{} mid", "{} hilum")), "Mass"),
    Kind("nodule", "Nodule", 1.05, _LEVELS, "Nodule"),
    Kind("calcification", "Calcified granulomas", 1.05,
         (*_LEVELS, *_sided("{}_hilar", "{} hilum")), None),
    Kind("hernia", "Hiatal hernia", 1.05, _midline("retrocardiac", "hiatus"), "Hernia"),
    Kind("fracture", "Rib fractures", 1.05, _sided("rib", "{} bones", "{} wall")),
    Kind("pacemaker", "Pacemaker", 1.05, _sided("other", "{} pectoral", "leads")),
    Kind("tube", "Endotracheal tube", 1.05, _midline("trachea", "trachea")),
    Kind("catheter", "Central venous catheter", 1.1,
         (Site("svc", "right", frozenset({"leads"})), Site("svc", "left", frozenset({"leads"})))),
)  # fmt: skip
"""Broad kinds come first: they are placed first, and the local ones find room beside them."""

KIND_NAMES: tuple[str, ...] = tuple(kind.pathology for kind in KINDS)


def kind_of(pathology: str) -> Kind:
    """The kind of that name."""
    return KINDS[KIND_NAMES.index(pathology)]
