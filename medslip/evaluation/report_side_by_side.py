"""How a report shows several runs side by side: two that are compared, and the results on many data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medslip.evaluation.comparison_report import SCORE_WORDS, means_among
from medslip.evaluation.grounding_report import ALL
from medslip.evaluation.report_values import (
    Block,
    Cell,
    Group,
    Pairs,
    Table,
    as_list,
    as_mapping,
    cell,
    cell_at,
    heading,
    plain,
    record_table,
    with_plot,
    words,
)

Entry = Mapping[str, Any]

_DIFFERENCE = "B - A"
_MEAN = "mean of"


def difference_blocks(differences: Sequence[Entry], metrics: Entry) -> tuple[Block, ...]:
    """Every difference: a table a mean, a row a score; then a table a score, a row a class, all but the first folded.

    Args:
        differences: The entry ``differences`` of a comparison's metrics.json.
        metrics: All of it, for the names of the runs and the seeds.
    """
    names = [(side.upper(), plain(str(as_mapping(metrics.get(side)).get("run", "")))) for side in "ab"]
    seeds = as_list(metrics.get("seeds"))
    found: list[Block] = [Pairs(tuple(names))]
    for group, entries in _by("group", differences).items():
        of_name = _by("name", entries)
        where = f", findings {group} than a patch" if group else ""
        means = means_among(list(of_name))
        for name in means:
            rows = [(_spelt(entry.get("score")), entry) for entry in of_name[name]]
            found.append(Group(_part(of_name[name][0]), (_differences("score", rows, seeds),), folded=False))
        classes = [entry for name, inner in of_name.items() if name not in means for entry in inner]
        for k, (score, of_score) in enumerate(_by("score", classes).items()):
            rows = [(str(entry.get("name")), entry) for entry in of_score]
            title = f"{_spelt(score)}{where}, by class"
            found.append(Group(title, (_differences("class", rows, seeds),), folded=k > 0))
    return tuple(found)


def difference_facts(differences: Sequence[Entry]) -> list[tuple[str, Cell]]:
    """The first score of the first mean: of run A, of run B, and the difference.

    Args:
        differences: As for ``difference_blocks``.
    """
    of_group = next(iter(_by("group", differences).values()), [])
    of_name = _by("name", of_group)
    if not of_name:
        return []
    entry = of_name[means_among(list(of_name))[0]][0]
    what = f"{_spelt(entry.get('score'))}, {_part(entry)}"
    return [
        (f"{what}: {side}", cell_at(entry, (key,)))
        for side, key in (("A", "a"), ("B", "b"), (_DIFFERENCE, "difference"))
    ]


def _part(entry: Entry) -> str:
    """The mean and the findings that a difference is of."""
    return f"{entry.get('name')} {entry['group']} than a patch" if entry.get("group") else str(entry.get("name"))


def _differences(first: str, rows: Sequence[tuple[str, Entry]], seeds: Sequence[Any]) -> Table:
    """A row a difference; of several seeds, each seed's too."""
    each = [f"seed {seed}" for seed in seeds] if len(seeds) > 1 else []
    shown = []
    for name, entry in rows:
        by_seed = [cell(value) for value in as_list(entry.get("by_seed"))]
        of_seeds = by_seed if len(by_seed) == len(each) else [Cell("")] * len(each)
        cells = (cell_at(entry, (key,)) for key in ("cases", "a", "b", "difference", "clear"))
        shown.append((Cell(name), *cells, *of_seeds))
    columns = (first, "n", "A", "B", _DIFFERENCE, "leaves out 0", *each)
    return with_plot(Table(columns, tuple(shown)), _DIFFERENCE, (0.0,))


def result_blocks(results: Sequence[Entry]) -> tuple[Block, ...]:
    """A table a task, of the means on every data set; then, folded, the classes of each.

    Args:
        results: The entry ``results`` of an evaluation of all data sets.
    """
    found: list[Block] = []
    for task, of_task in _by("task", results).items():
        means: list[Entry] = []
        folded: list[Block] = []
        for data_set, entries in _by("data_set", of_task).items():
            of_all = means_among([str(entry.get("name")) for entry in entries])
            means += [entry for entry in entries if str(entry.get("name")) in of_all]
            classes = [entry for entry in entries if str(entry.get("name")) not in of_all]
            if classes:
                folded.append(Group(f"{data_set}, by class", (_results(classes, "class"),)))
        found.append(Group(heading(task), (_results(means, _MEAN), *folded), folded=False))
    return tuple(found)


def _results(entries: Sequence[Entry], named: str) -> Table:
    """A row a result; without the part of the findings and the map where all are of one, and without a name for all."""
    about = {"data set": "data_set", named: "name", "findings": "subset", "map": "map"}
    if all(entry.get("name") == ALL for entry in entries):
        del about[named]
    for column in ("findings", "map"):
        if len({str(entry.get(about[column])) for entry in entries}) < 2:
            del about[column]
    known = ("data_set", "task", "name", "subset", "map", "scores")
    records: list[Entry] = []
    for entry in entries:
        first = {column: entry.get(key) for column, key in about.items()}
        if named == _MEAN and named in first:
            first[named] = str(first[named]).removeprefix(f"{_MEAN} ")
        rest = {key: value for key, value in entry.items() if key not in known}
        scores = {_spelt(key): value for key, value in as_mapping(entry.get("scores")).items()}
        records.append({**first, **rest, "scores": scores})
    return record_table((None, record) for record in records)


def _by(key: str, entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """What the entries have there -> those that have it."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(str(entry.get(key, "")), []).append(entry)
    return found


def _spelt(score: Any) -> str:
    return SCORE_WORDS.get(str(score), words(str(score)))
