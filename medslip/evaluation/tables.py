"""Tables of results: DataFrames of Estimates, numbers and texts, and the forms in which people and programs read them.

A missing value (NaN, None) and an Estimate that is not defined are shown as "-", and are ``null`` in JSON.
"""

from __future__ import annotations

import hmac
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from medslip.evaluation.bootstrap import Estimate
from medslip.files import written_whole

Patients = Literal["hash", "keep"]
"""How predictions.csv names patients: by keyed hashes, or as the data set does."""

_KEY_FILE = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config", "medslip", "patient_key")
"""The user's own key, made when it is first needed; a run that is repeated then writes the same names."""

MISSING = "-"
"""What is shown of a missing value."""

_ESTIMATE = {field.name for field in fields(Estimate)}

WORDS = {
    "a": "A",
    "accuracy": "accuracy at max F1",
    "auroc": "AUROC",
    "b": "B",
    "box_precision": "box AP",
    "brier": "Brier score",
    "chance_ece": "ECE by chance",
    "chance_limit": "95 % of chance below",
    "contrast_to_noise": "contrast-to-noise ratio",
    "dice": "Dice",
    "dice_balanced": "balanced Dice",
    "difference": "B - A",
    "ece": "ECE",
    "empty_mask_accuracy": "empty-mask accuracy",
    "f1": "F1",
    "icl": "ICL",
    "iou": "IoU",
    "max_error": "largest error",
    "npv": "NPV",
    "pointing": "pointing game",
    "pointing_patch": "pointing game, any pixel",
    "ppv": "PPV",
    "protocl": "ProtoCL",
}
"""A score, a column or a word of one -> how people write it."""


def words(key: str) -> str:
    """A score, a column or a key as people write it; other names are left unchanged."""
    if key in WORDS:
        return WORDS[key]
    prefix, _, name = key.partition("_")
    if prefix == "auroc" and name:
        return f"AUROC {name}"
    if not (key.isidentifier() and key.islower()):
        return key
    return " ".join(WORDS.get(part, part) if len(part) > 1 else part for part in key.split("_"))


def show(value: Any, spec: str = ".3f") -> str:
    """A cell as text.

    Args:
        value: An Estimate, a number, a text, a list or nothing.
        spec: The format of numbers; very small and very large ones have three significant digits instead.
    """
    if isinstance(value, list | tuple):
        return ", ".join(show(item, spec) for item in value)
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Estimate):
        return format(value, spec)
    if is_missing(value):
        return "" if isinstance(value, str) else MISSING
    if isinstance(value, float | np.floating):
        return f"{value:{spec}}" if value == 0 or 1e-3 <= abs(float(value)) < 1e4 else f"{value:.3g}"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return str(value)


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, pandas' NA, an empty text or list, or an Estimate that is not defined."""
    if isinstance(value, str | list):
        return not value
    if isinstance(value, Estimate):
        return math.isnan(value.value)
    return value is None or value is pd.NA or (isinstance(value, float | np.floating) and math.isnan(value))


def display(table: pd.DataFrame, spec: str = ".3f") -> pd.DataFrame:
    """The table as texts under readable headings, without columns that hold nothing.

    Args:
        table: A table of results.
        spec: The format of numbers.
    """
    kept = filled_columns(table)
    shown = table[kept].map(lambda value: show(value, spec)).astype(str)
    for name in {"score", "rule", "attribute", "map"} & set(kept):
        shown[name] = shown[name].map(words)
    return shown.rename(columns=words)


def filled_columns(table: pd.DataFrame) -> list[str]:
    """The columns that hold something."""
    return [str(name) for name in table if not all(map(is_missing, table[name]))]


