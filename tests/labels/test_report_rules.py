"""The rules must agree with the published mapping's figures, and deviate only where the file says why."""

from __future__ import annotations

import csv
import json
import math
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medslip.labels.report_rules import ReportRules
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

PARITY = Path(__file__).parents[1] / "parity"
RULES = json.loads(resources.files("medslip.resources").joinpath("report_rules.json").read_text("utf-8"))
OURS, PUBLISHED = ReportRules.load("medslip"), ReportRules.load("published")


def figures(name: str) -> list[tuple[str, str]]:
    with (PARITY / f"{name}.csv").open(newline="") as file:
        return [(text, expected) for text, expected in list(csv.reader(file))[1:]]


PHRASES, OBSERVATIONS = figures("anatomy_phrases"), figures("observation_words")


def test_published_mapping_agrees_on_anatomy_phrases() -> None:
    """Labels made with the published mapping would not be those of the published matrices."""
    answers = [(text, expected, PUBLISHED.anatomy(text.split("|"))) for text, expected in PHRASES]
    wrong = [answer for answer in answers if answer[1] != answer[2]]
    assert len(PHRASES) == 1276
    assert len(wrong) <= 0.02 * len(PHRASES), wrong


def test_published_mapping_agrees_on_observation_words() -> None:
    """As above, for the columns."""
    answers = [(word, expected, PUBLISHED.pathology([word])) for word, expected in OBSERVATIONS]
    wrong = [answer for answer in answers if answer[1] != answer[2]]
    assert len(OBSERVATIONS) == 138
    assert len(wrong) <= 0.05 * len(OBSERVATIONS), wrong


def test_anatomy_rules_are_general() -> None:
    """Agreement would be learnt by heart: at most 30 phrases may be named as a whole."""
    groups = RULES["anatomy"]["words"]
    whole = [rule for rule in RULES["anatomy"]["rules"] if rule.get("only")]
    assert sum(math.prod(len(groups.get(term, [term])) for term in rule["has"]) for rule in whole) <= 30


def test_anatomy_rules_carry_over_to_unseen_phrases() -> None:
    """Rules and words that only half of the figures support would say little about other phrases."""
    for half in (0, 1):
        known, unseen = PHRASES[half::2], PHRASES[1 - half :: 2]
        words = {word for text, _ in known for word in text.split("|")}
        used = {PUBLISHED.anatomy(text.split("|")) for text, _ in known}
        kept = {
            "words": {name: sorted(words & set(group)) for name, group in RULES["anatomy"]["words"].items()},
            "rules": [rule for rule in RULES["anatomy"]["rules"] if rule["anatomy"] in used],
        }
        rules = ReportRules({**RULES, "anatomy": kept}, "published")
        right = sum(rules.anatomy(text.split("|")) == expected for text, expected in unseen)
        assert right >= 0.98 * len(unseen)


def test_words_change_anatomy_only_where_a_deviation_says_so() -> None:
    """An anatomy would move without its reason in the list of deviations."""
    rewrites = [set(item["words"]) for item in RULES["deviations"]["anatomy_words"]]
    for text, expected in PHRASES:
        words = text.split("|")
        if OURS.anatomy(words) != expected:
            assert expected == "other" or any(rewrite <= set(words) for rewrite in rewrites), text


def test_words_change_pathology_only_where_a_deviation_says_so() -> None:
    """An observation would move without its reason in the list of deviations."""
    moved = {word for word, expected in OBSERVATIONS if OURS.pathology([word]) != expected}
    assert moved <= {item["word"] for item in RULES["deviations"]["observation"]}


def test_every_deviation_has_a_reason_and_an_effect() -> None:
    """The list of deviations would hold entries that do nothing, or that nobody can judge."""
    for items in RULES["deviations"].values():
        assert all(item["reason"] for item in items)
    for item in RULES["deviations"]["observation"]:
        assert OURS.pathology([item["word"]]) == item["pathology"] != PUBLISHED.pathology([item["word"]])


