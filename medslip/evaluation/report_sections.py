"""What a metrics.json says, in the order in which one reads it: main scores, classes, and the rest as it comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from medslip.evaluation.classification import SCORES
from medslip.evaluation.grounding_report import ALL, GROUNDING_WORDS, SIZES
from medslip.evaluation.grounding_scores import MAPS
from medslip.evaluation.grounding_scores import SCORES as GROUNDING_SCORES
from medslip.evaluation.report_judgement import judgement_blocks
from medslip.evaluation.report_side_by_side import difference_blocks, difference_facts, result_blocks
from medslip.evaluation.report_values import (
    Block,
    Cell,
    Group,
    Pairs,
    Plot,
    Table,
    as_list,
    as_mapping,
    blocks,
    cell,
    cell_at,
    flat,
    heading,
    is_number,
    picked_table,
    plain,
    record_table,
    words,
)

_NOTES = {
    "calibration": "Whether a probability means what it says: of images given 0.8, eight in ten should have the finding.",
    "operating_points": "Thresholds chosen on validation images, at work on the scored ones.",
    "subgroups": "The same scores within parts of the data. Small parts have wide intervals.",
}
_SEGMENTATION_FACTS = ("dice_marked", "dice", "dice_of_predicting_nothing")
"""Where most images have nothing to find, a Dice over all of them says little by itself."""

_CLASS_COLUMNS = ("name", "positives", "negatives", "scores", "threshold", "undefined")


@dataclass(frozen=True)
class Fact:
    """A number at the top of a page.

    Attributes:
        name: What it is.
        cell: Its value.
    """

    name: str
    cell: Cell


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: Its heading.
        blocks: What it shows.
        note: How to read it.
    """

    title: str
    blocks: tuple[Block, ...]
    note: str = ""


def title_of(metrics: Mapping[str, Any]) -> str:
    """Task and data, as a title."""
    task = str(metrics.get("task") or "Run")
    data = as_mapping(metrics.get("data"))
    name = str(data.get("name") or PurePath(str(data.get("list") or data.get("path") or "")).name)
    return heading(task) + (f": {name}" if name else "")


def facts(metrics: Mapping[str, Any]) -> tuple[Fact, ...]:
    """The main score, and how much it was measured on."""
    found: list[Fact] = []
    macro, scores = as_mapping(metrics.get("macro")), as_mapping(metrics.get("scores"))
    if (mean := cell_at(macro, ("scores", "auroc"))).key is not None:
        found.append(Fact("mean AUROC", mean))
    elif scores:
        over = f", mean of {len(seeds)} seeds" if len(seeds := as_list(metrics.get("seeds"))) > 1 else ""
        keys = [key for key in _SEGMENTATION_FACTS if key in scores] or [next(iter(scores))]
        found += [Fact(words(key) + over, cell(scores[key])) for key in keys]
    if group := _every_finding(metrics.get(SIZES[0])):
        for name, source in (("", "model"), (", prior", "prior")):
            found.append(Fact(f"pointing game{name}", cell_at(group, ("scores", source, "pointing"))))
    if _are_records(metrics.get("differences")):
        found += [Fact(name, shown) for name, shown in difference_facts(metrics["differences"])]
    if _are_records(asked := as_list(metrics.get("data_sets"))):
        done = sum(entry.get("state") == "done" for entry in asked)
        found.append(Fact("evaluations", Cell(f"{done} of {len(asked)}")))
    data = as_mapping(metrics.get("data"))
    counts = ("images", "patients", "findings", "train", "valid", "test")
    found += [Fact(words(key), plain(data[key])) for key in counts if is_number(data.get(key))]
    if classes := as_list(metrics.get("classes")):
        found.append(Fact("classes", plain(len(classes))))
    return tuple(found[:6])


