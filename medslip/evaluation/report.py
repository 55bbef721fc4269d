"""A run folder as one page: report.html, which needs nothing but itself. The only place that knows jinja2.

Everything that comes from data (names of classes, paths, files) is escaped by the template; the page's own rules forbid any
script but its own and any other address.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import islice
from os.path import relpath
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from medslip.evaluation.report_sections import Fact, Section, facts, sections, title_of
from medslip.evaluation.report_values import (
    Block,
    Figure,
    Files,
    Group,
    Table,
    Text,
    as_mapping,
    blocks,
    heading,
    plain,
    record_table,
)
from medslip.evaluation.run_folder import METRICS_VERSION
from medslip.files import written_whole

REPORT = "report.html"
"""The page's name in the run folder."""

_HEAD = 10
"""Rows that are shown of a table of predictions."""

_MOST_FILES = 200

_FIGURES = {
    "differences.png": "What run B has above run A, with 95 % intervals; in colour where the interval leaves out 0.",
    "answers.png": "Where the model looks: its attention in colour, the true box, its probability.",
    "overlays.png": "Best, median and worst cases: the model's map in colour over the image, and what is true.",
    "box_precision_recall.png": "Predicted boxes, cut from each map at its threshold, from the surest down; the dot: all.",
    "subgroups.png": "Scores within parts of the data, with 95 % intervals.",
    "losses.png": "The course of training.",
    "roc.png": "Receiver operating characteristic of each class; the dotted line is chance.",
    "precision_recall.png": "Precision and recall of each class; dotted: the share of positives; the dot: maximum F1.",
    "calibration.png": "Reliability: the share that has the finding, by the probability it was given.",
}
"""Name -> caption, the most telling first."""

_TABLES = {"predictions.csv": "Predictions", "scores.csv": "Scores of each finding"}


_NAMES = ("image", "patient", "study", "class", "view", "sex")
"""Columns of these tables that hold names, never numbers."""

_DECIMAL = "-?(0|[1-9][0-9]{0,14})([.][0-9]+)?(e[+-]?[0-9]{1,2})?"


@dataclass(frozen=True)
class _Run:
    """What the page shows of one run folder.

    Attributes:
        id: In addresses within the page.
        title: Task and data.
        folder: Where it is, for people.
        facts: The numbers on top.
        sections: In reading order.
        parts: Runs in folders within, one a seed.
        figure: The most telling picture, its own or its first part's; None without any.
    """

    id: str
    title: str
    folder: str
    facts: tuple[Fact, ...]
    sections: tuple[Section, ...]
    parts: tuple[_Run, ...]
    figure: Figure | None


def write_report(folder: Path, title: str | None = None, runs: Sequence[Path] = ()) -> Path:
    """Write report.html into a folder, whole or not at all.

    Shown is what is there, and nothing need be: metrics.json, config.yaml, log.jsonl, pictures (PNG), the first lines of
    predictions.csv or scores.csv, and the same of every folder ``seed_N`` within. A file that cannot be read is named as such.

    Args:
        folder: Where the page goes; the run folder, unless ``runs`` are given.
        title: None takes the task and the data.
        runs: Run folders to show on one page, a section each; first what the folder itself says of them all, if it has a
            metrics.json.

    Returns:
        The page's path.
    """
    folder = Path(folder)
    pages = [_read_run(Path(run), folder, f"run{k + 1}") for k, run in enumerate(runs or (folder,))]
    together = _read_run(folder, folder, "all") if runs and (folder / "metrics.json").is_file() else None
    style, script = (_resource(name) for name in ("report.css", "report.js"))
    text = _template().render(
        title=title or ", ".join(page.title for page in pages),
        about=_about(folder, runs),
        together=together,
        pages=pages,
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )
    path = folder / REPORT
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")  # JSON can hold halves of characters
    return path


@cache
def _template() -> Template:
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_resource("report.html.jinja"))


def _resource(name: str) -> str:
    return resources.files("medslip.resources").joinpath(name).read_text(encoding="utf-8")


def _about(folder: Path, runs: Sequence[Path]) -> str:
    used = as_mapping(_read_metrics(Path(runs[0]) if runs else folder)[0].get("environment"))
    made = [f"MeDSLIP {used['medslip']}"] if used.get("medslip") else []
    made += [f"torch {used['torch']}"] if used.get("torch") else []
    made += [f"on {used['device']}"] if used.get("device") else []
    return " · ".join([str(folder), *([" ".join(made)] if made else [])])