def test_rules_name_the_vocabulary_and_each_word_once() -> None:
    """A misspelt class or a word in two lists would label silently wrong."""
    anatomy, observation, deviations = RULES["anatomy"], RULES["observation"], RULES["deviations"]
    assert {rule["anatomy"] for rule in (*anatomy["rules"], *deviations["anatomy_rules"])} < set(ANATOMIES)
    assert set(observation["classes"]) < set(PATHOLOGIES)
    lists = (
        *observation["classes"].values(),
        *observation["excluded"].values(),
        *observation["tail"].values(),
    )
    words = [word for one in lists for word in one]
    assert sorted(words) == sorted(set(words))
    assert set(words) & set(PATHOLOGIES) == {"marking"}


def test_every_class_can_be_reached() -> None:
    """A row or column of the label matrix would stay empty for ever."""
    assert {OURS.pathology([name]) for name in PATHOLOGIES[:-2]} == set(PATHOLOGIES[:-2])
    assert {rule["anatomy"] for rule in RULES["anatomy"]["rules"]} | {"unspecified", "other"} == set(ANATOMIES)


@pytest.mark.parametrize(
    ("phrase", "ours", "published"),
    [
        ("", "unspecified", "unspecified"),
        ("elbow", "other", "other"),
        ("lungs", "lung_volumes", "lung_volumes"),
        ("lungs left", "left_lung_unspec", "other"),
        ("hila right", "right_hilar", "other"),
        ("lung left right base", "lung_bases", "left_lower_lung"),
        ("apex", "lung_apices", "other"),
        ("lingula left", "upper_left_lobe", "other"),
        ("RLL", "lower_right_lobe", "other"),
        ("retro-cardiac", "retrocardiac", "retrocardiac"),
        ("left-sided lung", "left_lung_unspec", "left_lung_unspec"),
        ("junction cavoatrial", "cavoatrial_junction", "cavoatrial_junction"),
    ],
)
def test_anatomy_examples(phrase: str, ours: str, published: str) -> None:
    """A phrase of everyday reports would land in the wrong row."""
    assert (OURS.anatomy(phrase.split()), PUBLISHED.anatomy(phrase.split())) == (ours, published)


@pytest.mark.parametrize(
    ("text", "pathology"),
    [
        ("pleural effusions", "effusion"),
        ("degenerative changes", "degenerative"),  # a word of change behind a finding does not hide it
        ("foreign body", "tail_abnorm_obs"),
        ("within normal limits", "normal"),
        ("endotracheal tube", "tube"),
        ("heart failure", "chf"),
        ("well-expanded", "expand"),
        ("ground-glass", "tail_abnorm_obs"),
        ("Pneumothoraces", "pneumothorax"),
        ("atelectatic", "atelectasis"),
        ("emphysematous", "emphysema"),
        ("tortuosity", "tortuous"),
        ("infiltration", "infiltrate"),
        ("thickening", "thicken"),
        ("hyperinflation", "hyperinflate"),
        ("unchanged", "excluded_obs"),
        ("1.5", "excluded_obs"),
        ("zebra", "tail_abnorm_obs"),
        ("", "excluded_obs"),
    ],
)
def test_observation_examples(text: str, pathology: str) -> None:
    """A word of everyday reports would land in the wrong column."""
    assert OURS.pathology(text.split()) == pathology


@given(st.lists(st.text(max_size=8), max_size=4))
def test_any_words_map_into_the_vocabulary(words: list[str]) -> None:
    """A strange token would stop the preparation of 220 k reports."""
    for rules in (OURS, PUBLISHED):
        assert rules.anatomy(words) in ANATOMIES
        assert rules.pathology(words) in PATHOLOGIES


@given(st.sampled_from(PHRASES), st.randoms())
def test_order_of_an_anatomy_phrase_does_not_matter(phrase: tuple[str, str], random: object) -> None:
    """The same place, worded otherwise, would get another row."""
    words = phrase[0].split("|")
    random.shuffle(words)  # type: ignore[attr-defined]
    assert PUBLISHED.anatomy(words) == phrase[1]
