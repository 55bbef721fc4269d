"""The one form that an estimate has in every metrics.json: a value with its interval. docs/metrics.md shows all shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from medslip.evaluation.bootstrap import Interval
from medslip.evaluation.subgroups import GROUP_SCORES, AttributeScores, Comparison


def estimate(value: float | None, interval: Interval | None = None) -> dict[str, Any]:
    """An estimate.

    Args:
        value: None where it is not defined.
        interval: Its interval; None without.

    Returns:
        ``value`` and ``interval``: None, or ``low``, ``high``, ``resamples``, ``left_out``.
    """
    return {"value": value, "interval": None if interval is None else asdict(interval)}


def with_scores(record: Any, names: Sequence[str]) -> dict[str, Any]:
    """A record's entries, its scores as estimates under ``scores``.

    Args:
        record: A dataclass with an attribute a score, and ``intervals``, score -> interval.
        names: Of the scores.
    """
    entries = {key: value for key, value in asdict(record).items() if key not in (*names, "intervals")}
    scores = {name: estimate(getattr(record, name), record.intervals.get(name)) for name in names}
    return {**entries, "scores": scores}


def subgroup_entries(attributes: Mapping[str, AttributeScores]) -> dict[str, Any] | None:
    """The entry ``subgroups``, None without any attribute.

    Args:
        attributes: Attribute -> its scores.
    """
    return {
        attribute: {
            "unknown": found.unknown,
            "groups": [
                {**asdict(group), "classes": [with_scores(entry, GROUP_SCORES) for entry in group.classes]}
                for group in found.groups
            ],
            "comparisons": {key: _side_by_side(comparison) for key, comparison in found.comparisons.items()},
        }
        for attribute, found in attributes.items()
    } or None


def _side_by_side(comparison: Comparison) -> dict[str, Any]:
    return {
        "classes": comparison.classes,
        "means": {mean.group: estimate(mean.value, mean.interval) for mean in comparison.means},
        "highest": comparison.highest,
        "lowest": comparison.lowest,
        "gap": estimate(comparison.gap, comparison.interval),
    }
