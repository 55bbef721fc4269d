"""Sentences whose words say what they are, so that a RadGraph graph's indices are right by construction.

A sentence is words separated by blanks. A word may carry a tag: "/", a letter and, where a sentence has several
observations, the numbers of the groups that the word belongs to ("lungs/A1"; group 1 if there is none):

    A       anatomy: the head word of the phrase (ANAT-DP)
    a       anatomy: a word that modifies the head of its group (ANAT-DP, modify)
    O N U   observation: present (OBS-DP), absent (OBS-DA), uncertain (OBS-U); located at the anatomies of its groups
    S       observation, present, that the other observations of its group suggest (they get suggestive_of)
    o n u   a word that modifies the observation of its group (label as above, modify)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

_TAGGED = re.compile(r"(.+)/([AaOoNnUuS])([0-9]*)")
_LABELS = {"a": "ANAT-DP", "o": "OBS-DP", "n": "OBS-DA", "u": "OBS-U", "s": "OBS-DP"}

Entity = dict[str, Any]
"""tokens, label, start_ix, end_ix, relations: one entity of a RadGraph graph."""


class _Word(NamedTuple):
    text: str
    tag: str
    groups: frozenset[str]


def plain(sentence: str) -> str:
    """The sentence as a person writes it: no tags, no blank before punctuation."""
    return re.sub(r" ([.,:;])", r"\1", " ".join(word.text for word in _words(sentence)))


def graph(sentences: Sequence[str]) -> tuple[list[str], dict[str, Entity]]:
    """The tokens of marked-up sentences, headings included, and their entities by key ("1", "2", ...)."""
    tokens: list[str] = []
    entities: dict[str, Entity] = {}
    for words in map(_words, sentences):
        tagged: dict[str, _Word] = {}
        for index, word in enumerate(words, start=len(tokens)):
            if word.tag:
                key = str(len(entities) + 1)
                tagged[key] = word
                label = _LABELS[word.tag.lower()]
                entities[key] = {"tokens": word.text, "label": label, "start_ix": index, "end_ix": index}
        for key, word in tagged.items():
            others = {other: tagged[other] for other in tagged if other != key}
            entities[key]["relations"] = _relations(word, others)
        tokens += [word.text for word in words]
    return tokens, entities


def _words(sentence: str) -> list[_Word]:
    words = []
    for text in sentence.split():
        match = _TAGGED.fullmatch(text)
        words.append(_Word(match[1], match[2], frozenset(match[3] or "1")) if match else _Word(text, "", frozenset()))
    return words


def _relations(word: _Word, others: dict[str, _Word]) -> list[list[str]]:
    def to(relation: str, tags: str) -> list[list[str]]:
        return [[relation, key] for key, other in others.items() if other.tag in tags and word.groups & other.groups]

    if word.tag == "a":
        return to("modify", "A")
    if word.tag in "onu":
        return to("modify", "ONUS")[:1]
    if word.tag == "A":
        return []
    return to("located_at", "A") + (to("suggestive_of", "S") if word.tag != "S" else [])
