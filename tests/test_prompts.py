"""The packaged prompts: one for each name, in order, told apart by the words that matter."""

from __future__ import annotations

import json
import re
from importlib import resources

import pytest

from medslip.vocabulary import ANATOMIES, MIRRORED_ANATOMY, PATHOLOGIES, load_prompts


@pytest.mark.parametrize(
    ("file", "names"), [("pathology_prompts.json", PATHOLOGIES), ("anatomy_prompts.json", ANATOMIES)]
)
def test_keys_are_the_vocabulary_in_order(file: str, names: tuple[str, ...]) -> None:
    text = resources.files("medslip.resources").joinpath(file).read_text(encoding="utf-8")
    assert tuple(json.loads(text)) == names


def test_texts_are_distinct_and_short_enough_for_any_bert() -> None:
    prompts = load_prompts()
    for texts in (prompts.pathology, prompts.anatomy):
        assert len(set(texts)) == len(texts)
        # A word is at most a few pieces; 40 words stay far below the 512 of any BERT, and below 64 in practice.
        assert all(len(text.split()) <= 40 and text.endswith(".") for text in texts)


def test_explanations_begin_with_their_finding() -> None:
    for name, text in zip(PATHOLOGIES[:-2], load_prompts().pathology, strict=False):
        first = text.split()[0].lower()
        assert first[:3] == name[:3], (name, first)


def test_sides_are_named_on_their_own_side_only() -> None:
    texts = load_prompts().anatomy
    for index, mirrored in enumerate(MIRRORED_ANATOMY):
        if mirrored in (-1, index):
            continue
        side, other = ("left", "right") if "left" in ANATOMIES[index] else ("right", "left")
        words = re.findall(r"[a-z]+", texts[index].lower())
        assert words.count(side) >= 1, ANATOMIES[index]
        assert other not in words, ANATOMIES[index]
