"""RadGraph graphs -> triplets -> cells of the label matrix."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medslip.errors import InputError
from medslip.labels.radgraph import Graph, iter_graphs, label_cells, parse_graph, triplets
from medslip.labels.report_rules import ReportRules
from medslip.vocabulary import anatomy_index, pathology_index

RULES = ReportRules.load("medslip")
Entity = tuple[str, str, int, list[list[str]]]
"""Tokens, label, position of the first token, relations."""

XL_NAMES = {
    "ANAT-DP": "Anatomy::definitely present",
    "OBS-DP": "Observation::definitely present",
    "OBS-DA": "Observation::definitely absent",
    "OBS-U": "Observation::uncertain",
}


def data(text: str, *entities: Entity) -> dict[str, Any]:
    """A graph as in a file, whose entities are named "1", "2", ..."""
    fields = ("tokens", "label", "start_ix", "relations")
    return {"text": text, "entities": {str(k): dict(zip(fields, e, strict=True)) for k, e in enumerate(entities, 1)}}


def graph(text: str, *entities: Entity) -> Graph:
    return parse_graph("report", data(text, *entities), "graphs.json")


STATEMENTS: dict[str, tuple[str, list[Entity], list[tuple[str, str, int]]]] = {
    "a phrase is a head and the entities that point at it": (
        "opacity in the left lower lobe .",
        [
            ("opacity", "OBS-DP", 0, [["located_at", "3"]]),
            ("lobe", "ANAT-DP", 5, []),
            ("left", "ANAT-DP", 3, [["modify", "2"]]),
            ("lower", "ANAT-DP", 4, [["modify", "2"]]),
        ],
        [("lower_left_lobe", "opacity", 1)],
    ),
    "a word that points at the head through another is of the phrase": (
        "left lower lobe opacity",
        [
            ("lobe", "ANAT-DP", 2, []),
            ("lower", "ANAT-DP", 1, [["modify", "1"]]),
            ("left", "ANAT-DP", 0, [["modify", "2"]]),
            ("opacity", "OBS-DP", 3, [["located_at", "3"]]),
        ],
        [("lower_left_lobe", "opacity", 1)],
    ),
    "two words that point at each other do not hang the preparation": (
        "left lower opacity",
        [
            ("left", "ANAT-DP", 0, [["modify", "2"]]),
            ("lower", "ANAT-DP", 1, [["modify", "1"]]),
            ("opacity", "OBS-DP", 2, [["located_at", "1"]]),
        ],
        [],
    ),
    "an observation at two places counts for both": (
        "heart and spine normal .",
        [
            ("heart", "ANAT-DP", 0, []),
            ("spine", "ANAT-DP", 2, []),
            ("normal", "OBS-DP", 3, [["located_at", "1"], ["located_at", "2"]]),
        ],
        [("heart_size", "normal", 1), ("spine", "normal", 1)],
    ),
    "an observation without a relation is unspecified, with an anatomy in its sentence or without": (
        "lungs clear edema . pneumonia .",
        [
            ("lungs", "ANAT-DP", 0, []),
            ("clear", "OBS-DP", 1, [["located_at", "1"]]),
            ("edema", "OBS-DA", 2, []),
            ("pneumonia", "OBS-DA", 4, []),
        ],
        [("lung_volumes", "clear", 1), ("unspecified", "edema", 0), ("unspecified", "pneumonia", 0)],
    ),
    "words that modify or suggest a finding are not findings": (
        "small effusion suggesting edema",
        [
            ("small", "OBS-DP", 0, [["modify", "2"]]),
            ("effusion", "OBS-DP", 1, []),
            ("congestion", "OBS-DP", 2, [["suggestive_of", "4"]]),
            ("edema", "OBS-U", 3, []),
        ],
        [("unspecified", "effusion", 1), ("unspecified", "edema", -1)],
    ),
    "relations stay within their sentence": (
        "lungs . clear .",
        [("lungs", "ANAT-DP", 0, []), ("clear", "OBS-DP", 2, [["located_at", "1"]])],
        [],
    ),
    "a graph without a text is one sentence": (
        "",
        [("lungs", "ANAT-DP", 0, []), ("clear", "OBS-DP", 2, [["located_at", "1"]])],
        [("lung_volumes", "clear", 1)],
    ),
    "measurements are not findings, and do not hide the nodule that they measure": (
        "nodule 3 cm",
        [
            ("nodule", "OBS-DP", 0, [["modify", "2"]]),
            ("3 cm", "Observation::measurement::definitely present", 1, []),
        ],
        [("unspecified", "nodule", 1)],
    ),
}
"""What is tested -> text, entities, and the triplets of the report."""


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_of_a_report(name: str) -> None:
    text, entities, expected = STATEMENTS[name]
    assert triplets(graph(text, *entities), RULES) == expected


@given(st.lists(st.sampled_from(["OBS-DP", "OBS-DA", "OBS-U"]), max_size=6))
def test_present_beats_absent_beats_nothing(labels: list[str]) -> None:
    """A cell would depend on the order of the sentences."""
    cell = anatomy_index("unspecified"), pathology_index("edema")
    expected = {cell: 1} if "OBS-DP" in labels else {cell: 0} if "OBS-DA" in labels else {}
    assert label_cells(graph("", *(("edema", label, 0, []) for label in labels)), RULES) == expected


@st.composite
def reports(draw: st.DrawFn) -> dict[str, Any]:
    """A report of a few sentences, each with an anatomy phrase and observations with or without a place."""
    entities: list[Entity] = []
    words: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        head = str(len(entities) + 1)
        for place, word in enumerate(draw(st.lists(st.sampled_from(["lung", "left", "lower", "hila"]), max_size=3))):
            entities.append((word, "ANAT-DP", len(words), [["modify", head]] if place else []))
            words.append(word)
        located = [["located_at", head]] if len(entities) >= int(head) else []
        for word in draw(st.lists(st.sampled_from(["opacity", "clear", "small"]), max_size=3)):
            label = draw(st.sampled_from(["OBS-DP", "OBS-DA", "OBS-U"]))
            entities.append((word, label, len(words), draw(st.sampled_from([[], located]))))
            words.append(word)
        words.append(".")
    return data(" ".join(words), *entities)


@given(reports(), st.integers(0, 99))
def test_order_of_entities_does_not_matter(report: dict[str, Any], seed: int) -> None:
    """The same entities in another order would give another matrix."""
    names = list(report["entities"])
    Random(seed).shuffle(names)
    shuffled = {**report, "entities": {name: report["entities"][name] for name in names}}
    before, after = (label_cells(parse_graph("r", one, "f"), RULES) for one in (report, shuffled))
    assert before == after


@given(reports())
def test_xl_label_names_mean_the_same(report: dict[str, Any]) -> None:
    """Graphs made by the radgraph package would be rejected or read differently."""
    renamed = json.loads(json.dumps(report))
    for entity in renamed["entities"].values():
        entity["label"] = XL_NAMES[entity["label"]]
    assert parse_graph("r", report, "f") == parse_graph("r", renamed, "f")


def test_first_of_two_annotators() -> None:
    """The test file of RadGraph, marked by two annotators, could not be read."""
    marks = data("", ("edema", "OBS-DA", 0, []))
    nested = {"text": "no edema .", "labeler_1": marks, "labeler_2": {"entities": {}}}
    assert triplets(parse_graph("r", nested, "f"), RULES) == [("unspecified", "edema", 0)]


@pytest.mark.parametrize(
    ("entity", "fault"),
    [
        ({"label": "OBS-DP", "start_ix": 0, "relations": []}, 'has no "tokens"'),
        ({"tokens": "a", "start_ix": 0, "relations": []}, 'has no "label"'),
        ({"tokens": "a", "label": "OBS-DP", "start_ix": 0}, 'has no "relations"'),
        ({"tokens": "a", "label": "OBS-XX", "start_ix": 0, "relations": []}, "unknown label 'OBS-XX'"),
        ({"tokens": "a", "label": ["OBS-DP"], "start_ix": 0, "relations": []}, "unknown label"),
        ({"tokens": "a", "label": None, "start_ix": 0, "relations": []}, "unknown label None"),
        ({"tokens": 3, "label": "OBS-DP", "start_ix": 0, "relations": []}, "malformed"),
        ({"tokens": "a", "label": "OBS-DP", "start_ix": "x", "relations": []}, "malformed"),
        ({"tokens": "a", "label": "OBS-DP", "start_ix": 0, "relations": ["9"]}, "malformed"),
        ({"tokens": "a", "label": "OBS-DP", "start_ix": 0, "relations": [["modify"]]}, "malformed"),
        ({"tokens": "a", "label": "OBS-DP", "start_ix": 0, "relations": [["modify", "9"]]}, "refers to entity 9"),
        ("a", "not a JSON object"),
    ],
)  # fmt: skip
def test_malformed_entity_is_named(entity: Any, fault: str) -> None:
    """The error for a damaged graph would name neither the report nor the entity."""
    with pytest.raises(InputError, match=fault) as caught:
        parse_graph("s1.txt", {"text": "", "entities": {"7": entity}}, "graphs.json")
    assert "graphs.json: report s1.txt: entity 7" in str(caught.value)


@pytest.mark.parametrize("bad", [[], {}, {"entities": []}, {"labeler_1": 3}])
def test_report_without_entities_is_named(bad: Any) -> None:
    """A file that is not a graph file would end in a traceback."""
    with pytest.raises(InputError, match=r"graphs\.json: report s1\.txt"):
        parse_graph("s1.txt", bad, "graphs.json")


def test_reports_are_read_one_by_one(tmp_path: Path) -> None:
    """A graph would be assigned to the name of another report."""
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps({"a.txt": data("", ("edema", "OBS-DA", 0, [])), "b.txt": data("")}))
    assert [(key, len(g)) for key, g in iter_graphs(path)] == [("a.txt", 1), ("b.txt", 0)]


@given(reports())
def test_json_lines_mean_the_same_as_graphs(tmp_path_factory: pytest.TempPathFactory, report: dict[str, Any]) -> None:
    """RadGraph-XL itself, which is published as JSON lines, would be rejected or read differently."""
    items = report["entities"].values()
    start = {name: item["start_ix"] for name, item in report["entities"].items()}
    document = {
        "doc_key": 7,
        "sentences": [report["text"].split()[:2], report["text"].split()[2:]],
        "ner": [[], [[item["start_ix"], item["start_ix"], XL_NAMES[item["label"]]] for item in items]],
        "relations": [
            [
                [item["start_ix"], item["start_ix"], start[target], start[target], kind]
                for item in items
                for kind, target in item["relations"]
            ]
        ],
    }
    path = tmp_path_factory.mktemp("xl") / "radgraph.jsonl"
    path.write_text(json.dumps(document) + "\n\n")
    ((key, found),) = iter_graphs(path)
    assert key == "7"
    assert triplets(found, RULES) == triplets(parse_graph("r", report, "f"), RULES)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"doc_key"', "line 2 is not valid JSON"),
        ("{}", "line 2 is not a report in RadGraph-XL's form"),
        ('{"doc_key": 1, "sentences": [[1]], "ner": [], "relations": []}', "line 2 is not a report"),
        ('{"doc_key": 1, "sentences": [], "ner": [[[0, 0]]], "relations": []}', "line 2 is not a report"),
        (
            '{"doc_key": 1, "sentences": [], "ner": [], "relations": [[[0, 0, 1, 1, "modify"]]]}',
            "line 2 is not a report",
        ),
    ],
)
def test_malformed_json_lines_are_named(tmp_path: Path, line: str, fault: str) -> None:
    path = tmp_path / "radgraph.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(InputError, match=rf"radgraph\.jsonl: {fault}"):
        list(iter_graphs(path))


def test_json_lines_of_another_name_are_named(tmp_path: Path) -> None:
    """The message would not tell what is wrong."""
    (tmp_path / "graphs.json").write_text('{"dataset": "mimic-cxr", "doc_key": 0}\n{"dataset": "mimic-cxr"}\n')
    with pytest.raises(InputError, match=r"JSON lines must end in \.jsonl"):
        list(iter_graphs(tmp_path / "graphs.json"))
