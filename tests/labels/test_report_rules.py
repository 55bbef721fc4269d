"""The rules must reproduce the published mapping, and deviate from it only where the JSON file gives a reason."""

from __future__ import annotations

import csv
import json
import math
import re
from importlib import resources
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medslip.labels.report_rules import ReportRules
from medslip.vocabulary import ANATOMIES, PATHOLOGIES

PARITY = Path(__file__).parents[1] / "parity"
RULES = json.loads(resources.files("medslip.resources").joinpath("report_rules.json").read_text("utf-8"))
OURS, AUTHORS = ReportRules.load("medslip"), ReportRules.load("authors")


def figures(name: str) -> list[tuple[str, str]]:
    with (PARITY / f"{name}.csv").open(newline="") as file:
        return [(text, expected) for text, expected in list(csv.reader(file))[1:]]


PHRASES, OBSERVATIONS = figures("anatomy_phrases"), figures("observation_words")


def test_the_authors_mapping_is_reproduced() -> None:
    """Labels made with it would differ in their rows or columns from the published matrices."""
    assert (len(PHRASES), len(OBSERVATIONS)) == (1276, 138)
    phrases = {text: AUTHORS.anatomy(text.split("|")) for text, _ in PHRASES}
    assert phrases.items() - set(PHRASES) == set()
    words = {word: AUTHORS.pathology([word]) for word, _ in OBSERVATIONS}
    assert words.items() - set(OBSERVATIONS) == set()


def test_anatomy_rules_are_general() -> None:
    """The rules would memorise the known phrases: at most 30 may be listed as a whole."""
    groups = RULES["anatomy"]["words"]
    whole = [rule for rule in RULES["anatomy"]["rules"] if rule.get("only")]
    assert sum(math.prod(len(groups.get(term, [term])) for term in rule["has"]) for rule in whole) <= 30


def test_anatomy_rules_generalise_to_unseen_phrases() -> None:
    """Rules and words that only half of the known phrases support would mislabel other phrases."""
    for half in (0, 1):
        known, unseen = PHRASES[half::2], PHRASES[1 - half :: 2]
        words = {word for text, _ in known for word in text.split("|")}
        used = {AUTHORS.anatomy(text.split("|")) for text, _ in known}
        kept = {
            "words": {name: sorted(words & set(group)) for name, group in RULES["anatomy"]["words"].items()},
            "rules": [rule for rule in RULES["anatomy"]["rules"] if rule["anatomy"] in used],
        }
        rules = ReportRules({**RULES, "anatomy": kept}, "authors")
        right = sum(rules.anatomy(text.split("|")) == expected for text, expected in unseen)
        assert right >= 0.98 * len(unseen)


def without_words(words: set[str]) -> ReportRules:
    """The published rules with these words taken out of every word list."""
    lists = {
        key: {name: [word for word in group if word not in words] for name, group in RULES["observation"][key].items()}
        for key in ("classes", "excluded", "tail")
    }
    irregular = {word: base for word, base in RULES["observation"]["irregular"].items() if word not in words}
    return ReportRules({**RULES, "observation": {**RULES["observation"], **lists, "irregular": irregular}}, "authors")


