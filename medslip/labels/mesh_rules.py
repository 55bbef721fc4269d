"""MeSH tags of OpenI's reports -> cells of the label matrix.

The major MeSH terms of a report were coded by hand: "Opacity/lung/base/left/mild" is a finding, its place, and its degree. The
rules that turn tags into (anatomy, pathology) pairs are data, in resources/openi_rules.json:

- ``findings``: what the first term of a tag says, if the tag also has the term ``with``; the first match counts. ``place`` is
  where, if the tag names no particular place.
- ``states``: terms such as "tortuous" that are a finding of the place named before them.
- ``places``: term -> anatomies, by side (left, right, both, none) where they differ, or another term with the same anatomies.
  A tag that names several places ("pleura/apex/left") fills a cell for each; one of ``general_places``, such as "lung",
  counts only if no particular place is named.
- ``absent_when_normal``: the findings that a report tagged "normal" is without, and where a report denies them: no effusion in
  the pleura.
- ``absent_when_untagged``: findings so rarely left untagged that a report without such a tag is without them, unless one of the
  related findings that are listed is tagged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from typing import Any

from medslip.labels.store import ABSENT, PRESENT, Cells, mention
from medslip.vocabulary import anatomy_index, pathology_index

RULES: dict[str, Any] = json.loads(resources.files("medslip.resources").joinpath("openi_rules.json").read_text("utf-8"))

_SIDES = {"left": "left", "right": "right", "bilateral": "both"}
_COMMONEST = 15
"""How many of the commonest unmapped tags a summary names."""


def pairs_of_tag(tag: str) -> list[tuple[str, str]]:
    """The (anatomy, pathology) pairs that a tag says are present; empty if no rule matches."""
    terms = [" ".join(term.lower().split()) for term in tag.split("/")]
    if terms == ["normal"]:
        return [("unspecified", "normal")]
    for rule in RULES["findings"]:
        if rule["tag"] == terms[0] and rule.get("with") in (None, *terms[1:]):
            pathologies, default = rule["pathology"], rule.get("place", "")
            break
    else:
        if terms[0] not in RULES["places"]:
            return []
        pathologies = dict.fromkeys(RULES["states"][term] for term in terms[1:] if term in RULES["states"])
        default = ""
    anatomies = _anatomies(terms[1:] if default else terms, default)
    return [(anatomy, pathology) for anatomy in anatomies for pathology in pathologies]


def report_cells(tags: Sequence[str]) -> Cells:
    """The cells that a report's tags fill: present, or absent by the two last rules of the module's notes."""
    pairs = [pair for tag in tags for pair in pairs_of_tag(tag)]
    cells: Cells = {}
    for anatomy, pathology in pairs:
        mention(cells, anatomy_index(anatomy), pathology_index(pathology), PRESENT)
    if not pairs:
        return cells
    present = {pathology for _, pathology in pairs}
    absent = {name for name, related in RULES["absent_when_untagged"].items() if not present & {name, *related}}
    if present == {"normal"}:
        absent |= RULES["absent_when_normal"].keys()
    for pathology in absent:
        for anatomy in default_anatomies(RULES["absent_when_normal"][pathology]):
            mention(cells, anatomy_index(anatomy), pathology_index(pathology), ABSENT)
    return cells


def coverage(tags: Counter[str]) -> tuple[str, ...]:
    """How many tags the rules map, as notes for a summary.

    Args:
        tags: Tag -> how often it occurs.
    """
    unmapped = Counter({tag: count for tag, count in tags.items() if not pairs_of_tag(tag)})
    total, mapped = tags.total(), tags.total() - unmapped.total()
    notes = [
        f"MeSH tags: {mapped} of {total} mapped ({mapped / max(1, total):.1%}), "
        f"{len(tags) - len(unmapped)} of {len(tags)} distinct ones."
    ]
    if unmapped:
        named = ", ".join(f"{tag} ({count})" for tag, count in unmapped.most_common(_COMMONEST))
        notes.append(f"The commonest tags that no rule maps: {named}.")
    return tuple(notes)


def default_anatomies(place: str) -> list[str]:
    """The anatomies of a place that is named without a side; "unspecified" for no place."""
    return _anatomies([], place)


def _anatomies(terms: Sequence[str], default: str) -> list[str]:
    """The anatomies that terms name, or the default place without a particular one; "unspecified" if there is no place."""
    named = _with_sides(terms)
    particular = [(place, side) for place, side in named if place and place not in RULES["general_places"]]
    if particular:
        named = particular
    elif default:
        named = [(default, named[0][1] if named else "none")]
    found = dict.fromkeys(anatomy for place, side in named if place for anatomy in _anatomies_at(place, side))
    return list(found) or ["unspecified"]


def _anatomies_at(place: str, side: str) -> list[str]:
    entry: str | list[str] | dict[str, list[str]] = RULES["places"][place]
    if isinstance(entry, str):
        return _anatomies_at(entry, side)
    return entry[side] if isinstance(entry, dict) else entry


def _with_sides(terms: Sequence[str]) -> list[tuple[str, str]]:
    """(place, side) of each place, where a side belongs to the places since the side before it.

    The last side also belongs to the places after it ("right/posterior/costophrenic angle"). A side without a place gives
    one pair with the place "".
    """
    named: list[tuple[str, str]] = []
    waiting: list[str] = []
    side = "none"
    for term in terms:
        if term in _SIDES:
            side = _SIDES[term]
            named += [(place, side) for place in waiting]
            waiting = []
        elif term in RULES["places"]:
            waiting.append(term)
    named += [(place, side) for place in waiting]
    return named or ([("", side)] if side != "none" else [])
