"""What a report shows, and how values of a metrics.json become it.

Any JSON value can be shown: a mapping becomes pairs, a list of mappings a table, a number with its interval one cell. Nothing
here knows what a score means; ``report_sections.py`` does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

MISSING = "\u2013"
"""Shown where a value is not defined."""

_SPELLINGS = {
    "auroc": "AUROC",
    "cpus": "CPUs",
    "ece": "ECE",
    "f1": "F1",
    "icl": "ICL",
    "iou": "IoU",
    "dice": "Dice",
    "npv": "NPV",
    "numpy": "NumPy",
    "platt": "Platt",
    "ppv": "PPV",
    "protocl": "ProtoCL",
    "brier": "Brier",
    "git": "Git",
}
_INTERVAL = frozenset({"low", "high", "resamples", "left_out"})
_LONG = 24
"""Lists of more plain values than this are folded."""


@dataclass(frozen=True)
class Plot:
    """A number on a line, with its interval.

    Attributes:
        value: The number.
        low: Lower end of the interval; None without.
        high: Upper end.
        start: Left end of the line.
        end: Right end.
        ticks: Other values to compare with.
    """

    value: float
    low: float | None
    high: float | None
    start: float = 0.0
    end: float = 1.0
    ticks: tuple[float, ...] = ()

    def at(self, value: float) -> float:
        """Where a value lies on the line, 0..100, cut off at its ends."""
        share = (value - self.start) / (self.end - self.start)
        return round(100 * min(max(share, 0.0), 1.0), 2)


@dataclass(frozen=True)
class Cell:
    """One value.

    Attributes:
        text: What is shown.
        key: What a column is sorted by: a number, or None for the text itself.
        note: All digits, and what else a pointer that rests here is told.
        interval: Ends of the 95 % interval, shown smaller; None without.
        plot: A picture instead of text.
        blocks: What is folded away in this cell.
    """

    text: str
    key: float | None = None
    note: str = ""
    interval: tuple[float, float] | None = None
    plot: Plot | None = None
    blocks: tuple[Block, ...] = ()

    @property
    def span(self) -> str:
        """The interval in words."""
        return "" if self.interval is None else span(*self.interval)

    @property
    def is_number(self) -> bool:
        """Whether the cell stands at the right."""
        return self.key is not None or self.text == MISSING


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: Headings.
        rows: As many cells each; the first names the row.
        foot: Rows that stay below, whatever the order.
        plots: Heading of a column of plots -> the ends of its line.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[tuple[Cell, ...], ...] = ()
    plots: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Pairs:
    """Names and values."""

    rows: tuple[tuple[str, Cell], ...]
    kind: ClassVar[str] = "pairs"


@dataclass(frozen=True)
class Text:
    """A paragraph, or lines as they are."""

    text: str
    as_it_is: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        name: Of the file.
        caption: Below it.
        source: A data: address.
        width: In pixels.
        height: In pixels.
    """

    name: str
    caption: str
    source: str
    width: int
    height: int
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Files:
    """Where files are: name, address relative to the page, size in words."""

    rows: tuple[tuple[str, str, str], ...]
    kind: ClassVar[str] = "files"


@dataclass(frozen=True)
class Group:
    """Blocks below a heading of their own, folded or not."""

    title: str
    blocks: tuple[Block, ...]
    folded: bool = True
    kind: ClassVar[str] = "group"


Block = Table | Pairs | Text | Figure | Files | Group


def words(key: str) -> str:
    """A key of the program's as words; a name of the user's, with capitals or spaces, as it is."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", key):
        return key
    return " ".join(_SPELLINGS.get(word, word) for word in key.split("_"))


def heading(key: str) -> str:
    """A key as a heading."""
    text = words(key)
    return text[:1].upper() + text[1:]


def number(value: float) -> str:
    """Three decimals; four significant digits for the very small and the very large."""
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if value != 0 and not 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    return f"{value:.3f}"


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def plain(value: Any) -> Cell:
    """A cell of a value that is neither a mapping nor a list."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Cell(MISSING, note="not defined")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int | float):
        return Cell(number(value), float(value), "" if isinstance(value, int) else repr(value))
    return Cell(str(value))


def _estimate(value: float | None, interval: Mapping[str, Any] | None) -> Cell:
    """A number with its interval, where it has one."""
    cell = plain(value)
    if interval is None:
        return cell
    note = f"{value!r}, from {interval['low']!r} to {interval['high']!r}"
    if interval["resamples"]:
        note += f"; {interval['resamples']} resamples"
    if interval["left_out"]:
        note += f", {interval['left_out']} left out"
    return Cell(cell.text, cell.key, note, (float(interval["low"]), float(interval["high"])))


