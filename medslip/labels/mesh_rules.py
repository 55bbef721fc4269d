"""MeSH tags of OpenI's reports -> triplets.

The major MeSH terms of a report were coded by hand: "Opacity/lung/base/left/mild" is a finding, its place, and its degree. The
rules that turn tags into triplets are data: resources/openi_rules.json. Three of them need explaining:

- A report tagged "normal" has `normal` present, and the findings that coders would have tagged absent, each in the place
  where a report denies it: no effusion in the pleura (``absent_when_normal``).
- Pneumothorax, effusion and cardiomegaly are so rarely left untagged that a report without such a tag counts as not having
  the finding, unless a related one is tagged (``absent_when_untagged``).
- A tag that names several places ("pleura/apex/left") fills a cell for each; a general place such as "lung" counts only if no
  particular one is named.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from medslip.labels.store import ABSENT, PRESENT, Cells, mention
from medslip.vocabulary import anatomy_index, pathology_index

_SIDES = {"left": "left", "right": "right", "bilateral": "both"}
_COMMONEST = 15
"""How many of the commonest unmapped tags a summary names."""

Places = Mapping[str, tuple[str, ...]]
"""Side (left, right, both, none) -> anatomies."""


@dataclass(frozen=True)
class FindingRule:
    """What a tag's first term says.

    Attributes:
        tag: The term, in lower case.
        needs: A further term that the tag must have; empty for none.
        pathologies: What is then present.
        place: Where, if the tag names no particular place; empty for none.
    """

    tag: str
    needs: str
    pathologies: tuple[str, ...]
    place: str


@dataclass(frozen=True)
class MeshRules:
    """Maps MeSH tags to the vocabulary; see resources/openi_rules.json.

    Attributes:
        findings: First match counts.
        states: A term that is a finding of the place before it ("tortuous") -> pathology.
        places: Term -> anatomies by side.
        general_places: Terms that count as a place only where no other is named.
        nothing: First terms that say nothing about the chest.
        absent_when_normal: Pathology that a normal report is without -> where; empty for "unspecified".
        absent_when_untagged: Pathology that a report without such a tag is without -> those that leave it
            open.
    """

    findings: tuple[FindingRule, ...]
    states: Mapping[str, str]
    places: Mapping[str, Places]
    general_places: frozenset[str]
    nothing: frozenset[str]
    absent_when_normal: Mapping[str, str]
    absent_when_untagged: Mapping[str, tuple[str, ...]]

    @classmethod
    def load(cls) -> MeshRules:
        """The packaged rules."""
        source = resources.files("medslip.resources").joinpath("openi_rules.json")
        data = json.loads(source.read_text("utf-8"))
        return cls(
            findings=tuple(
                FindingRule(rule["tag"], rule.get("with", ""), tuple(rule["pathology"]), rule.get("place", ""))
                for rule in data["findings"]
            ),
            states=data["states"],
            places={term: _by_side(place, data["places"]) for term, place in data["places"].items()},
            general_places=frozenset(data["general_places"]),
            nothing=frozenset(data["nothing"]),
            absent_when_normal=data["absent_when_normal"],
            absent_when_untagged={name: tuple(open_) for name, open_ in data["absent_when_untagged"].items()},
        )

    def triplets(self, tag: str) -> list[tuple[str, str]]:
        """The (anatomy, pathology) pairs that a tag says are present; empty if no rule matches."""
        terms = [term.strip().lower() for term in tag.split("/")]
        terms = [" ".join(term.split()) for term in terms]
        if terms == ["normal"]:
            return [("unspecified", "normal")]
        rule = next((rule for rule in self.findings if rule.tag == terms[0] and rule.needs in ("", *terms[1:])), None)
        if rule is not None:
            pathologies, default = rule.pathologies, rule.place
        elif terms[0] in self.places:
            pathologies = tuple(dict.fromkeys(self.states[term] for term in terms[1:] if term in self.states))
            default = ""
        else:
            return []
        anatomies = self.anatomies(terms[1:] if default else terms, default)
        return [(anatomy, pathology) for anatomy in anatomies for pathology in pathologies]

    def anatomies(self, terms: Sequence[str], default: str) -> list[str]:
        """The anatomies that a tag's terms name.

        Args:
            terms: Terms in lower case; those that are neither place nor side are passed over.
            default: The place to take where no particular one is named; empty for none.

        Returns:
            Names of anatomies, each once; "unspecified" alone where there is no place at all.
        """
        named = _with_sides([term for term in terms if term in self.places or term in _SIDES])
        particular = [(place, side) for place, side in named if place and place not in self.general_places]
        if particular:
            named = particular
        elif default:
            named = [(default, side) for _, side in named[:1]] or [(default, "none")]
        found = [anatomy for place, side in named if place for anatomy in self.places[place][side]]
        return list(dict.fromkeys(found)) or ["unspecified"]


def _by_side(place: Any, places: Mapping[str, Any]) -> Places:
    if isinstance(place, str):
        return _by_side(places[place], places)
    if isinstance(place, list):
        return dict.fromkeys(("left", "right", "both", "none"), tuple(place))
    return {side: tuple(anatomies) for side, anatomies in place.items()}


def _with_sides(terms: Sequence[str]) -> list[tuple[str, str]]:
    """(place, side) of each place: a side belongs to the places since the side before it, the last to the rest."""
    named: list[tuple[str, str]] = []
    waiting: list[str] = []
    side = "none"
    for term in terms:
        if term not in _SIDES:
            waiting.append(term)
            continue
        side = _SIDES[term]
        named += [(place, side) for place in waiting]
        waiting = []
    # "right/posterior/costophrenic angle": places after the last side are on that side as well.
    named += [(place, side) for place in waiting]
    return named or ([("", side)] if side != "none" else [])


def report_cells(tags: Sequence[str], rules: MeshRules) -> Cells:
    """The cells that a report's tags fill; see the module's notes for what becomes absent."""
    pairs = [pair for tag in tags for pair in rules.triplets(tag)]
    cells: Cells = {}
    for anatomy, pathology in pairs:
        mention(cells, anatomy_index(anatomy), pathology_index(pathology), PRESENT)
    if not pairs:
        return cells
    present = {pathology for _, pathology in pairs}
    absent = {pathology for pathology, open_ in rules.absent_when_untagged.items() if not present & {pathology, *open_}}
    if present == {"normal"}:
        absent |= set(rules.absent_when_normal)
    for pathology in absent:
        for anatomy in rules.anatomies([], rules.absent_when_normal[pathology]):
            mention(cells, anatomy_index(anatomy), pathology_index(pathology), ABSENT)
    return cells


class TagCounter:
    """Counts how many tags the rules map."""

    def __init__(self, rules: MeshRules) -> None:
        self._rules = rules
        self.mapped: Counter[str] = Counter()
        self.unmapped: Counter[str] = Counter()

    def add(self, tags: Sequence[str]) -> None:
        """Count a report's tags."""
        for tag in tags:
            (self.mapped if self._rules.triplets(tag) else self.unmapped)[tag] += 1

    def notes(self) -> tuple[str, ...]:
        """The account of it, for a summary."""
        mapped, unmapped = self.mapped.total(), self.unmapped.total()
        share = mapped / max(1, mapped + unmapped)
        notes = [
            f"MeSH tags: {mapped} of {mapped + unmapped} mapped ({share:.1%}), "
            f"{len(self.mapped)} of {len(self.mapped) + len(self.unmapped)} distinct ones."
        ]
        if self.unmapped:
            named = ", ".join(f"{tag} ({count})" for tag, count in self.unmapped.most_common(_COMMONEST))
            notes.append(f"The commonest tags that no rule maps: {named}.")
        return tuple(notes)
