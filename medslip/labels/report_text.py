"""The text of a radiology report -> a graph like RadGraph's, by words and phrases.

The words are data, in resources/report_words.yaml. They are applied to the sections that state findings, by sentence:

1. Each word or phrase becomes an item: a place, a finding, a cue (of absence or doubt), or a link (verb, preposition,
   conjunction). Other words are left out. A single word that report_rules.json knows as a finding is one, too.
2. Places that stand together are one phrase. "Left upper and lower lobes" are two, each with what it lacks of the other.
3. A finding is at the place right beside it ("left effusion", "effusion in the left base", "clear lungs"); else with the
   finding that it is joined to or explains, at its subject, or where its own phrase says; the first of these that there is.
4. A cue reaches to the end of its clause.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from itertools import product
from typing import Any, NamedTuple

import yaml

from medslip.labels.radgraph import Entity, Graph
from medslip.labels.report_rules import EXCLUDED, OTHER, TAIL, ReportRules
from medslip.labels.store import ABSENT, PRESENT, UNKNOWN

_KINDS = {
    "absent": "n", "absent_before": "g", "uncertain": "u", "uncertain_before": "h", "unsaid": "x", "nothing": " ", "stop": "s",
    "verb": "V", "same": "=", "suggested": "~", "at": "@", "and": "&",
}  # fmt: skip
"""Cue -> the letter that stands for it where the items of a sentence are matched as a text; p, b, f and P are below."""

_TOKEN = re.compile(r"\b[tl]\d{1,2}\b|[^\W\d_]+(?:'[^\W\d_]+)?|[,:;/]|(?<=\s)[-\u2013\u2014]+(?=\s)")
_ORDINAL = re.compile(r"\b\d+(?:st|nd|rd|th)\b,?")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[^\W\d_])\.(?=[A-Z])|[;\n]\s*\n|;|\n\s*(?=(?:\d+[.)]|[-*•])\s)")
_PART = r"p[pb]*+(?:ob*+p[pb]*+)*+"
_GROUP = re.compile(rf"{_PART}(?:(?:,[&|]?|[&|]){_PART})++(?!f)|{_PART}(?:[&|]{_PART})*+")
_ELIDED = re.compile(r"(?<=[,s&])[ng](?=@P(?!f))")
_AFTER = re.compile(r"(?:\|f)*+V*+@P(?P<more>@P)?|oP")

_HEADING = re.compile(
    r"^[ \t]*[A-Za-z][A-Za-z /]{2,40}(?::|[ \t]*$)|(?<=[.!?] )[A-Z][A-Za-z /]{2,40}:|\b[A-Z][A-Z /]{2,40}:",
    re.MULTILINE,
)
_DESCRIBED = re.compile("f|oPf")
_NOTHING_WRONG = (("normal",), ("unremarkable",))
_CACHED = 20_000

Place = tuple[str, ...]


class _Item(NamedTuple):
    """A word or phrase of a sentence."""

    kind: str
    text: str = ""
    says: tuple[str, ...] = ()  # of a finding: a word for each that is said; of a place: its words
    at: Place = ()  # of a finding: where it is if the sentence names no place
    places: tuple[Place, ...] = ()  # of a group of places


class _Before(NamedTuple):
    """A finding that was read before: its index in the sentence, and where it is."""

    at: int = -1
    places: tuple[Place, ...] = ()


class ReportReader:
    """Reads reports. It keeps nothing of one report for the next.

    Args:
        words: The content of report_words.yaml.
        rules: From words to the vocabulary; decides which single words are findings.
    """

    def __init__(self, words: Mapping[str, Any], rules: ReportRules) -> None:
        self._rules = rules
        self._only_in_phrases = frozenset(words["only_in_phrases"])
        self._predicates = frozenset(words["predicates"])
        self._descriptions = frozenset(words["descriptions"])
        self._adjectives = frozenset(words["adjectives"])
        self._organs: dict[str, str] = words["organ_of_side"]
        self._own_places = frozenset(words["places_of_their_own"])
        self._enlarged_places: dict[str, str] = words["place_if_enlarged"]
        self._devices = frozenset(words["devices"])
        self._implied = {(item["pathology"], item["anatomy"]): item["also"] for item in words["implied"]}
        places = words["places"]
        self._sides, self._levels = frozenset(places["sides"]), frozenset(places["levels"])
        self._phrases: dict[str, _Item] = {}
        self._longest: dict[str, int] = {}  # first word -> the most words that a phrase with it has
        for key, cues in words["cues"].items():
            self._add(cues, _KINDS[key])
        self._add(["of"], "o")
        self._add(["with"], "w")
        self._add(["or", "/", "versus", "vs"], "|")
        self._add([",", "-", "--", "\u2013", "\u2014"], ",")
        self._add([":"], "V")
        self._add(words["not_findings"], " ")
        self._add(places["between"], "b")
        for word in (*places["sides"], *places["levels"], *places["names"]):
            self._add([word], "p", tuple(word.split()))
        for meaning, phrases in places["synonyms"].items():
            self._add(phrases, "p", tuple(meaning.split()))
        for key, phrases in words["findings"].items():
            says, _, at = key.partition(" at ")
            self._add(phrases, "f", tuple(says.split(", ")), tuple(at.split()))
        self._read, self._skip = frozenset(words["sections"]["read"]), frozenset(words["sections"]["skip"])
        self._is_finding = lru_cache(_CACHED)(self._map_word)

    def _add(self, phrases: Iterable[str], kind: str, says: tuple[str, ...] = (), at: Place = ()) -> None:
        for phrase in phrases:
            first, *rest = map(_singular, phrase.split())
            self._phrases[" ".join([first, *rest])] = _Item(kind, phrase, says, at)
            self._longest[first] = max(self._longest.get(first, 0), 1 + len(rest))

    @classmethod
    def load(cls) -> ReportReader:
        """Load the packaged words and rules."""
        text = resources.files("medslip.resources").joinpath("report_words.yaml").read_text(encoding="utf-8")
        return cls(yaml.safe_load(text), ReportRules.load())

    def graph(self, text: str) -> Graph:
        """What a report says of its image, in the order of the text; any text is read."""
        graph: Graph = {}
        for number, sentence in enumerate(self.sentences(text)):
            for word, place, state in self._statements(sentence):
                relations: tuple[tuple[str, str], ...] = ()
                if place:
                    relations = (("located_at", str(len(graph) + 1)),)
                    graph[relations[0][1]] = Entity(place, True, PRESENT, number, ())
                graph[str(len(graph) + 1)] = Entity((word,), False, state, number, relations)
        return graph

    def sentences(self, text: str) -> Iterator[str]:
        """The sentences of the sections that state findings."""
        for section in self.sections(text):
            yield from filter(None, _SENTENCE_END.split(section))

    def located(self, texts: Iterable[str]) -> tuple[int, int]:
        """How many sentences have both a finding and a place, and how many there are."""
        kinds = [{item.kind for item in self._items(sentence)} for text in texts for sentence in self.sentences(text)]
        return sum(kind >= {"f", "P"} for kind in kinds), len(kinds)

    def sections(self, text: str) -> list[str]:
        """The sections that state findings; of a report without headings, all of it."""
        headings = [(match.group().strip(" \t:").lower(), *match.span()) for match in _HEADING.finditer(text)]
        headings = [heading for heading in headings if heading[0] in self._read or heading[0] in self._skip]
        ends = [start for _, start, _ in headings] + [len(text)]
        found = [(name, text[end:following]) for (name, _, end), following in zip(headings, ends[1:], strict=True)]
        read = [body for name, body in found if name in self._read]
        return read or [text[: ends[0]], *(body for name, body in found if name not in self._skip)]

    def _items(self, sentence: str) -> list[_Item]:
        """The items of a sentence, with places that stand together as groups."""
        words = _TOKEN.findall(_ORDINAL.sub("", sentence.lower()))
        keys = list(map(_singular, words))
        items: list[_Item] = []
        position = 0
        while position < len(words):
            for length in range(self._longest.get(keys[position], 0), 0, -1):
                if (item := self._phrases.get(" ".join(keys[position : position + length]))) is not None:
                    if item.kind != " ":
                        items.append(item)
                    position += length
                    break
            else:
                word = words[position]
                if self._is_finding(word):
                    items.append(_Item("f", word, (word,)))
                position += 1
        return self._grouped(items)

    def _map_word(self, word: str) -> bool:
        """Whether a word by itself is a finding."""
        return word not in self._only_in_phrases and self._rules.pathology((word,)) not in (TAIL, EXCLUDED)

    def _grouped(self, items: list[_Item]) -> list[_Item]:
        """The items, with places that stand together as one item of the kind P."""
        kinds = "".join(item.kind for item in items)
        grouped: list[_Item] = []
        position = 0
        for match in _GROUP.finditer(kinds):
            grouped += items[position : match.start()]
            position = match.end()
            groups: list[list[list[str]]] = [[[]]]
            for item in items[match.start() : position]:
                parts = groups[-1]
                if item.kind == "p":
                    parts[-1] += item.says
                elif item.kind in ",&|" and kinds[position : position + 1] == "f" and self._names(parts[-1]):
                    groups.append([[]])  # "opacity in the left lower lobe and cardiac enlargement"
                elif item.kind in ",&|":
                    parts.append([])
            for number, parts in enumerate(groups):
                grouped += [_Item("&")] * (number > 0) + [_Item("P", places=self._completed(parts))]
        grouped += items[position:]
        return [item for item in grouped if item.kind != "b"]

    def _names(self, words: Iterable[str]) -> list[str]:
        return [word for word in words if word not in self._sides and word not in self._levels]

    def _completed(self, parts: list[list[str]]) -> tuple[Place, ...]:
        """Places of a coordination, each with the name, level and side that it shares with its neighbour."""
        bare = [not self._names(part) for part in parts]
        for index in range(len(parts) - 2, -1, -1):
            if bare[index]:
                known = self._sides | (self._levels if self._levels & set(parts[index]) else set())
                parts[index] = parts[index] + [word for word in parts[index + 1] if word not in known]
        for index in range(1, len(parts)):
            if bare[index - 1] and not self._sides & set(parts[index]):
                parts[index] += [word for word in parts[index - 1] if word in self._sides]
        return tuple(map(tuple, parts))

    def _statements(self, sentence: str) -> Iterator[tuple[str, Place, int]]:
        """Word, place and state of each finding that a sentence states."""
        items = _with_elided(self._items(sentence))
        kinds = "".join(item.kind for item in items)
        near = {index: self._near(kinds, items, index) for index, kind in enumerate(kinds) if kind == "f"}
        states = _states(kinds, items, {index: _side(items[at]) for index, at in near.items() if at >= 0})
        used, before = set(near.values()), _Before()
        for index, group in near.items():
            item, state = items[index], states[index]
            if group >= 0:
                places = tuple(self._sided(place, items[:index]) for place in items[group].places)
            else:
                places = self._far(kinds, items, index, before, used, state == ABSENT)
            before = _Before(index, places)
            if state is None or not self._is_said(kinds, item.text, index):
                continue
            for word, place in product(item.says, places or (item.at,)):
                known = item.at if item.at and self._rules.anatomy(place) == OTHER else place
                yield from self._located(word, known, state)

    def _sided(self, place: Place, before: Sequence[_Item]) -> Place:
        """A part of a lung with the side that was named before: "the right lung has a nodule in the upper lobe"."""
        if not self._levels & set(place) or self._rules.anatomy(place) != OTHER:
            return place
        named = {word for item in before for words in item.places for word in words if word in self._sides}
        return (*named, *place) if len(named) == 1 else place

    def _is_said(self, kinds: str, text: str, index: int) -> bool:
        """Whether a word is a statement of its own, and not an adjective of another finding."""
        following = kinds[index + 1 : index + 3]
        if text in self._predicates:
            before_place = text in self._adjectives and following.startswith("P") and following != "Pf"
            return before_place or kinds[max(index - 2, 0) : index] == "PV"
        return not (text in self._descriptions and _DESCRIBED.match(kinds, index + 1))

    def _near(self, kinds: str, items: Sequence[_Item], index: int) -> int:
        """The group of places right before or after a finding; -1 if there is none."""
        device = not self._devices.isdisjoint(items[index].says)
        before, after = len(kinds[:index].rstrip("f")) - 1, -1
        if (device or items[index].text in self._adjectives) and kinds[index + 1 : index + 2] == "P":
            after = index + 1
        elif match := _AFTER.match(kinds, index + 1):
            after = match.end() - (1 if device or not match["more"] else 3)
        if before < 0 or kinds[before] != "P":
            return after
        return after if device and after >= 0 else before

    def _far(
        self, kinds: str, items: Sequence[_Item], index: int, before: _Before, used: set[int], absent: bool
    ) -> tuple[Place, ...]:
        """The places of a finding that has none beside it: those of the finding before it, its subject, or what is left."""
        between = kinds[before.at + 1 : index] if before.at >= 0 else ""
        if between and not set(between) - set("&|") and not absent:
            pathology = self._rules.pathology(items[index].says)
            if pathology in self._organs:
                return tuple(tuple(word for word in place if word in self._sides) for place in before.places)
            return () if pathology in self._own_places else before.places
        if "=" in between or "~" in between:
            return before.places
        subject = kinds.rfind("P", 0, index)
        if subject >= 0 and subject not in used and "s" not in kinds[subject:index]:
            return tuple(place for place in items[subject].places if self._rules.anatomy(place) != OTHER)
        following = kinds.find("P", index)
        if following >= 0 and following not in used and not set("fV,|&") & set(kinds[index + 1 : following]):
            used.add(following)
            return items[following].places
        return ()

    def _located(self, word: str, place: Place, state: int) -> Iterator[tuple[str, Place, int]]:
        """A statement, and what it implies."""
        pathology = self._rules.pathology((word,))
        if place and self._sides.issuperset(place):
            place = (*place, *self._organs.get(pathology, "" if pathology in self._own_places else "lung").split())
        if pathology == "enlarge":
            place = tuple(self._enlarged_places.get(part, part) for part in place)
        yield word, place, state
        if also := self._implied.get((pathology, self._rules.anatomy(place))):
            yield also, place, state


def _with_elided(items: list[_Item]) -> list[_Item]:
    """The items, with a finding that is not repeated: "effusion on the left, none on the right"."""
    kinds = "".join(item.kind for item in items)
    for match in reversed(list(_ELIDED.finditer(kinds))):
        if (finding := kinds.rfind("f", 0, match.start())) >= 0:
            items = [*items[: match.start()], _Item("n"), items[finding], *items[match.end() :]]
    return items


def _side(group: _Item) -> str:
    """The one side that places are on, or else nothing."""
    sides = {word for place in group.places for word in place if word in ("left", "right")}
    return sides.pop() if len(sides) == 1 else ""


def _states(kinds: str, items: Sequence[_Item], sides: Mapping[int, str]) -> dict[int, int | None]:
    """Finding -> what the cues make of it: present, absent, uncertain, or None for no statement about the image.

    Absence ends where the side changes, as in "no effusion on the right, small effusion on the left", unless the sentence lists
    alternatives ("or").
    """
    states: dict[int, int | None] = {}
    absent = uncertain = unsaid = False
    side = ""
    for index, kind in enumerate(kinds):
        if kind == "f":
            if absent and "|" not in kinds:
                before, side = side, sides.get(index, "")
                absent = not (before and side) or before == side
            if items[index].says in _NOTHING_WRONG and kinds[index - 1 : index] == "V":
                _mark(states, kinds, index, ABSENT)
            states[index] = None if unsaid else ABSENT if absent else UNKNOWN if uncertain else PRESENT
        elif kind == "n":
            absent, side = True, ""
        elif kind in "u~":
            uncertain, absent = True, absent and "exclu" not in items[index].text
        elif kind == "x":
            unsaid = True
        elif kind in "sw":
            absent = uncertain = unsaid = False
        elif kind == "V" and kinds[index - 1 : index] != "n":
            absent = False
        elif kind == ",":
            uncertain = unsaid = False
        elif kind == "g" and "f" not in kinds[:index]:
            absent = True
        elif kind in "gh":
            _mark(states, kinds, index, ABSENT if kind == "g" else UNKNOWN)
    return states


def _mark(states: dict[int, int | None], kinds: str, index: int, state: int) -> None:
    """Change the state of the findings before a cue in its clause."""
    for at in range(index - 1, -1, -1):
        if kinds[at] == "f":
            states[at] = state
        elif kinds[at] not in "P&|@ouV":
            break


@lru_cache(_CACHED)
def _singular(word: str) -> str:
    """The word without the ending of a plural."""
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "shes", "ches")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
