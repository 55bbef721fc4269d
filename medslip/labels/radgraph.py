"""RadGraph: a report's graph of anatomies and observations -> triplets -> label matrix.

A graph file is one JSON object, report name -> graph. It may be gigabytes long, so it is read entry by entry.
Label names of RadGraph ("OBS-DA") and of RadGraph-XL ("Observation::definitely absent") are both understood.

    "p18/p18004941/s58821758.txt": {
      "text": "lungs are clear .",
      "entities": {
        "1": {"tokens": "lungs", "label": "ANAT-DP", "start_ix": 0, "end_ix": 0, "relations": []},
        "2": {"tokens": "clear", "label": "OBS-DP", "start_ix": 2, "end_ix": 2,
              "relations": [["located_at", "1"]]}}}
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medslip.errors import InputError
from medslip.labels.json_stream import iter_members
from medslip.labels.report_rules import ReportRules
from medslip.labels.store import ABSENT, PRESENT, UNKNOWN, A, Cells, Matrix, P, mention
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

_ROW = {name: row for row, name in enumerate(ANATOMIES)}
_COLUMN = {name: column for column, name in enumerate(PATHOLOGIES)}

_KINDS = {"ANAT": True, "Anatomy": True, "OBS": False, "Observation": False}
_STATES = {
    **{"DP": PRESENT, "DA": ABSENT, "U": UNKNOWN},
    **{"definitely present": PRESENT, "definitely absent": ABSENT, "uncertain": UNKNOWN},
}
_LABELS = {
    f"{kind}{joint}{state}": (_KINDS[kind], _STATES[state])
    for kind in _KINDS
    for state in _STATES
    for joint in ("-", "::")
}
_MEASUREMENT = "::measurement"


class Entity(NamedTuple):
    """One marked place in a report.

    Attributes:
        words: Its words, in the order of the text.
        anatomy: Whether it names an anatomy; else it is an observation.
        state: 1 present, 0 absent, -1 uncertain.
        sentence: Number of its sentence.
        relations: (kind, name of the entity that it points at).
    """

    words: tuple[str, ...]
    anatomy: bool
    state: int
    sentence: int
    relations: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A report's graph.

    Attributes:
        key: The report's name in the file.
        entities: Entity name -> entity, in file order. Measurements are left out: they are no findings.
    """

    key: str
    entities: dict[str, Entity]


class Triplet(NamedTuple):
    """What a report says: one of 51 anatomies, one of 75 pathologies, and 1, 0, or -1 (uncertain)."""

    anatomy: str
    pathology: str
    state: int


def triplets(graph: Graph, rules: ReportRules) -> list[Triplet]:
    """What a report says, in the order of its observations.

    An anatomy phrase is an anatomy entity without outgoing relation, and all those of its sentence that
    point at it, directly or through another. An observation located at any of its words belongs to it. An
    observation without outgoing relation has anatomy "unspecified". One that only modifies or suggests
    another is not a finding of its own. Relations from one sentence to another are not followed.
    """
    heads, phrases = _anatomy_phrases(graph.entities)
    found: list[Triplet] = []
    for entity in graph.entities.values():
        if entity.anatomy:
            continue
        pathology = rules.pathology(entity.words)
        if not entity.relations:
            found.append(Triplet(rules.anatomy(()), pathology, entity.state))
            continue
        located: dict[str, None] = {}  # a set that keeps its order
        for kind, target in entity.relations:
            if kind == "located_at" and graph.entities[target].sentence == entity.sentence:
                located.update(dict.fromkeys(heads.get(target, ())))
        found += [Triplet(rules.anatomy(phrases[head]), pathology, entity.state) for head in located]
    return found


def label_cells(graph: Graph, rules: ReportRules) -> Cells:
    """The cells that a report mentions: 1 where anything says present, else 0 where anything says absent.

    An uncertain observation leaves its cell as it is.
    """
    cells: Cells = {}
    for anatomy, pathology, state in triplets(graph, rules):
        if state != UNKNOWN:
            mention(cells, _ROW[anatomy], _COLUMN[pathology], state)
    return cells


