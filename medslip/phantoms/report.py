"""The report of a study: what is found and what is not, in varied wording; the sentences carry their RadGraph graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from medslip.phantoms.findings import CATALOGUE, KINDS, Plan
from medslip.phantoms.markup import Entity, graph, plain


@dataclass(frozen=True)
class Report:
    """A radiology report as text and as RadGraph sees it."""

    text: str  # as a radiologist writes it, with headings and line breaks
    tokens: tuple[str, ...]  # its words as RadGraph numbers them
    entities: dict[str, Entity]
    stated: tuple[str, ...]  # the sentence of each finding
    absent: tuple[str, ...]  # kinds that it says are absent


def write_report(plans: Sequence[Plan], rng: Generator) -> Report:
    """The report of a study with these findings.

    Every finding is stated. About half of the kinds that are not there are denied; the rest are not mentioned.
    """
    present = {plan.kind.name for plan in plans}
    findings = [_state(plan, rng) for plan in plans]
    stated = tuple(plain(_sentence_case(sentence)) for sentence in findings)
    for normal in CATALOGUE["normal"]:
        if not present & set(normal["unless"]) and rng.random() < (0.55 if present else 0.75):
            findings.append(_pick(normal["stated"], rng))
    absent = [name for name in KINDS if name not in present and rng.random() < 0.5]
    findings += _denials(absent, rng)
    if rng.random() < 0.06:
        findings.append(_pick(CATALOGUE["uncertain"], rng))
    rng.shuffle(findings)
    impression = [
        plan.kind.summary.format(side=plan.site.side, adjective=_phrase(plan.site.anatomy)) for plan in plans
    ] or [_pick(CATALOGUE["healthy"], rng)]
    lines, sentences = ["FINAL REPORT"], ["FINAL REPORT"]
    for heading, section in (("FINDINGS :", findings), ("IMPRESSION :", impression)):
        section = [_sentence_case(sentence) for sentence in section]
        sentences += [heading, *section]
        lines += ["", plain(heading), " ".join(map(plain, section))]
    tokens, entities = graph(sentences)
    return Report("\n".join(lines) + "\n", tuple(tokens), entities, stated, tuple(absent))


def _pick(choices: Sequence[str], rng: Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _state(plan: Plan, rng: Generator) -> str:
    """One finding in one sentence."""
    degrees = CATALOGUE["degrees"][min(int(3 * plan.degree), 2)]
    degree = _pick(degrees, rng)
    return _pick(plan.kind.stated, rng).format(
        degree=degree,
        Degree=degree or degrees[0],
        course=_pick(CATALOGUE["course"], rng),
        change=_pick(CATALOGUE["change"], rng),
        side=plan.site.side,
        where=_phrase(plan.site.anatomy, _pick(("lung", "zone"), rng)),
        adjective=_phrase(plan.site.anatomy),
    )


def _phrase(anatomy: str, style: str = "lung") -> str:
    """The words that stand for an anatomy ("lower_left_lobe": left lower lobe); empty where sentences name it."""
    parts = anatomy.split("_")
    side = next((part for part in parts if part in ("left", "right")), "")
    level = next((part for part in parts if part in ("upper", "middle", "mid", "lower")), "")
    if "lobe" in parts:
        return f"{side}/a {level}/a lobe/A"
    if "hilar" in parts:
        return f"{side}/a {'hilum' if style == 'zone' else 'hilar'}/A"
    if "lung" in parts:
        return f"{side}/a base/A" if (style, level) == ("zone", "lower") else f"{side}/a {level}/a lung/A"
    return ""


def _denials(absent: Sequence[str], rng: Generator) -> list[str]:
    """Sentences that deny one to three kinds each."""
    order = [absent[int(index)] for index in rng.permutation(len(absent))]
    sentences = []
    while order:
        size = int(rng.integers(1, 4))
        group, order = order[:size], order[size:]
        *others, last = (KINDS[name].denied.format(g=number) for number, name in enumerate(group, start=1))
        listed = f"{' , '.join(others)} or {last}" if others else last
        sentences.append(_pick(("No {} .", "There is no {} .", "No evidence of {} ."), rng).format(listed))
    return sentences


def _sentence_case(sentence: str) -> str:
    """A capital at the start, "an" before a vowel, and single blanks where an optional word was left out."""
    sentence = re.sub(r"(?<!\S)([Aa]) (?=[aeiou])", r"\1n ", " ".join(sentence.split()))
    return sentence[:1].upper() + sentence[1:]