def sections(metrics: Mapping[str, Any]) -> list[Section]:
    """Everything that a metrics.json says but ``data``, ``environment`` and its format.

    Args:
        metrics: Any mapping; keys that are not known come last, folded.

    Returns:
        What there is, in reading order.
    """
    left = {
        key: value for key, value in metrics.items() if key not in ("format", "version", "task", "data", "environment")
    }
    note = _bootstrap_note(as_mapping(left.get("bootstrap")))
    found: list[Section] = []
    if macro := as_mapping(left.get("macro")):
        left.pop("macro")
        found.append(Section("Scores", _macro(macro, as_mapping(left.pop("macro_without", None))), note))
    if scores := as_mapping(left.get("scores")):
        left.pop("scores")
        seeds, spread = as_list(left.get("seeds")), as_mapping(left.get("spread"))
        if spread.keys() == scores.keys():
            left.pop("spread")
        else:
            spread = {}
        text = "Dot: the mean; strokes: the seeds." if len(seeds) > 1 else note
        found.append(Section("Scores", _scores(scores, spread, seeds), text))
    for size in SIZES:
        if _are_groups(left.get(size)):
            text = (
                "Findings whose largest box has more area than one patch."
                if size == "larger"
                else "The other findings."
            )
            found.append(
                Section(
                    f"{heading(size)} findings",
                    _grounding(left.pop(size)),
                    f"{text} Strokes beside the dot: chance levels. {note}",
                )
            )
    if _are_records(left.get("classes")):
        found.append(Section("Classes", (_classes(left.pop("classes"), as_mapping(metrics.get("macro"))),), note))
    for key, text in _NOTES.items():
        if value := left.pop(key, None):
            found.append(Section(heading(key), judgement_blocks(key, value), text))
    if _are_records(left.get("differences")):
        text = f"{note} Of many classes, 1 in 20 leaves out 0 by chance. The stroke: no difference.".strip()
        found.append(Section("Differences", difference_blocks(left.pop("differences"), metrics), text))
    if _are_records(left.get("results")):
        text = f"{note} Findings are larger or smaller than a patch.".strip()
        found.append(Section("Results", result_blocks(left.pop("results")), text))
    if _are_records(left.get("data_sets")):
        found.append(Section("Data sets", blocks(left.pop("data_sets")), "What was asked for, and what became of it."))
    single = {key: value for key, value in left.items() if not isinstance(value, Mapping | list)}
    many = {key: value for key, value in left.items() if isinstance(value, Mapping | list)}
    rest: list[Block] = [Pairs(tuple(flat(single).items()))] if single else []
    rest += [Group(heading(str(key)), blocks(value)) for key, value in many.items()]
    return [*found, Section("Settings and origin", tuple(rest))] if rest else found


def _are_records(value: Any) -> bool:
    return bool(as_list(value)) and all(isinstance(entry, Mapping) for entry in value)


def _are_groups(value: Any) -> bool:
    return _are_records(value) and all(as_mapping(as_mapping(entry.get("scores")).get("model")) for entry in value)


def _every_finding(groups: Any) -> Mapping[str, Any]:
    return next((group for group in as_list(groups) if as_mapping(group).get("name") == ALL), {})


def _bootstrap_note(bootstrap: Mapping[str, Any]) -> str:
    if not bootstrap.get("resamples"):
        return ""
    level = bootstrap.get("level")
    share = f"{100 * level:g} % intervals" if level is not None and is_number(level) else "Intervals"
    unit = bootstrap.get("unit")
    return f"{share} in brackets: {bootstrap['resamples']} bootstrap resamples" + (f", whole {unit}s." if unit else ".")


def _macro(macro: Mapping[str, Any], without: Mapping[str, Any]) -> tuple[Block, ...]:
    """A row a score, a column a mean; below, of which classes."""
    means = [macro, *(as_mapping(entry) for entry in without.values())]
    names = [str(mean.get("name", "mean")) for mean in means]
    rows = []
    for key in as_mapping(macro.get("scores")):
        cells = [cell_at(mean, ("scores", key)) for mean in means]
        rows.append((Cell(words(key)), *cells[:1], _unit_plot(cells[0]), *cells[1:]))
    table = Table(("score", names[0], _UNIT, *names[1:]), tuple(rows), plots={_UNIT: ("0", "1")})
    shown = {"name", "scores"}
    about: list[Block] = [
        Group(f"{name}: which classes", blocks({key: value for key, value in mean.items() if key not in shown}))
        for name, mean in zip(names, means, strict=True)
        if set(mean) - shown
    ]
    return table, *about


_UNIT = "0 to 1"
"""Heading of a column of plots on a line from 0 to 1."""