def test_observation_rules_generalise_to_unseen_words() -> None:
    """Only listed words would be mapped correctly: word forms must reach their class by rule.

    The rest cannot be derived from the form of a word: "infection" is listed under pneumonia, "small" as a degree.
    """
    right = []
    for seed in range(20):
        unseen = Random(seed).sample(OBSERVATIONS, len(OBSERVATIONS) // 2)
        rules = without_words({word for word, _ in unseen})
        right += [rules.pathology([word]) == expected for word, expected in unseen]
    assert sum(right) / len(right) >= 0.82


def test_ours_deviates_only_where_listed() -> None:
    """A phrase or word would move without a reason in the list of deviations."""
    rewrites = [set(item["words"]) for item in RULES["deviations"]["anatomy_words"]]
    for text, expected in PHRASES:
        words = text.split("|")
        if OURS.anatomy(words) != expected:
            assert expected == "other" or any(rewrite <= set(words) for rewrite in rewrites), text
    moved = {word for word, expected in OBSERVATIONS if OURS.pathology([word]) != expected}
    assert moved <= {item["word"] for item in RULES["deviations"]["observation"]}


def test_every_deviation_has_a_reason_and_an_effect() -> None:
    """The list of deviations would hold entries that do nothing or that cannot be judged."""
    for items in RULES["deviations"].values():
        assert all(item["reason"] for item in items)
    for item in RULES["deviations"]["observation"]:
        assert OURS.pathology([item["word"]]) == item["pathology"] != AUTHORS.pathology([item["word"]])


def test_lists_name_the_vocabulary_and_each_word_once() -> None:
    """A misspelt class or a word in two lists would silently give wrong labels."""
    anatomy, observation, deviations = RULES["anatomy"], RULES["observation"], RULES["deviations"]
    assert {rule["anatomy"] for rule in (*anatomy["rules"], *deviations["anatomy_rules"])} < set(ANATOMIES)
    assert set(observation["classes"]) < set(PATHOLOGIES)
    words = [word for key in ("classes", "excluded", "tail") for group in observation[key].values() for word in group]
    assert sorted(words) == sorted(set(words))
    assert set(words) & set(PATHOLOGIES) == {"marking"}


@pytest.mark.parametrize("rules", [OURS, AUTHORS], ids=["medslip", "authors"])
def test_no_stem_belongs_to_two_findings(rules: ReportRules) -> None:
    """An unlisted word form would get whichever class happens to come last."""
    findings: dict[str, set[str]] = {}
    for word, name in rules._classes.items():
        for stem in rules._stems(word) if name not in ("tail_abnorm_obs", "excluded_obs") else ():
            findings.setdefault(stem, set()).add(name)
    assert {stem: names for stem, names in findings.items() if len(names) > 1} == {}


def test_every_class_can_be_reached() -> None:
    """A row or column of the label matrix would always stay empty."""
    assert {OURS.pathology([name]) for name in PATHOLOGIES[:-2]} == set(PATHOLOGIES[:-2])
    assert {rule["anatomy"] for rule in RULES["anatomy"]["rules"]} | {"unspecified", "other"} == set(ANATOMIES)


@pytest.mark.parametrize(
    ("phrase", "ours", "authors"),
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
def test_anatomy_examples(phrase: str, ours: str, authors: str) -> None:
    """A phrase of everyday reports would land in the wrong row."""
    assert (OURS.anatomy(phrase.split()), AUTHORS.anatomy(phrase.split())) == (ours, authors)


OBSERVATION_EXAMPLES = {
    "effusion": ["pleural effusions"],
    "degenerative": ["degenerative changes"],  # a word of change behind a finding does not hide it
    "normal": ["within normal limits"],
    "tube": ["endotracheal tube"],
    "chf": ["heart failure"],
    "expand": ["well-expanded"],
    "pneumothorax": ["Pneumothoraces"],
    "atelectasis": ["atelectatic"],
    "emphysema": ["emphysematous"],
    "tortuous": ["tortuosity"],
    "infiltrate": ["infiltration"],
    "thicken": ["thickening"],
    "hyperinflate": ["hyperinflation"],
    "edema": ["oedema"],
    "calcification": ["calcific"],
    "consolidation": ["consolidative"],
    "dilation": ["dilatations"],
    "hernia": ["herniated"],
    "excluded_obs": ["unchanged", "unlikely", "lesser", "splenectomies", "visualised", "1.5", ""],
    "tail_abnorm_obs": ["foreign body", "ground-glass", "uncoiled", "linear", "zebra"],  # "linear" is not like "line"
}


@pytest.mark.parametrize(
    ("pathology", "text"), [(name, text) for name, texts in OBSERVATION_EXAMPLES.items() for text in texts]
)
def test_observation_examples(pathology: str, text: str) -> None:
    """A word of everyday reports would land in the wrong column."""
    assert OURS.pathology(text.split()) == pathology


def test_adverbs_are_not_reduced_to_findings() -> None:
    """ "normally aerated" would count as normal."""
    assert AUTHORS.pathology(["sharply"]) == "sharply"
    assert (OURS.pathology(["normally"]), AUTHORS.pathology(["normally"])) == ("excluded_obs", "tail_abnorm_obs")
    for word in ("mildly", "inadequately"):
        assert OURS.pathology([word]) == AUTHORS.pathology([word]) == "excluded_obs"


WORDS = st.sampled_from([word for word, _ in OBSERVATIONS]) | st.from_regex(r"[a-z]{1,9}(-[a-z]{1,9})?", fullmatch=True)


@given(st.lists(st.text(max_size=8), max_size=4))
def test_any_words_map_into_the_vocabulary(words: list[str]) -> None:
    """A strange token would stop the preparation of 220 k reports."""
    for rules in (OURS, AUTHORS):
        assert rules.anatomy(words) in ANATOMIES
        assert rules.pathology(words) in PATHOLOGIES


@given(WORDS)
def test_a_class_maps_to_itself(word: str) -> None:
    """Labels that are mapped a second time would change."""
    for rules in (OURS, AUTHORS):
        name = rules.pathology([word])
        if rules is OURS or name != "marking":  # published: "markings" is the class, "marking" is not
            assert rules.pathology([name]) == name


@given(st.lists(WORDS, max_size=3), st.sampled_from(PHRASES))
def test_case_does_not_matter(words: list[str], phrase: tuple[str, str]) -> None:
    """Reports in capitals would get other labels."""
    for rules in (OURS, AUTHORS):
        assert rules.pathology([word.upper() for word in words]) == rules.pathology(words)
        assert rules.anatomy(phrase[0].title().split("|")) == rules.anatomy(phrase[0].split("|"))


SINGULARS = [*PATHOLOGIES[:-2], *(word for word, _ in OBSERVATIONS if not word.endswith(("s", "ed", "er")))]


@given(st.sampled_from([word for word in SINGULARS if word != "marking"]))  # published: only "markings" is the class
def test_plural_maps_like_its_singular(word: str) -> None:
    """ "opacities" would be another finding than "opacity"."""
    plural = re.sub(r"(?<=[^aeiou])y$", "ie", re.sub(r"(s|x|sh|ch)$", r"\1e", word)) + "s"
    for rules in (OURS, AUTHORS):
        assert rules.pathology([plural]) == rules.pathology([word])


@given(st.sampled_from(PHRASES), st.randoms())
def test_order_of_an_anatomy_phrase_does_not_matter(phrase: tuple[str, str], random: Random) -> None:
    """The same place, worded differently, would get another row."""
    words = phrase[0].split("|")
    random.shuffle(words)
    assert AUTHORS.anatomy(words) == phrase[1]
