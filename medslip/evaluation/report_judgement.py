"""How a report shows calibration, operating points and subgroups: what one compares side by side, then every value, folded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medslip.evaluation.report_values import (
    Block,
    Group,
    Table,
    Text,
    as_list,
    as_mapping,
    blocks,
    cell_at,
    heading,
    picked_table,
    words,
)

_CALIBRATION = {
    "class": ("name",),
    "ECE": ("scores", "ece"),
    "ECE by chance": ("chance_ece",),
    "95 % of chance below": ("chance_limit",),
    "largest error": ("scores", "max_error"),
    "Brier": ("scores", "brier"),
    "ECE, recalibrated": ("recalibrated", "scores", "ece"),
    "Brier, recalibrated": ("recalibrated", "scores", "brier"),
    "slope": ("recalibrated", "slope"),
    "intercept": ("recalibrated", "intercept"),
}
_POINTS = {
    "threshold": ("chosen", "threshold"),
    "sensitivity": ("scores", "sensitivity"),
    "specificity": ("scores", "specificity"),
    "PPV": ("scores", "ppv"),
    "NPV": ("scores", "npv"),
    "sensitivity on validation": ("chosen", "validation_sensitivity"),
    "specificity on validation": ("chosen", "validation_specificity"),
}
_EVERY = "Every value"


def judgement_blocks(key: str, value: Any) -> tuple[Block, ...]:
    """One of JUDGEMENTS as blocks; as any JSON value where its shape is not known."""
    shown = JUDGEMENTS[key](value) if isinstance(value, Mapping) else ()
    return (*shown, Group(_EVERY, blocks(value))) if shown else blocks(value)


def _calibration(value: Mapping[str, Any]) -> tuple[Block, ...]:
    classes = [entry for entry in as_list(value.get("classes")) if isinstance(entry, Mapping)]
    if not classes:
        return ()
    chosen = {name: path for name, path in _CALIBRATION.items() if any(_has(entry, path) for entry in classes)}
    return (*_chosen_on(value, "Recalibrated"), picked_table(classes, chosen, "ECE"))


def _has(entry: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    for key in path[:-1]:
        entry = as_mapping(entry.get(key))
    return path[-1] in entry


def _chosen_on(value: Mapping[str, Any], what: str) -> tuple[Block, ...]:
    validation = as_mapping(value.get("validation"))
    if not validation:
        return ()
    return (Text(f"{what} on {validation.get('name')}, {validation.get('images')} images."),)


def _operating_points(value: Mapping[str, Any]) -> tuple[Block, ...]:
    classes = [entry for entry in as_list(value.get("classes")) if isinstance(entry, Mapping)]
    rules = [key for entry in classes[:1] for key, inner in entry.items() if "chosen" in as_mapping(inner)]
    tables: list[Block] = []
    for rule in rules:
        columns = {"class": ("name",), **{name: (rule, *path) for name, path in _POINTS.items()}}
        share = value.get("specificity")
        title = f"{heading(rule)} of at least {share}" if rule == "at_specificity" and share else heading(rule)
        tables.append(Group(title, (picked_table(classes, columns, "sensitivity"),), folded=False))
    return (*_chosen_on(value, "Thresholds chosen"), *tables) if tables else ()


def _subgroups(value: Mapping[str, Any]) -> tuple[Block, ...]:
    return tuple(
        Group(heading(str(attribute)), tables, folded=False)
        for attribute, entry in value.items()
        if (tables := _attribute(as_mapping(entry)))
    )


def _attribute(entry: Mapping[str, Any]) -> tuple[Block, ...]:
    """The groups' means of each score, and their gap."""
    groups = [group for group in as_list(entry.get("groups")) if isinstance(group, Mapping)]
    if not groups:
        return ()
    comparisons = {key: as_mapping(found) for key, found in as_mapping(entry.get("comparisons")).items()}
    rows = [dict(group) for group in groups]
    for key, found in comparisons.items():
        means = as_mapping(found.get("means"))
        rows = [row | {f"mean {key}": means.get(str(row.get("name")), "")} for row in rows]
    columns: dict[str, tuple[str, ...]] = {"group": ("name",)}
    columns |= {key: (key,) for key in ("images", "patients", "compared")}
    columns |= {f"mean {words(key)}": (f"mean {key}",) for key in comparisons}
    table: Table = picked_table(rows, columns, next((name for name in columns if name.startswith("mean ")), None))
    gaps = []
    for key, found in comparisons.items():
        gap = cell_at(found, ("gap",))
        if gap.key is None:
            continue  # one group alone
        many = len(as_list(found.get("classes")))
        gaps.append(
            f"{words(key)}: {gap.text} {gap.span}".strip()
            + f" ({found.get('highest')} above {found.get('lowest')}"
            + (f", mean of {many} class{'es' * (many != 1)})" if many else ")")
        )
    return (table, Text(f"Gap in {'; '.join(gaps)}.")) if gaps else (table,)


JUDGEMENTS: Mapping[str, Callable[[Mapping[str, Any]], tuple[Block, ...]]] = {
    "calibration": _calibration,
    "operating_points": _operating_points,
    "subgroups": _subgroups,
}
"""Entries of a metrics.json that are shown by a way of their own."""
