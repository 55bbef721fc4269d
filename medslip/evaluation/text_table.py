"""Numbers and tables as text: what every evaluation prints."""

from __future__ import annotations

from collections.abc import Sequence

from medslip.evaluation.bootstrap import Interval


def number(value: float | None) -> str:
    """Three digits after the point; "-" where there is no value."""
    return "-" if value is None else f"{value:.3f}"


def with_interval(value: float | None, interval: Interval | None) -> str:
    """A value and, where it has one, its interval: "0.912 [0.880, 0.940]"."""
    span = "" if value is None or interval is None else f" [{interval.low:.3f}, {interval.high:.3f}]"
    return f"{number(value)}{span}"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equal columns, the first column to the left and the others to the right; the first line ruled off.

    Args:
        lines: The header, then the rows; as many cells each.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in lines]
    return [text[0], "-" * len(text[0]), *text[1:]]