def label_matrix(graph: Graph, rules: ReportRules) -> Matrix:
    """A report's A x P label matrix, int8: the cells of label_cells, else -1."""
    matrix = np.full((A, P), UNKNOWN, np.int8)
    for cell, state in label_cells(graph, rules).items():
        matrix[cell] = state
    return matrix


def _anatomy_phrases(entities: Mapping[str, Entity]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Anatomy entity -> the heads of its phrases; head -> the words of its phrase, the head's own first."""
    heads: dict[str, list[str]] = {}
    phrases: dict[str, list[str]] = {}
    for name, entity in entities.items():
        if entity.anatomy and not entity.relations:
            heads[name] = [name]
            phrases[name] = list(entity.words)
    for name, entity in entities.items():
        if entity.anatomy and entity.relations:
            heads[name] = _heads(name, entities)
            for head in heads[name]:
                phrases[head] += entity.words
    return heads, phrases


def _heads(name: str, entities: Mapping[str, Entity]) -> list[str]:
    """The anatomy entities without outgoing relation that this one reaches within its sentence."""
    reached, queue, heads = {name}, [name], []
    for current in queue:
        entity = entities[current]
        if not entity.relations:
            heads.append(current)
        for _, target in entity.relations:
            other = entities[target]
            if other.anatomy and other.sentence == entity.sentence and target not in reached:
                reached.add(target)
                queue.append(target)
    return heads


def iter_graphs(path: Path, chunk: int = 1 << 20) -> Iterator[tuple[str, Graph]]:
    """Read a graph file report by report, in memory that does not grow with the file.

    Args:
        path: A JSON object, report name -> graph.
        chunk: Characters read at a time.

    Yields:
        Report name and graph, in file order.

    Raises:
        InputError: The file is missing, cut short, or not such an object, or a graph is malformed.
    """
    path = Path(path)
    for key, data in iter_members(path, chunk):
        yield key, parse_graph(key, data, str(path))


def parse_graph(key: str, data: Any, source: str) -> Graph:
    """A graph from its decoded JSON. Of a report that two people marked, the first one's marks are taken.

    Args:
        key: The report's name.
        data: {"text": tokenised report, "entities": {name: entity}}.
        source: Where it comes from, for messages.

    Raises:
        InputError: Entities are missing, or one lacks a key, has an unknown label, or points at none.
    """
    if not isinstance(data, dict):
        raise InputError(f"{source}: report {key} is not a JSON object with entities")
    marks = data.get("labeler_1", data)
    raw = marks.get("entities") if isinstance(marks, dict) else None
    if not isinstance(raw, dict):
        raise InputError(f'{source}: report {key} has no "entities"; give a RadGraph graph file')
    stops = [position for position, word in enumerate(str(data.get("text", "")).split()) if word == "."]
    entities: dict[str, Entity] = {}
    for name, item in raw.items():
        try:
            label = item["label"]
            if _MEASUREMENT in label:
                continue
            anatomy, state = _LABELS[label]
            entities[name] = Entity(
                words=tuple(item["tokens"].split()),
                anatomy=anatomy,
                state=state,
                sentence=bisect(stops, int(item["start_ix"])),
                relations=tuple((kind, str(target)) for kind, target in item["relations"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(f"{source}: report {key}: entity {name} {_fault(item)}") from None
    for name, entity in entities.items():
        for _, target in entity.relations:
            if target not in raw:
                raise InputError(f"{source}: report {key}: entity {name} points at entity {target}, not there")
        if not all(target in entities for _, target in entity.relations):
            kept = tuple(relation for relation in entity.relations if relation[1] in entities)
            entities[name] = entity._replace(relations=kept)
    return Graph(key, entities)


def _fault(item: Any) -> str:
    """What is wrong with an entity that could not be read."""
    if not isinstance(item, dict):
        return "is not a JSON object"
    for field in ("tokens", "label", "start_ix", "relations"):
        if field not in item:
            return f'has no "{field}"'
    if str(item["label"]) not in _LABELS:
        return (
            f"has the unknown label {item['label']!r}; give RadGraph's graphs, with labels such as ANAT-DP and OBS-DA"
        )
    return "is malformed: tokens is a text, start_ix a number, relations a list of [kind, entity]"
