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


@cache
def load_extractor(name: ExtractorName) -> Extractor:
    """An extractor, ready to use; loaded once.

    Raises:
        InputError: The radgraph package or its weights are not installed.
    """
    reader = ReportReader.load()
    if name == "builtin":
        return lambda texts: map(reader.graph, texts)
    return _radgraph(reader)


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
