"""From a report's words to the vocabulary: an anatomy phrase -> one of 51, an observation -> one of 75.

The rules are data (resources/report_rules.json). This file only says how they are read:

- Anatomy. The rules are tried in their order and the first that fits gives the anatomy. A rule fits a
  phrase, taken as a set of words, when each term in `has` is met, none in `lacks` is, and, with `only`, no
  word is left over. A term is the name of a word group, or a word itself.
- Observation. A word is looked up as it is, then by its irregular base form, then with each suffix rule in
  turn until one leads to a known word. An unknown word is a rare abnormal observation: tail_abnorm_obs.
- Deviations. The "published" mapping stops here. The "medslip" mapping first rewrites some words of an
  anatomy phrase, tries further rules on what the published ones call "other", and reads some observations
  differently. Each deviation stands in the file with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from medslip.vocabulary import PATHOLOGIES

RuleMapping = Literal["medslip", "published"]
"""Which mapping of report words to use: ours, or the one that the published label matrices were made with."""

UNSPECIFIED, OTHER = "unspecified", "other"
TAIL, EXCLUDED = "tail_abnorm_obs", "excluded_obs"

Words = tuple[str, ...]


@dataclass(frozen=True)
class AnatomyRule:
    """The anatomy of a phrase that meets every `has` and no `lacks`; with `only`, by one word each."""

    anatomy: str
    has: tuple[frozenset[str], ...]
    lacks: frozenset[str]
    only: bool

    def fits(self, words: frozenset[str]) -> bool:
        """Whether the phrase's set of words meets the rule."""
        if not all(words & group for group in self.has) or words & self.lacks:
            return False
        return not self.only or len(words) == len(self.has)


@dataclass(frozen=True)
class Rewrite:
    """Where a phrase has all of `words`, they become `become`."""

    words: frozenset[str]
    become: frozenset[str]

    def apply(self, phrase: frozenset[str]) -> frozenset[str]:
        """The phrase's set of words, rewritten where the rewrite applies."""
        return (phrase - self.words) | self.become if self.words <= phrase else phrase


class ReportRules:
    """Maps the words of a report to the vocabulary. Made by `load`; answers are remembered.

    Attributes:
        mapping: "medslip" or "published".
    """

    def __init__(self, rules: Mapping[str, Any], mapping: RuleMapping) -> None:
        self.mapping = mapping
        deviations = rules["deviations"] if mapping == "medslip" else {}
        groups = {name: frozenset(words) for name, words in rules["anatomy"]["words"].items()}
        self._rules = [
            _anatomy_rule(rule, groups) for rule in (*rules["anatomy"]["rules"], *deviations.get("anatomy_rules", ()))
        ]
        self._rewrites = [
            Rewrite(frozenset(item["words"]), frozenset(item["become"])) for item in deviations.get("anatomy_words", ())
        ]
        self._anatomy_words = frozenset().union(
            *(group for rule in self._rules for group in (*rule.has, rule.lacks)),
            *(rewrite.words for rewrite in self._rewrites),
        )
        observation = rules["observation"]
        self._suffixes = [(end, base) for end, base in observation["suffixes"]]
        self._irregular: dict[str, str] = observation["irregular"]
        self._classes = _observation_table(observation)
        self._classes.update({item["word"]: item["pathology"] for item in deviations.get("observation", ())})
        self._anatomies: dict[Words, str] = {}
        self._pathologies: dict[Words, str] = {}

    @classmethod
    def load(cls, mapping: RuleMapping = "medslip") -> ReportRules:
        """The packaged rules.

        Args:
            mapping: "medslip", or "published" for what the published label matrices were made with.
        """
        text = resources.files("medslip.resources").joinpath("report_rules.json").read_text(encoding="utf-8")
        return cls(json.loads(text), mapping)

    def anatomy(self, words: Sequence[str]) -> str:
        """The anatomy that a phrase names.

        Args:
            words: Its words, such as ("lobe", "lower", "left"), in any order and case.

        Returns:
            One of the 51: "unspecified" for no words, "other" where no rule fits.
        """
        key = tuple(words)
        if key not in self._anatomies:
            self._anatomies[key] = self._map_anatomy(key)
        return self._anatomies[key]

    def pathology(self, words: Sequence[str]) -> str:
        """The pathology that an observation names.

        Args:
            words: Its words in the order of the text, in any case. Of several words the last one with a
                class of its own decides; a rare abnormality decides only where none has one, and a word of
                change or degree only where there is nothing else.

        Returns:
            One of the 75; "excluded_obs" for no words.
        """
        key = tuple(words)
        if key not in self._pathologies:
            names = [self._word_class(word) for word in reversed(_parts(key, self._classes))]
            self._pathologies[key] = min(names, key=_rank, default=EXCLUDED)
        return self._pathologies[key]

    def _map_anatomy(self, phrase: Words) -> str:
        words = frozenset(_parts(phrase, self._anatomy_words))
        if not words:
            return UNSPECIFIED
        for rewrite in self._rewrites:
            words = rewrite.apply(words)
        return next((rule.anatomy for rule in self._rules if rule.fits(words)), OTHER)

    def _word_class(self, word: str) -> str:
        if not any(letter.isalpha() for letter in word):
            return EXCLUDED
        for base in self._base_forms(word):
            if base in self._classes:
                return self._classes[base]
        return TAIL

    def _base_forms(self, word: str) -> Iterator[str]:
        yield word
        yield self._irregular.get(word, word)
        for end, base_end in self._suffixes:
            if word.endswith(end):
                yield word.removesuffix(end) + base_end


def _rank(pathology: str) -> int:
    return {TAIL: 1, EXCLUDED: 2}.get(pathology, 0)


def _parts(words: Iterable[str], known: Container[str]) -> list[str]:
    """The words in lower case; one that is unknown with its hyphens is tried without them, then split."""
    parts: list[str] = []
    for word in " ".join(words).lower().split():
        joined = word.replace("-", "")
        if word in known or joined == word:
            parts.append(word)
        else:
            parts += [joined] if joined in known else [part for part in word.split("-") if part]
    return parts


def _anatomy_rule(rule: Mapping[str, Any], groups: Mapping[str, frozenset[str]]) -> AnatomyRule:
    def words(term: str) -> frozenset[str]:
        return groups.get(term, frozenset({term}))

    return AnatomyRule(
        anatomy=rule["anatomy"],
        has=tuple(words(term) for term in rule["has"]),
        lacks=frozenset().union(*map(words, rule.get("lacks", ()))),
        only=rule.get("only", False),
    )


def _observation_table(observation: Mapping[str, Any]) -> dict[str, str]:
    """Word -> pathology. A class's own name stands for it, unless a list says otherwise."""
    table = {name: name for name in PATHOLOGIES}
    for name, words in observation["classes"].items():
        table.update(dict.fromkeys(words, name))
    for name, lists in ((EXCLUDED, observation["excluded"]), (TAIL, observation["tail"])):
        table.update({word: name for words in lists.values() for word in words})
    return table
