"""RadGraph: the graph of a radiology report (its anatomies and observations) -> triplets -> cells of the label matrix.

A graph file is one JSON object, report name -> graph. It may take gigabytes, so it is read report by report. The label
names of RadGraph ("OBS-DA") and of RadGraph-XL ("Observation::definitely absent") are both supported.

    "p18/p18004941/s58821758.txt": {
      "text": "lungs are clear .",
      "entities": {
        "1": {"tokens": "lungs", "label": "ANAT-DP", "start_ix": 0, "end_ix": 0, "relations": []},
        "2": {"tokens": "clear", "label": "OBS-DP", "start_ix": 2, "end_ix": 2,
              "relations": [["located_at", "1"]]}}}

RadGraph-XL itself is published as JSON lines (.jsonl), one report per line, where an entity is its first and last token:

    {"doc_key": "7", "sentences": [["lungs", "are", "clear", "."]],
     "ner": [[[0, 0, "Anatomy::definitely present"], [2, 2, "Observation::definitely present"]]],
     "relations": [[[2, 2, 0, 0, "located_at"]]]}
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from medslip.errors import InputError
from medslip.labels.json_stream import iter_lines, iter_members
from medslip.labels.report_rules import ReportRules
from medslip.labels.store import ABSENT, PRESENT, UNKNOWN, Cells, mention
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

_ROW = {name: row for row, name in enumerate(ANATOMIES)}
_COLUMN = {name: column for column, name in enumerate(PATHOLOGIES)}

_STATES = {
    **{"DP": PRESENT, "DA": ABSENT, "U": UNKNOWN},
    **{"definitely present": PRESENT, "definitely absent": ABSENT, "uncertain": UNKNOWN},
}
_LABELS = {
    f"{kind}{separator}{state}": (kind.startswith("A"), value)
    for kind in ("ANAT", "Anatomy", "OBS", "Observation")
    for separator in ("-", "::")
    for state, value in _STATES.items()
}
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, OverflowError)
"""What reading an entity of the wrong form raises."""


class Entity(NamedTuple):
    """A marked word or phrase of a report."""

    words: tuple[str, ...]
    anatomy: bool  # otherwise an observation
    state: int  # 1 present, 0 absent, -1 uncertain
    sentence: int
    relations: tuple[tuple[str, str], ...]  # kind, name of the target entity


Graph = dict[str, Entity]
"""Entity name -> entity, in file order. Measurements are left out because they are not findings."""


class Triplet(NamedTuple):
    """One statement of a report: one of 51 anatomies, one of 75 pathologies, and 1, 0 or -1 (uncertain)."""

    anatomy: str
    pathology: str
    state: int


def triplets(graph: Graph, rules: ReportRules) -> list[Triplet]:
    """Extract the statements of a report, in the order of its observations.

    An anatomy phrase is an anatomy entity without outgoing relations, its head, plus all anatomy entities of the
    sentence that point at it, directly or through others. An observation located at any of its words belongs to the
    phrase. An observation without outgoing relations has the anatomy "unspecified"; one that only modifies or suggests
    another observation is not a finding of its own. Relations across sentences are ignored.
    """
    heads = {name: _heads(name, graph) for name, entity in graph.items() if entity.anatomy}
    phrases = {name: list(graph[name].words) for name in heads if not graph[name].relations}
    for name, reached in heads.items():
        for head in reached if graph[name].relations else ():
            phrases[head] += graph[name].words
    found: list[Triplet] = []
    for entity in graph.values():
        if entity.anatomy:
            continue
        located = dict.fromkeys(  # each once, in order
            head
            for kind, target in entity.relations
            if kind == "located_at" and graph[target].sentence == entity.sentence
            for head in heads.get(target, ())
        )
        places = [phrases[head] for head in located] if entity.relations else [[]]
        pathology = rules.pathology(entity.words)
        found += [Triplet(rules.anatomy(words), pathology, entity.state) for words in places]
    return found


def label_cells(graph: Graph, rules: ReportRules) -> Cells:
    """Return the cells that a report mentions: 1 if any statement says present, otherwise 0 if any says absent.

    Uncertain statements are ignored.
    """
    cells: Cells = {}
    for anatomy, pathology, state in triplets(graph, rules):
        if state != UNKNOWN:
            mention(cells, _ROW[anatomy], _COLUMN[pathology], state)
    return cells


def _heads(name: str, graph: Graph) -> list[str]:
    """The anatomy entities without outgoing relations that can be reached from this one within its sentence."""
    queue = [name]
    for current in queue:
        for _, target in graph[current].relations:
            other = graph[target]
            if other.anatomy and other.sentence == graph[name].sentence and target not in queue:
                queue.append(target)
    return [reached for reached in queue if not graph[reached].relations]


def iter_graphs(path: Path) -> Iterator[tuple[str, Graph]]:
    """Read a graph file report by report, in constant memory.

    Args:
        path: A JSON object, report name -> graph, or a .jsonl file in RadGraph-XL's form.

    Yields:
        Report name (of RadGraph-XL: doc_key) and graph, in file order.

    Raises:
        InputError: The file is missing, truncated or of another form, or a graph is malformed.
    """
    for key, data in _iter_documents(path) if path.suffix == ".jsonl" else iter_members(path):
        yield key, parse_graph(key, data, str(path))


def _iter_documents(path: Path) -> Iterator[tuple[str, Any]]:
    """The reports of a file in RadGraph-XL's form: key, and what a graph file would hold."""
    for number, document in iter_lines(path):
        try:
            words = list(chain.from_iterable(document["sentences"]))
            text = " ".join(words)
            entities: dict[str, Any] = {}
            for start, end, label in chain.from_iterable(document["ner"]):
                tokens = " ".join(words[start : end + 1])
                entities[f"{start}-{end}"] = {"tokens": tokens, "label": label, "start_ix": start, "relations": []}
            for start, end, target_start, target_end, kind in chain.from_iterable(document["relations"]):
                entities[f"{start}-{end}"]["relations"].append([kind, f"{target_start}-{target_end}"])
            key = str(document["doc_key"])
        except _MALFORMED:
            raise InputError(
                f"{path}: line {number} is not a report in RadGraph-XL's form (doc_key, sentences, ner, relations)"
            ) from None
        yield key, {"text": text, "entities": entities}


