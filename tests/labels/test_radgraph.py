"""RadGraph graphs -> triplets -> label matrix."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medslip.errors import InputError
from medslip.labels.radgraph import Graph, Triplet, iter_graphs, label_matrix, parse_graph, triplets
from medslip.labels.report_rules import ReportRules
from medslip.vocabulary import anatomy_index, pathology_index

RULES = ReportRules.load("medslip")


def graph(text: str, *entities: tuple[str, str, int, list[list[str]]]) -> Graph:
    """Build a graph of entities (tokens, label, start, relations), named "1", "2", ..."""
    return parse_graph("report", data(text, *entities), "graphs.json")


def data(text: str, *entities: tuple[str, str, int, list[list[str]]]) -> dict[str, Any]:
    return {
        "text": text,
        "entities": {
            str(number): {
                "tokens": tokens, "label": label, "start_ix": start, "end_ix": start, "relations": relations
            }
            for number, (tokens, label, start, relations) in enumerate(entities, start=1)
        },
    }  # fmt: skip


def test_phrase_is_a_head_and_the_entities_that_point_at_it() -> None:
    """ "left lower lobe" would not be one place, or its opacity would be lost."""
    g = graph(
        "opacity in the left lower lobe .",
        ("opacity", "OBS-DP", 0, [["located_at", "3"]]),
        ("lobe", "ANAT-DP", 5, []),
        ("left", "ANAT-DP", 3, [["modify", "2"]]),
        ("lower", "ANAT-DP", 4, [["modify", "2"]]),
    )  # fmt: skip
    assert triplets(g, RULES) == [Triplet("lower_left_lobe", "opacity", 1)]


def test_a_chain_of_words_is_one_phrase() -> None:
    """A word that points at the head through another would be lost with its findings."""
    g = graph(
        "left lower lobe opacity",
        ("lobe", "ANAT-DP", 2, []),
        ("lower", "ANAT-DP", 1, [["modify", "1"]]),
        ("left", "ANAT-DP", 0, [["modify", "2"]]),
        ("opacity", "OBS-DP", 3, [["located_at", "3"]]),
    )
    assert triplets(g, RULES) == [Triplet("lower_left_lobe", "opacity", 1)]


def test_a_cycle_of_relations_ends() -> None:
    """Two words that point at each other would hang the preparation."""
    g = graph(
        "left lower opacity",
        ("left", "ANAT-DP", 0, [["modify", "2"]]),
        ("lower", "ANAT-DP", 1, [["modify", "1"]]),
        ("opacity", "OBS-DP", 2, [["located_at", "1"]]),
    )
    assert triplets(g, RULES) == []


def test_an_observation_at_two_places_counts_for_both() -> None:
    """ "heart and spine normal" would count for one of them only."""
    g = graph(
        "heart and spine normal .",
        ("heart", "ANAT-DP", 0, []),
        ("spine", "ANAT-DP", 2, []),
        ("normal", "OBS-DP", 3, [["located_at", "1"], ["located_at", "2"]]),
    )
    assert triplets(g, RULES) == [Triplet("heart_size", "normal", 1), Triplet("spine", "normal", 1)]


def test_observation_without_relation_is_unspecified() -> None:
    """A finding without a place would be lost, with an anatomy in its sentence or without."""
    g = graph(
        "lungs clear edema . pneumonia .",
        ("lungs", "ANAT-DP", 0, []),
        ("clear", "OBS-DP", 1, [["located_at", "1"]]),
        ("edema", "OBS-DA", 2, []),
        ("pneumonia", "OBS-DA", 4, []),
    )
    assert triplets(g, RULES) == [
        Triplet("lung_volumes", "clear", 1),
        Triplet("unspecified", "edema", 0),
        Triplet("unspecified", "pneumonia", 0),
    ]


def test_modifiers_are_not_findings() -> None:
    """ "small" of "small effusion" would become a finding."""
    g = graph(
        "small effusion suggesting edema",
        ("small", "OBS-DP", 0, [["modify", "2"]]),
        ("effusion", "OBS-DP", 1, []),
        ("congestion", "OBS-DP", 2, [["suggestive_of", "4"]]),
        ("edema", "OBS-U", 3, []),
    )
    assert triplets(g, RULES) == [
        Triplet("unspecified", "effusion", 1),
        Triplet("unspecified", "edema", -1),
    ]


def test_relations_stay_within_their_sentence() -> None:
    """A finding would be placed at an anatomy of another sentence."""
    g = graph(
        "lungs . clear .",
        ("lungs", "ANAT-DP", 0, []),
        ("clear", "OBS-DP", 2, [["located_at", "1"]]),
    )
    assert triplets(g, RULES) == []


def test_report_without_sentences_is_one_sentence() -> None:
    """In a graph file without texts, every finding would lose its place."""
    g = graph("", ("lungs", "ANAT-DP", 0, []), ("clear", "OBS-DP", 2, [["located_at", "1"]]))
    assert triplets(g, RULES) == [Triplet("lung_volumes", "clear", 1)]


@given(st.lists(st.sampled_from(["OBS-DP", "OBS-DA", "OBS-U"]), max_size=6))
def test_present_beats_absent_beats_nothing(labels: list[str]) -> None:
    """A cell would depend on the order of the sentences."""
    matrix = label_matrix(graph("", *(("edema", label, 0, []) for label in labels)), RULES)
    expected = 1 if "OBS-DP" in labels else 0 if "OBS-DA" in labels else -1
    assert matrix[anatomy_index("unspecified"), pathology_index("edema")] == expected
    assert matrix.shape == (51, 75)
    assert matrix.dtype == np.int8
    assert (matrix >= 0).sum() == (expected >= 0)


@st.composite
def reports(draw: st.DrawFn) -> dict[str, Any]:
    """A report of a few sentences, each with an anatomy phrase and observations with or without a place."""
    entities: list[tuple[str, str, int, list[list[str]]]] = []
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
    before, after = (label_matrix(parse_graph("r", one, "f"), RULES) for one in (report, shuffled))
    np.testing.assert_array_equal(before, after)


XL_NAMES = {
    "ANAT-DP": "Anatomy::definitely present",
    "OBS-DP": "Observation::definitely present",
    "OBS-DA": "Observation::definitely absent",
    "OBS-U": "Observation::uncertain",
}


@given(reports())
def test_xl_label_names_mean_the_same(report: dict[str, Any]) -> None:
    """Graphs made by the radgraph package would be rejected or read differently."""
    renamed = json.loads(json.dumps(report))
    for entity in renamed["entities"].values():
        entity["label"] = XL_NAMES[entity["label"]]
    assert parse_graph("r", report, "f") == parse_graph("r", renamed, "f")


def test_measurements_are_not_findings() -> None:
    """ "3 cm" would become a rare abnormality, or hide the nodule that it measures."""
    g = graph(
        "nodule 3 cm",
        ("nodule", "Observation::definitely present", 0, [["modify", "2"]]),
        ("3 cm", "Observation::measurement::definitely present", 1, []),
    )
    assert triplets(g, RULES) == [Triplet("unspecified", "nodule", 1)]


def test_first_of_two_annotators() -> None:
    """The test file of RadGraph, marked by two annotators, could not be read."""
    marks = data("", ("edema", "OBS-DA", 0, []))
    nested = {"text": "no edema .", "labeler_1": marks, "labeler_2": {"entities": {}}}
    assert triplets(parse_graph("r", nested, "f"), RULES) == [Triplet("unspecified", "edema", 0)]


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
        ({"tokens": "a", "label": "OBS-DP", "start_ix": 0, "relations": [["modify", "9"]]}, "points at entity 9"),
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


def test_iter_graphs_yields_parsed_reports(tmp_path: Path) -> None:
    """A graph would be assigned to the name of another report."""
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps({"a.txt": data("", ("edema", "OBS-DA", 0, [])), "b.txt": data("")}))
    assert [(key, len(g)) for key, g in iter_graphs(path)] == [
        ("a.txt", 1),
        ("b.txt", 0),
    ]


def test_missing_graph_file_is_an_error(tmp_path: Path) -> None:
    """A wrong path would end in a traceback."""
    with pytest.raises(InputError, match=r"none\.json: file not found"):
        list(iter_graphs(tmp_path / "none.json"))
