"""The run page, run.html: the figures, tables, config and versions of one run directory, or of several, in one file.

The only file that imports jinja2. Everything that comes from data (names of classes, paths) is escaped, and the page's own
policy allows no script but its own and no address outside the page.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from os.path import relpath
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from medslip.errors import InputError
from medslip.evaluation.tables import display, filled_columns, from_records, is_missing, show, words
from medslip.files import from_json, read_json, written_whole

PAGE = "run.html"
"""The page's name in the run directory."""

METRICS_FORMAT = "medslip-metrics"
"""The entry ``format`` of every metrics.json."""

METRICS_VERSION = 4
"""The entry ``version`` of every metrics.json; docs/metrics.md says when it is raised."""

_FIGURES = {
    "differences.png": "Run B minus run A, with 95 % intervals; in colour where the interval excludes 0.",
    "predictions.png": "Where the model looks: its attention in colour, the true box, its probability.",
    "overlays.png": "Best, median and worst cases: the model's map in colour over the image, and the truth.",
    "box_precision_recall.png": "Predicted boxes from the most confident down; the dot is all of them.",
    "subgroups.png": "Mean AUROC within groups of images, with 95 % intervals.",
    "losses.png": "The course of training.",
    "roc.png": "ROC curve of each class; the dotted line is chance.",
    "precision_recall.png": "Precision and recall of each class; dotted: the share of positives; the dot: maximum F1.",
    "calibration.png": "Reliability: the share of images with the finding, by predicted probability.",
}
"""File -> caption, the most telling first."""

_NOTES = {
    "calibration": "Does a probability mean what it says? Of images given 0.8, eight in ten should have the finding.",
    "data_sets": "What was to be evaluated, and what became of it.",
    "differences": "Of many classes compared, 1 in 20 has an interval that excludes 0 by chance.",
    "operating_points": "Thresholds chosen on validation images, scored on the test images.",
    "sides": "Of findings on one side: how often the model knows which. Chance is 0.5.",
    "subgroups": "The same scores within groups of images. Small groups have wide intervals.",
}
"""Table -> how to read it."""

_FOLDED = ("class_scores", "reliability", "subgroup_classes")
"""Tables of details, which are folded away; so are tables of more than _MANY rows."""

_MANY = 40

_LONG = 40
"""Texts with more characters than this are wrapped."""

_ROWS = 10
"""Rows of predictions.csv that are shown."""


def write_page(folder: Path, title: str | None = None, runs: Sequence[Path] = ()) -> Path:
    """Write run.html into a folder, whole or not at all.

    The page shows what is in the run directory, whatever that is: the tables of metrics.json, figures (PNG), the first rows of
    predictions.csv, the validations in log.jsonl, config.yaml and versions; and the same of every folder ``seed_N`` within.

    Args:
        folder: Where the page goes.
        title: None takes the task and the data.
        runs: Other run directories to show on the same page.

    Returns:
        The page's path.
    """
    folder = Path(folder)
    own = [folder] if not runs or (folder / "metrics.json").is_file() else []
    shown = [*own, *(Path(run) for run in runs)]
    sections = [
        _section(part, folder)
        for run in shown
        for part in (run, *sorted(run.glob("seed_*"), key=lambda path: (len(path.name), path.name)))
        if part.is_dir()
    ]
    style, script = (_resource(f"run_page.{suffix}") for suffix in ("css", "js"))
    text = _template().render(
        title=title or sections[0]["title"],
        sections=sections,
        style=Markup(style),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )
    path = folder / PAGE
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")  # JSON can hold halves of characters
    return path


@cache
def _template() -> Template:
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_resource("run_page.html.jinja"))


def _resource(name: str) -> str:
    return resources.files("medslip.resources").joinpath(name).read_text(encoding="utf-8")