def span(low: float, high: float) -> str:
    """An interval in words."""
    return f"[{number(low)}, {number(high)}]"


def is_estimate(value: Any) -> bool:
    """Whether a value is an estimate as docs/metrics.md has it and nothing else: what it holds beside would not be shown."""
    if not isinstance(value, Mapping) or value.keys() != {"value", "interval"}:
        return False
    number, interval = value["value"], value["interval"]
    if interval is None:
        return number is None or is_number(number)
    return (
        is_number(number)
        and isinstance(interval, Mapping)
        and interval.keys() == _INTERVAL
        and all(map(is_number, interval.values()))
    )


def cell(value: Any) -> Cell:
    """A cell of any JSON value."""
    if is_estimate(value):
        return _estimate(value["value"], value["interval"])
    if not isinstance(value, Mapping | list | tuple):
        return plain(value)
    if not value:
        return Cell("none")
    if isinstance(value, Mapping):
        return Cell(f"{len(value)} entries", blocks=blocks(value))
    if any(isinstance(item, Mapping | list | tuple) for item in value):
        return Cell(f"{len(value)} entries", blocks=blocks(value))
    text = ", ".join(plain(item).text for item in value)
    return Cell(f"{len(value)} values", blocks=(Text(text),)) if len(value) > _LONG else Cell(text)


