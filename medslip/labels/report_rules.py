"""Maps the words of a radiology report to the vocabulary: an anatomy phrase to one of 51, an observation to one of 75.

The rules are data, in resources/report_rules.json. They are applied as follows.

Anatomy. Rules are tried in order, and the first that fits gives the anatomy. A rule fits a phrase (a set of words) when
the phrase meets each term in `has` and none in `lacks` and, with `only`, has no word left over. A term is the name of a
word group, or a single word.

Observation. A word is looked up in these steps, and the first hit decides:

1. as it stands, by its irregular base form, or with an inflection ending replaced ("opacities" -> "opacity");
2. by word family: it shares a stem with a known word, both ending in one of `endings` ("nodular", "nodule");
3. by an ending or a prefix that marks a word of change, degree or procedure ("lobectomy", "nonspecific");
4. as an adverb of a known word ("mildly").

All other words are rare abnormal observations: tail_abnorm_obs.

Deviations. The "authors" mapping stops here. The "medslip" mapping first rewrites some words of an anatomy phrase, has
additional rules for phrases that the published ones map to "other", maps some observations differently, and reads British
spellings. The JSON file lists each deviation with its reason.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal, NamedTuple

from medslip.vocabulary import PATHOLOGIES

RuleMapping = Literal["medslip", "authors"]
"""Which mapping of report words to use: ours, or that of the published label matrices."""

UNSPECIFIED, OTHER = "unspecified", "other"
TAIL, EXCLUDED = "tail_abnorm_obs", "excluded_obs"

MIN_STEM = 5
"""Letters that two words must share to belong to one family: with four, "line" would cover "linear"."""


class _AnatomyRule(NamedTuple):
    """Fits a phrase with a word from each group in `has` and none from `lacks`; with `only`, and no other word."""

    anatomy: str
    has: list[frozenset[str]]
    lacks: frozenset[str]
    only: bool

    def fits(self, words: frozenset[str]) -> bool:
        if not all(words & group for group in self.has) or words & self.lacks:
            return False
        return not self.only or len(words) == len(self.has)


class ReportRules:
    """Maps report words to the vocabulary. Results are cached.

    Args:
        rules: The content of report_rules.json.
        mapping: "medslip", or "published" for the mapping of the published label matrices.
    """

    def __init__(self, rules: Mapping[str, Any], mapping: RuleMapping = "medslip") -> None:
        anatomy, observation = rules["anatomy"], rules["observation"]
        deviations = defaultdict(list, rules["deviations"] if mapping == "medslip" else {})
        groups = anatomy["words"]
        self._rules = [
            _AnatomyRule(
                rule["anatomy"],
                [frozenset(groups.get(term, [term])) for term in rule.get("has", ())],
                frozenset(word for term in rule.get("lacks", ()) for word in groups.get(term, [term])),
                rule.get("only", False),
            )
            for rule in anatomy["rules"] + deviations["anatomy_rules"]
        ]
        self._rewrites = [(frozenset(item["words"]), frozenset(item["become"])) for item in deviations["anatomy_words"]]
        self._anatomy_words = frozenset().union(
            *(group for rule in self._rules for group in (*rule.has, rule.lacks)),
            *(words for words, _ in self._rewrites),
        )
        self._irregular: dict[str, str] = observation["irregular"]
        self._inflections: list[tuple[str, str]] = observation["inflections"]
        self._endings: list[str] = observation["endings"]
        self._excluded_endings = tuple(observation["excluded_endings"])
        self._excluded_prefixes = tuple(observation["excluded_prefixes"])
        self._spellings = [(item["letters"], item["become"]) for item in deviations["spellings"]]
        self._adverbs = next((item["pathology"] for item in deviations["adverbs"]), TAIL)
        self._classes = _word_classes(observation)
        self._classes.update({item["word"]: item["pathology"] for item in deviations["observation"]})
        known = sorted(self._classes.items(), key=lambda item: item[1] != EXCLUDED)  # findings overwrite excluded_obs
        self._families = {stem: name for word, name in known if name != TAIL for stem in self._stems(word)}
        self._cached_anatomy = cache(self._map_anatomy)
        self._cached_pathology = cache(self._map_pathology)

    @classmethod
    def load(cls, mapping: RuleMapping = "medslip") -> ReportRules:
        """Load the packaged rules.

        Args:
            mapping: "medslip", or "authors" for the mapping of the published label matrices.
        """
        text = resources.files("medslip.resources").joinpath("report_rules.json").read_text(encoding="utf-8")
        return cls(json.loads(text), mapping)

    def anatomy(self, words: Sequence[str]) -> str:
        """One of the 51 anatomies for the words of a phrase, such as ("lobe", "lower", "left"), in any order and case.

        "unspecified" for no words, "other" where no rule fits.
        """
        return self._cached_anatomy(tuple(words))

    def pathology(self, words: Sequence[str]) -> str:
        """One of the 75 pathologies for the words of an observation, in text order and any case.

        The last word that maps to a class of its own decides; otherwise any rare abnormality; otherwise the observation
        consists of words of change and degree, or has no words: "excluded_obs".
        """
        return self._cached_pathology(tuple(words))

    def _map_anatomy(self, phrase: tuple[str, ...]) -> str:
        words = frozenset(_split(phrase, self._anatomy_words))
        if not words:
            return UNSPECIFIED
        for before, after in self._rewrites:
            if before <= words:
                words = (words - before) | after
        return next((rule.anatomy for rule in self._rules if rule.fits(words)), OTHER)

    def _map_pathology(self, words: tuple[str, ...]) -> str:
        names = [self._map_word(word) for word in reversed(_split(words, self._classes))]
        return min(names, key=lambda name: {TAIL: 1, EXCLUDED: 2}.get(name, 0), default=EXCLUDED)

    def _map_word(self, word: str) -> str:
        if not any(letter.isalpha() for letter in word):
            return EXCLUDED
        name = self._look_up(word)
        if name is None and word.endswith("ly"):  # "sharp" and "sharply" are two classes: adverbs are not reduced
            adjective = self._look_up(word.removesuffix("ly")) or self._look_up(word.removesuffix("ily") + "y")
            name = adjective if adjective in (None, EXCLUDED) else self._adverbs
        return name or TAIL

    def _look_up(self, word: str) -> str | None:
        spellings = [word, *(word.replace(before, after) for before, after in self._spellings if before in word)]
        bases = [base for spelling in spellings for base in self._base_forms(spelling)]
        for base in bases:
            if base in self._classes:
                return self._classes[base]
        for stem in (stem for base in bases for stem in self._stems(base)):
            if stem in self._families:
                return self._families[stem]
        return EXCLUDED if any(self._is_excluded(base) for base in bases) else None

    def _is_excluded(self, word: str) -> bool:
        rests = (word.removeprefix(prefix) for prefix in self._excluded_prefixes if word.startswith(prefix))
        return word.endswith(self._excluded_endings) or any(
            len(rest) >= MIN_STEM and self._look_up(rest) == EXCLUDED for rest in rests
        )

    def _base_forms(self, word: str) -> Iterator[str]:
        for form in dict.fromkeys((word, word.removesuffix("s"))):  # "widenings" -> "widening" -> "widen"
            yield form
            yield self._irregular.get(form, form)
            for ending, replacement in self._inflections:
                if form.endswith(ending):
                    yield form.removesuffix(ending) + replacement

    def _stems(self, word: str) -> list[str]:
        """The word without each of the endings that it has, longest first."""
        stems = {word.removesuffix(ending) for ending in self._endings if word.endswith(ending)}
        return sorted((stem for stem in stems if len(stem) >= MIN_STEM), key=len, reverse=True)


def _split(words: Iterable[str], known: Container[str]) -> list[str]:
    """Lower-case words. A hyphenated word that is not known is tried without its hyphens, then split at them."""
    parts: list[str] = []
    for word in " ".join(words).lower().split():
        joined = word.replace("-", "")
        if word in known or joined == word:
            parts.append(word)
        else:
            parts += [joined] if joined in known else [part for part in word.split("-") if part]
    return parts


def _word_classes(observation: Mapping[str, Any]) -> dict[str, str]:
    """Word -> pathology. A class name stands for its class unless a list says otherwise."""
    table = {name: name for name in PATHOLOGIES}
    for name, words in observation["classes"].items():
        table.update(dict.fromkeys(words, name))
    for name, lists in ((EXCLUDED, observation["excluded"]), (TAIL, observation["tail"])):
        table.update({word: name for words in lists.values() for word in words})
    return table
