"""Many texts in little memory, which worker processes share."""

from __future__ import annotations

from array import array
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any


class Texts(Sequence[str]):
    """A sequence of texts that takes four bytes each besides their letters, instead of the 60 of a Python string.

    Forked processes share the memory, as reading a text changes none of it.

    Args:
        texts: The texts; ``extend`` adds more.
        prefix: What is put before each text that does not begin with /.
    """

    def __init__(self, texts: Iterable[str] = (), prefix: str = "") -> None:
        self._prefix = prefix
        self._parts: list[tuple[bytes, array[int]]] = []
        self._firsts = [0]
        self.extend(list(texts))

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts at the end, which become one part of the memory: preferably thousands."""
        letters = "".join(texts).encode(errors="surrogateescape")  # names of files may hold bytes that are not UTF-8
        plain = letters.isascii()
        sizes = map(len, texts if plain else (text.encode(errors="surrogateescape") for text in texts))
        self._parts.append((letters, array("I", accumulate(sizes, initial=0))))
        self._firsts.append(self._firsts[-1] + len(texts))

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        part = bisect(self._firsts, place) - 1
        letters, ends = self._parts[part]
        begin = place - self._firsts[part]
        return self._shown(letters[ends[begin] : ends[begin + 1]].decode(errors="surrogateescape"))

    def __iter__(self) -> Iterator[str]:
        for letters, ends in self._parts:
            if letters.isascii():
                text = letters.decode()
                texts: Iterable[str] = (text[begin:end] for begin, end in pairwise(ends))
            else:
                texts = (letters[begin:end].decode(errors="surrogateescape") for begin, end in pairwise(ends))
            yield from map(self._shown, texts) if self._prefix else texts

    def _shown(self, text: str) -> str:
        return text if text.startswith("/") else self._prefix + text
