"""A study's report: what is found, what is not, in varied wording; the sentences carry their RadGraph graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medslip.phantoms.kinds import KIND_NAMES
from medslip.phantoms.markup import Entity, graph, plain
from medslip.phantoms.plans import Plan


@dataclass(frozen=True)
class Report:
    """A report as text and as RadGraph sees it.

    Attributes:
        text: As a radiologist would hand it in, with headings and line breaks.
        tokens: Its words as RadGraph numbers them.
        entities: RadGraph's entities.
        absent: Kinds that the report says are not there.
        normal: Whether the report calls the study normal.
    """

    text: str
    tokens: tuple[str, ...]
    entities: dict[str, Entity]
    absent: tuple[str, ...]
    normal: bool


_DEGREE: tuple[tuple[str, ...], ...] = (
    ("small/o", "mild/o", "minimal/o", "subtle/o"),
    ("moderate/o", "", "", ""),
    ("large/o", "marked/o", "severe/o", "extensive/o"),
)
_CHANGE = ("", "", "", "new/o", "unchanged/o", "stable/o", "persistent/o")
_COURSE = (*_CHANGE, "increased/o", "improved/o", "worsening/o")
"""What may be said of fluid and air, which come and go."""

_PRESENT: dict[str, tuple[str, ...]] = {
    "effusion": (
        "There is a {degree} {side}/a pleural/A effusion/O .",
        "{Degree} {side}/a pleural/A effusion/O is present .",
        "{course} {side}/a pleural/A effusion/O , {Degree} in extent .",
        "Layering {side}/a pleural/A fluid/O is consistent with {degree} effusion/S .",
    ),
    "pneumothorax": (
        "There is a {degree} {side}/a pleural/A pneumothorax/O .",
        "{Degree} pneumothorax/O in the {side}/a pleural/A space with a visible visceral line .",
        "A {course} {side}/a pleural/A pneumothorax/O is seen , {Degree} in size .",
    ),
    "elevation": (
        "There is {degree} elevation/O of the {side}/a hemidiaphragm/A .",
        "{change} elevation/O of the {side}/a diaphragm/A is noted .",
        "The {side}/a hemidiaphragm/A shows {degree} elevation/O .",
    ),
    "edema": (
        "There is {degree} pulmonary/A edema/O .",
        "Findings are those of {degree} pulmonary/A edema/O .",
        "Perihilar haze is consistent with {degree} {course} pulmonary/A edema/O .",
    ),
    "emphysema": (
        "{Degree} bullous/o emphysema/O in the {where} .",
        "There is {change} emphysema/O with bullae/o in the {where} .",
        "{Degree} {adjective} emphysema/O is noted .",
    ),
    "consolidation": (
        "There is {course} consolidation/O in the {where} .",
        "{Degree} {adjective} consolidation/O with air bronchograms .",
        "Dense opacity/O in the {where} , consistent with consolidation/S .",
        "The {where} shows {degree} consolidation/O .",
    ),
    "infiltrate": (
        "Patchy/o infiltrate/O in the {where} .",
        "There is a {course} patchy/o infiltrate/O within the {where} .",
        "{Degree} ill-defined/o {adjective} infiltrate/O .",
    ),
    "atelectasis": (
        "Linear/o atelectasis/O at the {where} .",
        "There is {degree} plate-like/o atelectasis/O in the {where} .",
        "{change} {adjective} atelectasis/O is seen .",
    ),
    "cardiomegaly": (
        "The heart/A size/a shows {degree} cardiomegaly/O .",
        "There is {change} cardiomegaly/O with {Degree} increase in heart/A size/a .",
        "The cardiac/A silhouette is enlarged/O , consistent with cardiomegaly/S .",
        "{Degree} cardiomegaly/O is present .",
    ),
    "thicken": (
        "There is {degree} {side}/a pleural/A thickening/O .",
        "{change} thickening/O of the {side}/a pleural/A surface along the chest wall .",
        "{Degree} {side}/a lateral pleural/A thickening/O is noted .",
    ),
    "mass": (
        "There is a {degree} mass/O in the {where} .",
        "{Degree} spiculated/o {adjective} mass/O is seen .",
        "A {change} mass/O projects over the {where} .",
    ),
    "nodule": (
        "There is a {change} nodule/O in the {where} .",
        "A round/o {adjective} nodule/O is seen .",
        "Solitary/o nodule/O projecting over the {where} .",
    ),
    "calcification": (
        "Dense/o calcification/O in the {where} .",
        "There is {change} granulomatous/o calcification/O in the {where} .",
        "Clustered/o {adjective} calcification/O is noted .",
    ),
    "hernia": (
        "There is a {degree} hiatal/o hernia/O in the retrocardiac/A region .",
        "A {change} retrocardiac/A hiatal/o hernia/O with an air-fluid level .",
        "Retrocardiac/A lucency with fluid level , {degree} hiatal/o hernia/O .",
    ),
    "fracture": (
        "There are displaced/o {side}/a rib/A fractures/O .",
        "{change} {side}/a lateral/a rib/A fractures/O with callus .",
        "Healing/o fractures/O of several {side}/a ribs/A .",
    ),
    "pacemaker": (
        "A {side}/a chest/A wall pacemaker/O is in place with lead/O2 tips in the heart/A2 .",
        "{side}/a pectoral/A pacemaker/O with intact/O2 leads/A2 .",
        "There is a {side}/a chest/A pacemaker/O .",
    ),
    "tube": (
        "An endotracheal/o tube/O is in the trachea/A with its tip above the carina .",
        "Endotracheal/o tube/O terminates in the mid/a trachea/A .",
        "The tracheal/A tube/O is in good position .",
    ),
    "catheter": (
        "A {side} central/o venous/o catheter/O terminates in the svc/A .",
        "{side} sided central/o catheter/O with its tip in the svc/A .",
        "There is a central/o venous catheter/O from the {side} in the svc/A .",
    ),
}

_ABSENT: dict[str, str] = {
    "effusion": "pleural/A{g} effusion/N{g}", "pneumothorax": "pneumothorax/N{g}",
    "elevation": "elevation/N{g} of the diaphragm/A{g}", "edema": "pulmonary/A{g} edema/N{g}",
    "emphysema": "emphysema/N{g}", "consolidation": "focal/n{g} consolidation/N{g}",
    "infiltrate": "infiltrate/N{g}", "atelectasis": "atelectasis/N{g}", "cardiomegaly": "cardiomegaly/N{g}",
    "thicken": "pleural/A{g} thickening/N{g}", "mass": "mass/N{g}", "nodule": "pulmonary/A{g} nodule/N{g}",
    "calcification": "calcification/N{g}", "hernia": "hiatal/n{g} hernia/N{g}",
    "fracture": "rib/A{g} fracture/N{g}", "pacemaker": "pacemaker/N{g}", "tube": "endotracheal/n{g} tube/N{g}",
    "catheter": "central/n{g} catheter/N{g}",
}  # fmt: skip

_NORMAL: tuple[tuple[frozenset[str], tuple[str, ...]], ...] = (
    (frozenset({"cardiomegaly"}), (
        "The heart/A size/a is normal/O .", "Heart/A size/a is within normal/O limits .",
        "The cardiac/A silhouette is unremarkable/O .")),
    (frozenset({"mass", "hernia", "calcification", "cardiomegaly"}), (
        "The mediastinal/A contours are unremarkable/O .", "Mediastinal/A contours are normal/O .",
        "The cardiomediastinal/A silhouette is stable/O .")),
    (frozenset({"edema", "emphysema", "effusion", "pneumothorax", "consolidation", "infiltrate", "atelectasis",
                "mass", "nodule", "calcification"}), (
        "The lungs/A are clear/O .", "Both lungs/A are clear/O and well expanded .", "Lungs/A remain clear/O .")),
    (frozenset({"fracture"}), (
        "The ribs/A are intact/O .", "Osseous structures are intact/O .", "No acute bony abnormality/N .")),
    (frozenset({"effusion", "elevation", "thicken"}), (
        "The costophrenic/A angles/a are sharp/O .", "Costophrenic/A angles/a are clear/O .")),
    (frozenset({"elevation"}), ("The diaphragm/A is unremarkable/O .",)),
    (frozenset({"tube"}), ("The trachea/A is midline .", "The trachea/A is unremarkable/O .")),
)  # fmt: skip
"""Statements of normality, each with the kinds that forbid it."""

_UNCERTAIN = (
    "Early/u pneumonia/U cannot be excluded .", "Possible aspiration/U in the right/a lower/a lung/A .",
    "Questionable scar/U at the left/a apex/A .", "Findings may reflect mild/u congestion/U .",
)  # fmt: skip

_SUMMARY: dict[str, str] = {
    "edema": "Pulmonary/A edema/O .", "cardiomegaly": "Cardiomegaly/O .", "hernia": "Hiatal/o hernia/O .",
    "tube": "Endotracheal/o tube/O in the trachea/A .", "catheter": "Central/o catheter/O in the svc/A .",
    "fracture": "{side}/a rib/A fractures/O .", "pacemaker": "{side}/a chest/A pacemaker/O .",
    "elevation": "Elevation/O of the {side}/a hemidiaphragm/A .",
}  # fmt: skip


def write_report(plans: Sequence[Plan], rng: np.random.Generator) -> Report:
    """The report of a study with these findings.

    Every finding is stated. Of the kinds that are not there about half are denied; the rest go unmentioned.
    """
    present = {plan.kind.pathology for plan in plans}
    findings = [_state(plan, rng) for plan in plans]
    findings += _normal_statements(present, rng)
    absent = [name for name in KIND_NAMES if name not in present and rng.random() < 0.5]
    findings += _denials(absent, rng)
    if rng.random() < 0.06:
        findings.append(_pick(_UNCERTAIN, rng))
    rng.shuffle(findings)
    normal = not plans
    if normal:
        impression = [_pick((
            "Normal/O chest/A .", "No acute cardiopulmonary/A process/N .",
            "No acute cardiopulmonary/A abnormality/N .", "Normal/O chest/A radiograph ."), rng)]  # fmt: skip
    else:
        impression = [_summary(plan) for plan in plans]
    sections = (("FINDINGS :", findings), ("IMPRESSION :", impression))
    lines = ["FINAL REPORT"]
    sentences = ["FINAL REPORT"]
    for heading, body in sections:
        body = [_sentence_case(sentence) for sentence in body]
        sentences += [heading, *body]
        lines += ["", plain(heading), " ".join(plain(sentence) for sentence in body)]
    tokens, entities = graph(sentences)
    return Report("\n".join(lines) + "\n", tuple(tokens), entities, tuple(absent), normal)


def _pick(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _state(plan: Plan, rng: np.random.Generator) -> str:
    """One finding in one sentence."""
    words = _DEGREE[min(int(3 * plan.degree), 2)]
    degree = _pick(words, rng)
    return _pick(_PRESENT[plan.kind.pathology], rng).format(
        degree=degree, Degree=degree or words[0], course=_pick(_COURSE, rng), change=_pick(_CHANGE, rng), side=plan.site.side,
        where=_phrase(plan.site.anatomy, _pick(("lung", "zone"), rng)), adjective=_phrase(plan.site.anatomy),
    )  # fmt: skip


def _phrase(anatomy: str, style: str = "lung") -> str:
    """The words that stand for an anatomy: "lower_left_lobe" -> left lower lobe."""
    parts = anatomy.split("_")
    side = next((part for part in parts if part in ("left", "right")), "")
    level = next((part for part in parts if part in ("upper", "middle", "mid", "lower")), "")
    if "lobe" in parts:
        return f"{side}/a {level}/a lobe/A"
    if "hilar" in parts:
        return f"{side}/a {'hilum' if style == 'zone' else 'hilar'}/A"
    if "lung" in parts:
        return f"{side}/a base/A" if (style, level) == ("zone", "lower") else f"{side}/a {level}/a lung/A"
    return ""  # heart, ribs and the like are named by the sentences themselves


def _normal_statements(present: set[str], rng: np.random.Generator) -> list[str]:
    chance = 0.55 if present else 0.75
    return [
        _pick(wordings, rng) for forbidden, wordings in _NORMAL if not forbidden & present and rng.random() < chance
    ]


def _denials(absent: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Sentences that deny one to three kinds each."""
    order = [absent[int(index)] for index in rng.permutation(len(absent))]
    sentences = []
    while order:
        size = int(rng.integers(1, 4))
        group, order = order[:size], order[size:]
        parts = [_ABSENT[name].format(g=number) for number, name in enumerate(group, start=1)]
        listed = parts[0] if len(parts) == 1 else " , ".join(parts[:-1]) + " or " + parts[-1]
        sentences.append(_pick(("No {} .", "There is no {} .", "No evidence of {} ."), rng).format(listed))
    return sentences


def _summary(plan: Plan) -> str:
    name = plan.kind.pathology
    if name in _SUMMARY:
        return _SUMMARY[name].format(side=plan.site.side)
    word = {"thicken": "thickening"}.get(name, name)
    if "pleural" in plan.site.anatomy:
        return f"{plan.site.side}/a pleural/A {word}/O ."
    return f"{_phrase(plan.site.anatomy)} {word}/O ."


def _sentence_case(sentence: str) -> str:
    """A capital at the start, "an" before a vowel, and no blanks where an optional word was left out."""
    sentence = re.sub(r"(?<!\S)([Aa]) (?=[aeiou])", r"\1n ", " ".join(sentence.split()))
    return sentence[:1].upper() + sentence[1:]