def to_text(table: pd.DataFrame, spec: str = ".3f") -> str:
    """The table for a terminal, columns aligned and the headings ruled off; the first column and notes to the left."""
    shown = display(table, spec)
    rows = [list(shown.columns), *shown.to_numpy().tolist()]
    left = [k == 0 or name in ("note", "group", "findings", "map") for k, name in enumerate(shown.columns)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if aligned else cell.rjust(width)
            for cell, width, aligned in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def show_tables(tables: Mapping[str, pd.DataFrame]) -> None:
    """Print the main tables of a run, without the bins of the calibration and the classes of each subgroup."""
    for name in ("scores", "calibration", "operating_points", "subgroups", "subgroup_gaps"):
        table = tables.get(name, pd.DataFrame())
        if name == "subgroup_gaps" and len(table):  # the page has the classes, and attributes with one group alone
            table = table[table["highest"] != table["lowest"]].drop(columns="classes")
        if len(table):
            print(f"\n{words(name)}\n{to_text(table)}")


def to_markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, its columns aligned as text too."""
    shown = display(table)
    rows = [[cell.replace("|", "\\|") for cell in row] for row in [list(shown.columns), *shown.to_numpy().tolist()]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows)


def to_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON has them: Estimates as ``value``, ``low``, ``high``, ``resamples`` and ``left_out``; missing as None."""
    return [{str(key): _to_json(value) for key, value in row.items()} for row in table.to_dict("records")]


def _to_json(value: Any) -> Any:
    if isinstance(value, Estimate):
        return value.to_dict()
    return None if is_missing(value) and not isinstance(value, str | list) else value


def from_records(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A table from the rows that ``to_records`` gave, as read from JSON."""
    return pd.DataFrame([{key: _from_json(value) for key, value in row.items()} for row in records], dtype=object)


def _from_json(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if value.keys() != _ESTIMATE or not all(
        entry is None or isinstance(entry, int | float) for entry in value.values()
    ):
        return json.dumps(value, ensure_ascii=False)
    entries: dict[str, Any] = {key: math.nan if entry is None else entry for key, entry in value.items()}
    return Estimate(**entries)


def write_csv(table: pd.DataFrame, path: Path, float_format: str | None = None) -> None:
    """Write a table as CSV, whole or not at all; an Estimate x becomes the columns ``x``, ``x_low`` and ``x_high``.

    Args:
        table: A table of results or of predictions.
        path: The file.
        float_format: How numbers are written; None keeps every digit.
    """
    columns: dict[str, Any] = {}
    for name, column in table.items():
        columns[str(name)] = column.astype(int) if column.dtype == bool else column
        if column.map(lambda value: isinstance(value, Estimate)).any():
            for end, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                columns[f"{name}{suffix}"] = column.map(lambda value, end=end: getattr(value, end, value))
    with written_whole(path) as partial:
        pd.DataFrame(columns).to_csv(partial, index=False, float_format=float_format)


@cache
def _own_key() -> str:
    """The user's key; where it cannot be kept, one for this process."""
    path, key = _KEY_FILE.expanduser(), secrets.token_hex()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key)
        return path.read_text(encoding="utf-8") or key  # empty while another process writes it
    return key


def write_predictions(table: pd.DataFrame, folder: Path, patients: Patients, float_format: str | None = None) -> None:
    """Write a run's predictions.csv, in which a patient's images share a name that does not tell who it is.

    The names are hashes with a secret key, as the few digits of a hospital's number could be found by trying them all: the
    environment variable MEDSLIP_PATIENT_KEY or, without one, a random key that is kept in the user's own _KEY_FILE.

    Args:
        table: The predictions, with a column ``patient``, empty where unknown.
        folder: The run directory.
        patients: Whether to hash the names or to keep them.
        float_format: How numbers are written; None keeps every digit.
    """
    if patients == "hash":
        key = os.fsencode(os.environ.get("MEDSLIP_PATIENT_KEY") or _own_key())

        def hashed(name: str) -> str:
            return name and "p" + hmac.new(key, name.encode("utf-8", "surrogatepass"), "sha256").hexdigest()[:16]

        table = table.assign(patient=table["patient"].map(hashed))
    write_csv(table, folder / "predictions.csv", float_format)
