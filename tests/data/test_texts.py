"""Texts in one piece of memory."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from medslip.data.texts import Texts


@given(parts=st.lists(st.lists(st.text(max_size=4) | st.just("/\udce4"))), prefix=st.sampled_from(["", "ä/"]))
def test_texts_come_back_in_their_order_also_in_a_worker(parts: list[list[str]], prefix: str) -> None:
    """An image would be trained on the report of another."""
    texts = Texts(prefix=prefix)
    for part in parts:
        texts.extend(part)
    expected = [text if text.startswith("/") else prefix + text for part in parts for text in part]
    again = pickle.loads(pickle.dumps(texts))
    assert list(texts) == [again[index] for index in range(len(again))] == expected
    assert texts[1:] == expected[1:]
