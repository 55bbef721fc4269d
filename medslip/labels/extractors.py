"""Report texts -> graphs, by the built-in reader or by the radgraph package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from typing import Any, Literal

from medslip.errors import InputError, one_line
from medslip.labels.radgraph import Graph, parse_graph
from medslip.labels.report_text import ReportReader

ExtractorName = Literal["builtin", "radgraph"]

Extractor = Callable[[Iterable[str]], Iterator[Graph]]
"""Takes report texts of any kind, and gives a graph for each, in order."""

_BATCH = 32
_CHECKED, _FEW, _USUAL = 1000, 20, 0.3
"""Reports that are checked for known words, sentences that are too few to judge, and the least share of known ones."""


@cache
def load_extractor(name: ExtractorName) -> Extractor:
    """An extractor, ready to use; loaded once.

    Raises:
        InputError: The radgraph package or its weights are not installed.
    """
    if name == "builtin":
        return lambda texts: map(_reader().graph, texts)
    return _radgraph(_reader())


@cache
def _reader() -> ReportReader:
    return ReportReader.load()


def check_words(texts: Iterable[str]) -> str:
    """A remark on reports whose words the built-in reader does not know; empty if it knows enough.

    It finds both a finding and a place in 68 % of the 11,155 sentences of OpenI's even-numbered reports. Other languages have
    some of the words, too ("normal", "pleural"), but seldom both in a sentence (see the test).
    """
    known, sentences = _reader().located(islice(texts, _CHECKED))
    if sentences < _FEW or known >= _USUAL * sentences:
        return ""
    return (
        f"the built-in reader knows the words for a finding and a place in {known / sentences:.0%} of {sentences:,} sentences "
        "(68 % in OpenI's reports); it reads English, so translate reports in another language, or look at some triplets first"
    )


def _radgraph(reader: ReportReader) -> Extractor:
    """The radgraph package, on the sections that state findings."""
    try:
        from radgraph import RadGraph

        model: Any = RadGraph(model_type="radgraph-xl")
    except ImportError as error:
        raise InputError(
            f"extractor: the radgraph package cannot be imported ({one_line(error, 120)}); pip install radgraph, or use builtin"
        ) from None
    except Exception as error:  # whatever its download of the weights meets
        raise InputError(
            f"extractor: the weights of the radgraph package cannot be loaded ({one_line(error, 160)}); run it once where "
            "it can download them, or use builtin"
        ) from None

    def graphs(texts: Iterable[str]) -> Iterator[Graph]:
        sections = (" ".join(reader.sections(text)) for text in texts)
        while batch := list(islice(sections, _BATCH)):
            found = model(batch)
            for number in range(len(batch)):
                yield parse_graph(str(number), found[str(number)], "radgraph")

    return graphs