def as_mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else none."""
    return value if isinstance(value, Mapping) else {}


def as_list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def cell_at(record: Any, path: tuple[str, ...]) -> Cell:
    """The cell of an entry.

    Args:
        record: Mappings within mappings.
        path: Keys from the outside in; what is not there has an empty cell.
    """
    for key in path[:-1]:
        record = as_mapping(record).get(key)
    record = as_mapping(record)
    return cell(record[path[-1]]) if path[-1] in record else Cell("")


def picked_table(
    records: Iterable[Mapping[str, Any]],
    columns: Mapping[str, tuple[str, ...]],
    plot: str | None,
    foot: Iterable[Mapping[str, Any]] = (),
) -> Table:
    """A row a record, of chosen entries.

    Args:
        records: For the rows.
        columns: Heading -> where its entry is; the first names the row.
        plot: The heading to plot, if any.
        foot: For rows that stay below.
    """
    rows, below = (
        tuple(tuple(cell_at(record, path) for path in columns.values()) for record in lot) for lot in (records, foot)
    )
    table = Table(tuple(columns), rows, below)
    return table if plot is None else with_plot(table, plot)


def flat(record: Mapping[str, Any], above: str = "") -> dict[str, Cell]:
    """Column -> cell of a record: mappings within it are opened, ``scores`` as if they stood in the record itself.

    Args:
        record: A mapping of a metrics.json.
        above: What the columns of a mapping within another begin with.
    """
    cells: dict[str, Cell] = {}
    for key, value in record.items():
        name = f"{above} / {words(key)}" if above else words(key)
        if name in cells:
            name = f"{above} / {key}" if above else str(key)  # two keys that read alike
        if isinstance(value, Mapping) and value and not is_estimate(value):
            within = key == "scores" and not value.keys() & record.keys()
            cells |= flat(value, above if within else name)
        else:
            cells[name] = cell(value)
    return cells


Record = tuple[str | None, Mapping[str, Any]]
"""The name of a record, None where it says so itself; and its entries."""


def record_table(records: Iterable[Record], foot: Iterable[Record] = (), plot: str | None = None) -> Table:
    """A row a record, a column an entry; with a plot of one column.

    Args:
        records: For the rows.
        foot: For rows that stay below; what the others have no column for is left out.
        plot: Which column; None takes the first that has intervals, if any.
    """

    def opened(record: Record) -> dict[str, Cell]:
        return ({} if record[0] is None else {"": Cell(record[0])}) | flat(record[1])

    rows, below = [opened(record) for record in records], [opened(record) for record in foot]
    columns = sorted(dict.fromkeys(name for row in rows for name in row), key=lambda name: name not in ("", "name"))
    columns = [
        name for name in columns if name != "undefined" or any(name in row and row[name].note == "" for row in rows)
    ]

    def cells(row: Mapping[str, Cell]) -> tuple[Cell, ...]:
        return tuple(row.get(name, Cell("")) for name in columns)

    table = Table(tuple(columns), tuple(map(cells, rows)), tuple(map(cells, below)))
    drawn = next(
        (name for name in columns if name == plot or any(name in row and row[name].interval for row in rows)), None
    )
    return table if drawn is None else with_plot(table, drawn)


def with_plot(table: Table, column: str, ticks: tuple[float, ...] = ()) -> Table:
    """The table with a column of plots after one of its columns; all on one line, as long as its values need.

    Args:
        table: A table.
        column: One of its headings; a table without it stays as it is.
        ticks: Values to compare with.
    """
    if column not in table.columns:
        return table
    place = table.columns.index(column)
    ranges = [_range(row[place]) for row in (*table.rows, *table.foot) if row[place].key is not None]
    if not ranges:
        return table
    ranges += [(tick, tick) for tick in ticks]
    start, end = nice_ends(min(low for low, _ in ranges), max(high for _, high in ranges))

    def widened(row: Sequence[Cell]) -> tuple[Cell, ...]:
        return (*row[: place + 1], _plotted(row[place], start, end, ticks), *row[place + 1 :])

    title = f"{column}, {number(start)} to {number(end)}"
    return Table(
        (*table.columns[: place + 1], title, *table.columns[place + 1 :]),
        tuple(map(widened, table.rows)),
        tuple(map(widened, table.foot)),
        {title: (f"{start:g}", f"{end:g}")},
    )


def _plotted(shown: Cell, start: float, end: float, ticks: tuple[float, ...]) -> Cell:
    if shown.key is None:
        return Cell("")
    low, high = shown.interval or (None, None)
    return Cell("", shown.key, shown.note, plot=Plot(shown.key, low, high, start, end, ticks))


def _range(shown: Cell) -> tuple[float, float]:
    assert shown.key is not None, "a number"
    if shown.interval is None:
        return shown.key, shown.key
    low, high = shown.interval
    return min(low, shown.key), max(high, shown.key)


def nice_ends(low: float, high: float) -> tuple[float, float]:
    """Ends of a line that holds both values: on tenths of the power of ten above their distance, inside 0..1 where they are."""
    step = 10.0 ** math.ceil(math.log10(max(high - low, 1e-2))) / 10
    start, end = math.floor(low / step) * step, math.ceil(high / step) * step
    if end - start < step:
        start, end = start - step, end + step
    if low >= 0 and high <= 1:
        start, end = max(start, 0.0), min(end, 1.0)
    return round(start, 9), round(end, 9)


def blocks(value: Any) -> tuple[Block, ...]:
    """Any JSON value, whole."""
    if isinstance(value, Mapping) and value and not is_estimate(value):
        return _of_mapping(value)
    if isinstance(value, list | tuple) and value:
        if all(isinstance(item, Mapping) for item in value):
            named = any("name" in item for item in value)
            return (record_table((None if named else str(k + 1), item) for k, item in enumerate(value)),)
        if any(isinstance(item, Mapping | list | tuple) for item in value):
            return (Text(json.dumps(value, indent=1, ensure_ascii=False, default=str), as_it_is=True),)
        return (Text(", ".join(plain(item).text for item in value)),)
    shown = cell(value)
    return (Text(f"{shown.text} {shown.span}".strip()),)


def _of_mapping(value: Mapping[str, Any]) -> tuple[Block, ...]:
    if _alike(value):
        return (record_table((words(str(key)), entry) for key, entry in value.items()),)
    cells = flat({key: entry for key, entry in value.items() if not _is_large(entry)})
    found: list[Block] = [Pairs(tuple(cells.items()))] if cells else []
    found += [Group(heading(str(key)), blocks(entry), folded=False) for key, entry in value.items() if _is_large(entry)]
    return tuple(found)


def _alike(value: Mapping[str, Any]) -> bool:
    """Whether a mapping is one of records of the same kind."""
    entries = list(value.values())
    if len(entries) < 2 or not all(isinstance(entry, Mapping) and entry for entry in entries):
        return False
    if any(map(is_estimate, entries)):
        return False
    shared = set.intersection(*(set(entry) for entry in entries))
    return bool(shared) and not any(_is_large(inner) for entry in entries for inner in entry.values())


def _is_large(value: Any) -> bool:
    """Whether a value needs a block of its own: a list of mappings, or a mapping of mappings that are no estimates."""
    if isinstance(value, list | tuple):
        return any(isinstance(item, Mapping | list | tuple) for item in value)
    if not isinstance(value, Mapping) or is_estimate(value):
        return False
    return any(_is_large(entry) or (isinstance(entry, Mapping) and not is_estimate(entry)) for entry in value.values())