def _read_run(folder: Path, page: Path, name: str) -> _Run:
    """What to show of a run folder.

    Args:
        folder: The run's.
        page: The folder of the page, which addresses of files start from.
        name: Of its part of the page.
    """
    metrics, trouble = _read_metrics(folder)
    figures = tuple(_figures(folder))
    found: list[Section] = [Section("metrics.json", (Text(trouble),))] if trouble else []
    scored = sections(metrics)
    found += [section for section in scored if section.title != "Settings and origin"]
    tables = tuple(_table_head(folder))
    if not found and tables:
        found += tables
        tables = ()
    if figures:
        found.append(Section("Figures", figures))
    found += _training(folder)
    found += tables
    if data := as_mapping(metrics.get("data")):
        found.append(Section("Data", blocks(data)))
    found += [section for section in scored if section.title == "Settings and origin"]
    found.append(Section("Reproduce", tuple(_origin(folder, metrics))))
    found.append(Section("Files", (Files(tuple(_files(folder, page))),)))
    inner = sorted(
        (path for path in folder.glob("seed_*") if path.is_dir()), key=lambda path: (len(path.name), path.name)
    )
    parts = tuple(_part(path, page, f"{name}-seed{k + 1}") for k, path in enumerate(inner))
    return _Run(
        name,
        title_of(metrics) if metrics else heading(folder.name),
        str(folder),
        facts(metrics),
        tuple(found),
        parts,
        figures[0] if figures else next((part.figure for part in parts), None),
    )


def _part(folder: Path, page: Path, name: str) -> _Run:
    run = _read_run(folder, page, name)
    return _Run(name, heading(folder.name), run.folder, run.facts, run.sections, run.parts, run.figure)


def _read_metrics(folder: Path) -> tuple[Mapping[str, Any], str]:
    """metrics.json, and what is wrong with it."""
    path = folder / "metrics.json"
    if not path.is_file():
        return {}, ""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{path} cannot be read: {error}"
    if not isinstance(metrics, dict):
        return {}, f"{path} holds no object."
    if (version := metrics.get("version", METRICS_VERSION)) != METRICS_VERSION:
        return (
            metrics,
            f"{path} is of version {version}, this page is made for {METRICS_VERSION}: not all values are in place.",
        )
    return metrics, ""


def _figures(folder: Path) -> Iterator[Figure]:
    order = list(_FIGURES)
    paths = sorted(
        folder.glob("*.png"), key=lambda path: (order.index(path.name) if path.name in order else 99, path.name)
    )
    for path in paths:
        data = path.read_bytes()
        if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
            width, height = struct.unpack(">II", data[16:24])
            source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
            yield Figure(path.name, _FIGURES.get(path.name, ""), source, width, height)


def _training(folder: Path) -> Iterator[Section]:
    """A row a validation of log.jsonl."""
    path = folder / "log.jsonl"
    if not path.is_file():
        return
    entries = [entry for line in _lines(path) if isinstance(entry := _loaded(line), dict)]
    rows = [entry for entry in entries if entry.get("kind") == "validation"]
    if not rows:
        return
    shown = [{key: value for key, value in row.items() if key not in ("kind", "time")} for row in rows]
    times = [entry["time"] for entry in entries if isinstance(entry.get("time"), int | float)]
    steps = max((entry["step"] for entry in entries if isinstance(entry.get("step"), int)), default=0)
    note = f"{len(rows)} validation(s), {steps} steps" + (
        f" in {_duration(max(times) - min(times))}." if times else "."
    )
    yield Section("Training", (Group("Every validation", (record_table((None, row) for row in shown),)),), note)


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _loaded(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None  # the last line of a run that was stopped


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _table_head(folder: Path) -> Iterator[Section]:
    for name, title in _TABLES.items():
        path = folder / name
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            lines = list(islice(csv.reader(file), _HEAD + 1))
        if not lines:
            continue
        width = len(lines[0])
        rows = tuple(
            tuple(plain(_value(*pair)) for pair in zip(lines[0], line + [""] * (width - len(line)), strict=False))
            for line in lines[1:]
        )
        note = f"The first {len(rows)} lines of {name}."
        yield Section(title, (Table(tuple(lines[0]), rows),), note)


def _value(column: str, text: str) -> str | float:
    """A number where a text of a CSV is a plain decimal one. Names stay as they are, also those that are all digits."""
    if column in _NAMES or not re.fullmatch(_DECIMAL, text):
        return text
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _origin(folder: Path, metrics: Mapping[str, Any]) -> Iterator[Block]:
    config = folder / "config.yaml"
    if config.is_file():
        yield Text(f"The same run again: the task's script with --config {config} and another --output.")
        yield Group("Config, every value", (Text(config.read_text(encoding="utf-8", errors="replace"), as_it_is=True),))
    if used := metrics.get("environment"):
        yield Group("Versions and machine", blocks(used))


def _files(folder: Path, page: Path) -> Iterator[tuple[str, str, str]]:
    """Name, address from the page and size of what lies in the folder, but the page itself."""
    paths = sorted(path for path in folder.iterdir() if path.name != REPORT and not path.name.endswith(".partial"))
    for path in paths[:_MOST_FILES]:
        address = quote(relpath(path, page).replace("\\", "/"))
        yield path.name + ("/" if path.is_dir() else ""), f"./{address}", "" if path.is_dir() else _size(path)
    if len(paths) > _MOST_FILES:
        yield f"and {len(paths) - _MOST_FILES} more", f"./{quote(relpath(folder, page))}", ""


def _size(path: Path) -> str:
    size = path.stat().st_size
    for unit in ("bytes", "kB"):
        if size < 1000:
            return f"{size} {unit}"
        size = round(size / 1000)
    return f"{size} MB"