def _section(folder: Path, page: Path) -> dict[str, Any]:
    """What the page shows of one run directory: the names that the template reads."""
    metrics, trouble = _read_metrics(folder)
    tables = {name: from_records(value) for name, value in metrics.items() if _is_table(value)}
    settings = {key: value for key, value in metrics.items() if key not in tables}
    details = {"Data": settings.pop("data", None), "Versions": settings.pop("environment", None), "Settings": settings}
    config = folder / "config.yaml"
    files = sorted(path for path in folder.iterdir() if path.name != PAGE and not path.name.endswith(".partial"))
    return {
        "title": _title(metrics, folder),
        "folder": str(folder),
        "trouble": trouble,
        "tables": [_table(name, table) for name, table in (tables | dict(_csv_and_log(folder))).items()],
        "figures": list(_figures(folder)),
        "details": {name: _flat(value) for name, value in details.items() if value},
        "config": config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        "files": {path.name: f"./{quote(relpath(path, page).replace(chr(92), '/'))}" for path in files},
    }


def _read_metrics(folder: Path) -> tuple[dict[str, Any], str]:
    """metrics.json, and what is wrong with it."""
    path = folder / "metrics.json"
    if not path.is_file():
        return {}, ""
    try:
        metrics = read_json(path)
    except InputError as error:
        return {}, str(error)
    if not isinstance(metrics, dict):
        return {}, f"{path}: is not an object"
    version = metrics.get("version", METRICS_VERSION)
    if version != METRICS_VERSION:
        return metrics, f"{path}: has version {version}; this page is made for version {METRICS_VERSION}"
    return metrics, ""


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) and row for row in value)


def _title(metrics: Mapping[str, Any], folder: Path) -> str:
    task, data = str(metrics.get("task") or folder.name), metrics.get("data")
    about = data if isinstance(data, dict) else {}
    name = str(about.get("name") or PurePath(str(about.get("list") or about.get("path") or "")).name)
    seed = f", seed {metrics['seed']}" if "seed" in metrics else ""
    return f"{task[:1].upper()}{task[1:]}{seed}" + (f": {name}" if name else "")


def _table(name: str, table: pd.DataFrame) -> dict[str, Any]:
    shown, heading = display(table), words(name)
    kinds = [_css_class(table[column]) for column in filled_columns(table)]
    return {
        "title": heading[:1].upper() + heading[1:],
        "note": _NOTES.get(name, ""),
        "columns": list(zip(shown.columns, kinds, strict=True)),
        "rows": shown.to_numpy().tolist(),
        "folded": name in _FOLDED or len(table) > _MANY,
    }


def _css_class(column: pd.Series) -> str:
    if not all(isinstance(value, str) or is_missing(value) for value in column):
        return "number"
    return "long" if max(len(str(value)) for value in column) > _LONG else "text"


def _csv_and_log(folder: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """The first rows of predictions.csv, and the validations of a training."""
    path = folder / "predictions.csv"
    if path.is_file():
        try:
            names = dict.fromkeys(("image", "patient", "class", "view", "sex"), str)
            yield f"first rows of {path.name}", pd.read_csv(path, nrows=_ROWS, dtype=names)
        except (OSError, ValueError):
            pass
    log = folder / "log.jsonl"
    if log.is_file():
        entries = [_loaded(line) for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
        rows = [entry for entry in entries if entry.get("kind") == "validation"]
        if rows:
            yield "validation during training", pd.DataFrame(rows).drop(columns=["kind", "time"], errors="ignore")


def _loaded(line: str) -> dict[str, Any]:
    try:
        entry = from_json(line)
    except ValueError:
        return {}  # the last line of a run that was stopped
    return entry if isinstance(entry, dict) else {}


def _figures(folder: Path) -> Iterator[dict[str, Any]]:
    order = {name: place for place, name in enumerate(_FIGURES)}
    for path in sorted(folder.glob("*.png"), key=lambda path: (order.get(path.name, len(order)), path.name)):
        data = path.read_bytes() if path.is_file() else b""
        if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
            width, height = struct.unpack(">II", data[16:24])
            source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
            caption = _FIGURES.get(path.name, "")
            yield {"name": path.name, "caption": caption, "source": source, "width": width, "height": height}


def _flat(value: Any, above: str = "") -> dict[str, str]:
    """Nested settings as (path of keys in words) -> text."""
    if not isinstance(value, dict):
        return {
            above: show(value) if not isinstance(value, list) else ", ".join(show(item) for item in value) or "none"
        }
    found: dict[str, str] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{above} / {words(str(key))}" if above else words(str(key)))
    return found