def parse_graph(key: str, data: Any, source: str) -> Graph:
    """Parse the decoded JSON of a graph. If two annotators marked the report, the first one's entities are used.

    Args:
        key: Name of the report.
        data: {"text": tokenised report, "entities": {name: entity}}.
        source: The file, for error messages.

    Raises:
        InputError: There are no entities, or one lacks a key, has an unknown label, or points at a missing entity.
    """
    if not isinstance(data, dict):
        raise InputError(
            f"{source}: report {key} is not a JSON object with entities; a file of JSON lines must end in .jsonl"
        )
    marks = data.get("labeler_1", data)
    items = marks.get("entities") if isinstance(marks, dict) else None
    if not isinstance(items, dict):
        raise InputError(f'{source}: report {key} has no "entities"; give a graph file of RadGraph')
    stops = [position for position, word in enumerate(str(data.get("text", "")).split()) if word == "."]
    graph: Graph = {}
    for name, item in items.items():
        try:
            if "::measurement" not in item["label"]:
                graph[name] = _parse_entity(item, stops)
        except _MALFORMED:
            raise InputError(f"{source}: report {key}: entity {name} {_problem(item)}") from None
    for name, entity in graph.items():
        if all(target in graph for _, target in entity.relations):
            continue
        if missing := {target for _, target in entity.relations} - items.keys():
            raise InputError(f"{source}: report {key}: entity {name} refers to entity {min(missing)}, which is missing")
        kept = tuple(relation for relation in entity.relations if relation[1] in graph)  # not to measurements
        graph[name] = entity._replace(relations=kept)
    return graph


def _parse_entity(item: Any, stops: list[int]) -> Entity:
    """Parse an entity, given the positions of the full stops in the text."""
    anatomy, state = _LABELS[item["label"]]
    relations = tuple((kind, str(target)) for kind, target in item["relations"])
    return Entity(tuple(item["tokens"].split()), anatomy, state, bisect(stops, int(item["start_ix"])), relations)


def _problem(item: Any) -> str:
    """What is wrong with an entity that could not be parsed."""
    if not isinstance(item, dict):
        return "is not a JSON object"
    for field in ("tokens", "label", "start_ix", "relations"):
        if field not in item:
            return f'has no "{field}"'
    if str(item["label"]) not in _LABELS:
        return f"has the unknown label {item['label']!r}; RadGraph labels look like ANAT-DP or OBS-DA"
    return "is malformed: tokens must be text, start_ix a number, and relations a list of [kind, entity]"