def _unit_plot(shown: Cell, others: Sequence[Any] = ()) -> Cell:
    """A plot from 0 to 1; nothing where the value does not lie there."""
    if shown.key is None or not 0 <= shown.key <= 1:
        return Cell("")
    low, high = shown.interval or (None, None)
    ticks = tuple(float(other) for other in others if is_number(other) and 0 <= other <= 1)
    return Cell("", shown.key, shown.note, plot=Plot(shown.key, low, high, ticks=ticks))


def _scores(scores: Mapping[str, Any], spread: Mapping[str, Any], seeds: Sequence[Any]) -> tuple[Block, ...]:
    """A row a score: of one run with its interval, or over seeds with the deviation and each seed's own."""
    if not spread:
        cells = {key: cell(value) for key, value in scores.items()}
        rows = tuple((Cell(words(key)), shown, _unit_plot(shown)) for key, shown in cells.items())
        return (Table(("score", "value", _UNIT), rows, plots={_UNIT: ("0", "1")}),)
    length = max(len(as_list(as_mapping(entry).get("by_seed"))) for entry in spread.values())
    names = [f"seed {seed}" for seed in seeds] if len(seeds) == length else [f"run {k + 1}" for k in range(length)]
    by_seed = tuple(_seeds_row(key, value, as_mapping(spread.get(key)), length) for key, value in scores.items())
    return (Table(("score", "mean", "deviation", _UNIT, *names), by_seed, plots={_UNIT: ("0", "1")}),)


def _seeds_row(key: str, value: Any, entry: Mapping[str, Any], length: int) -> tuple[Cell, ...]:
    mean, values = cell(value), as_list(entry.get("by_seed"))
    each = [cell(value) for value in values] + [Cell("")] * (length - len(values))
    plot = _unit_plot(mean, values if len(values) > 1 else ())
    return Cell(words(key)), mean, cell(entry.get("deviation")), plot, *each


def _grounding(groups: Sequence[Mapping[str, Any]]) -> tuple[Block, ...]:
    found: list[Block] = []
    if every := _every_finding(groups):
        found.append(_beside_chance(every))
    classes = [group for group in groups if group is not every]
    if classes:
        found.append(_by_class(classes, every))
        found.append(Group("Every value of every class, chance levels too", (record_table((None, g) for g in groups),)))
    return tuple(found)


def _beside_chance(group: Mapping[str, Any]) -> Table:
    """A row a score: the model, the chance levels, and what it has above the prior."""
    scores = group["scores"]
    model, above = scores["model"], as_mapping(group.get("above_prior"))
    chance = [name for name in scores if name != "model"]
    rows = []
    for key in model:
        shown, others = cell(model[key]), [as_mapping(scores[name]).get(key) for name in chance]
        plot = _unit_plot(shown, [as_mapping(other).get("value") for other in others])
        cells = [Cell(cell(other).text, cell(other).key, cell(other).note) for other in others]
        rows.append((Cell(GROUNDING_WORDS.get(key, words(key))), shown, plot, *cells, cell(above.get(key))))
    columns = (str(group.get("name")), "model", _UNIT, *chance, "above the prior")
    return Table(columns, tuple(rows), plots={_UNIT: ("0", "1")})


def _by_class(classes: Sequence[Mapping[str, Any]], every: Mapping[str, Any]) -> Table:
    """A row a class: the pointing game beside its chance levels, then the model's other scores."""
    columns = {"class": ("name",), "findings": ("findings",), "pointing game": ("scores", "model", "pointing")}
    columns |= {name: ("scores", name, "pointing", "value") for name in MAPS[1:]}
    for key in GROUNDING_SCORES[1:]:
        columns[GROUNDING_WORDS.get(key, words(key))] = ("scores", "model", key, "value")
    return picked_table(classes, columns, "pointing game", [every] if every else [])


def _classes(classes: Sequence[Mapping[str, Any]], macro: Mapping[str, Any]) -> Table:
    """A row a class, columns in reading order; the mean below."""

    def place(key: str) -> int:
        return _CLASS_COLUMNS.index(key) if key in _CLASS_COLUMNS else len(_CLASS_COLUMNS)

    rows = [(None, {key: entry[key] for key in sorted(entry, key=place)}) for entry in classes]
    mean = {key: value for key, value in macro.items() if key in ("name", "scores")}
    return record_table(rows, [(None, mean)] if mean else [], plot=words(SCORES[0]))
