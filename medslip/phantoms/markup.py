"""Sentences whose words say what they are, so that a RadGraph graph's indices are right by construction.

A sentence is words separated by blanks. A word may carry a tag, "/", a letter and, where a sentence has several
observations, the numbers of the groups that it belongs to ("lungs/A1", group 1 where none is given):

    A   anatomy: the phrase's head word (ANAT-DP)
    a   anatomy: a word that modifies the head of its group (ANAT-DP, modify)
    O   observation, present (OBS-DP);   N   absent (OBS-DA);   U   uncertain (OBS-U);
        each is located at the head anatomy of its groups, where they have one
    S   observation, present, that the group's other observations suggest (they get suggestive_of)
    o n u   a word that modifies the observation of its group (label as above, modify)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_TAGGED = re.compile(r"^(.+)/([AaOoNnUuS])([0-9]*)$")
_LABELS = {"a": "ANAT-DP", "o": "OBS-DP", "n": "OBS-DA", "u": "OBS-U", "s": "OBS-DP"}
_HEADS = "ONUS"

Entity = dict[str, Any]
"""tokens, label, start_ix, end_ix, relations: one entity of a RadGraph graph."""


def plain(sentence: str) -> str:
    """The sentence as a person writes it: no tags, no blank before punctuation."""
    words = [_split(word)[0] for word in sentence.split()]
    return re.sub(r" ([.,:;])", r"\1", " ".join(words))


def graph(sentences: Sequence[str]) -> tuple[list[str], dict[str, Entity]]:
    """Tokens and entities of a report.

    Args:
        sentences: Marked-up sentences, headings included, in order.

    Returns:
        The tokens of the text, and the entities by their key ("1", "2", ...).
    """
    tokens: list[str] = []
    entities: dict[str, Entity] = {}
    for sentence in sentences:
        parsed = [_split(word) for word in sentence.split()]
        keys: dict[int, str] = {}
        for position, (word, tag, _) in enumerate(parsed):
            if tag:
                keys[position] = str(len(entities) + 1)
                index = len(tokens) + position
                entities[keys[position]] = {
                    "tokens": word, "label": _LABELS[tag.lower()], "start_ix": index, "end_ix": index, "relations": [],
                }  # fmt: skip
        for position, key in keys.items():
            entities[key]["relations"] = _relations(position, parsed, keys)
        tokens += [word for word, _, _ in parsed]
    return tokens, entities


def _split(word: str) -> tuple[str, str, frozenset[str]]:
    match = _TAGGED.match(word)
    if match is None:
        return word, "", frozenset()
    return match[1], match[2], frozenset(match[3] or "1")


def _relations(
    position: int, parsed: Sequence[tuple[str, str, frozenset[str]]], keys: dict[int, str]
) -> list[list[str]]:
    _, tag, groups = parsed[position]

    def heads(tags: str) -> list[str]:
        return [
            keys[other]
            for other, (_, kind, others) in enumerate(parsed)
            if other != position and kind and kind in tags and groups & others
        ]

    if tag == "a":
        return [["modify", key] for key in heads("A")]
    if tag in "onu":
        return [["modify", key] for key in heads(_HEADS)[:1]]
    if tag == "A":
        return []
    suggested = [["suggestive_of", key] for key in heads("S")] if tag != "S" else []
    return [["located_at", key] for key in heads("A")] + suggested
