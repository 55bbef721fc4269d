"""The table of many evaluations in the shape of the papers' tables, as Markdown and as CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medslip.evaluation.classification import SCORES, ClassScores, MacroScores, Scores, summarise
from medslip.evaluation.grounding_report import ALL, SIZES
from medslip.evaluation.grounding_scores import MAPS, GroupScores, Score
from medslip.evaluation.text_table import with_interval

_CLASSIFICATION = {"auroc": "AUC", "max_f1": "F1", "accuracy": "ACC", "average_precision": "average precision"}
_GROUNDING = {
    "pointing": "pointing game",
    "pointing_patch": "pointing game, any pixel",
    "iou": "IoU",
    "dice": "Dice",
    "pixel_auroc": "pixel AUROC",
    "box_precision": "box AP",
}


@dataclass(frozen=True)
class Result:
    """The scores of one class, or one mean, of one evaluation.

    Attributes:
        data_set: As the user named it.
        task: What was done.
        subset: The part of the findings: "larger" or "smaller" than a patch; "" elsewhere.
        name: The class, or a mean in words.
        map: What answers a grounding: "model", "uniform" or "prior"; "model" elsewhere.
        n: How many images or findings they are of.
        scores: Score -> its value.
    """

    data_set: str
    task: str
    subset: str
    name: str
    map: str
    n: int
    scores: Mapping[str, Score]

    def lines(self) -> Iterator[dict[str, Any]]:
        """As results.csv has it, a line a score."""
        about = {
            "data_set": self.data_set,
            "task": self.task,
            "subset": self.subset,
            "name": self.name,
            "map": self.map,
        }
        for key, score in self.scores.items():
            low, high = (None, None) if score.interval is None else (score.interval.low, score.interval.high)
            yield {**about, "score": key, "value": score.value, "low": low, "high": high, "n": self.n}


@dataclass(frozen=True)
class Classified:
    """A data set's classification.

    Attributes:
        name: As the user named it.
        scores: What came out.
        leave_out: Classes for which a second mean, without that class, is wanted.
    """

    name: str
    scores: Scores
    leave_out: tuple[str, ...] = ()

    def lines(self) -> list[tuple[str, int, ClassScores | MacroScores]]:
        """Name, images with a known label, and scores of every class, then of the means."""
        scores = self.scores
        means = [summarise(scores), *(summarise(scores, (name,)) for name in self.leave_out)]
        return [
            *((entry.name, entry.positives + entry.negatives, entry) for entry in scores.classes),
            *((mean.name, scores.images, mean) for mean in means),
        ]

    def results(self) -> Iterator[Result]:
        """Of every class, then of the means."""
        for name, n, entry in self.lines():
            scores = {key: Score(getattr(entry, key), entry.intervals.get(key)) for key in SCORES}
            yield Result(self.name, "zero-shot classification", "", name, "model", n, scores)


@dataclass(frozen=True)
class Grounded:
    """A data set's grounding.

    Attributes:
        name: As the user named it.
        groups: Size -> every class, then all findings.
    """

    name: str
    groups: Mapping[str, Sequence[GroupScores]]

    def results(self) -> Iterator[Result]:
        """Of every class, then of all findings; each map's."""
        for size in SIZES:
            for group in self.groups[size]:
                for which in MAPS:
                    yield Result(self.name, "grounding", size, group.name, which, group.findings, group.scores[which])


def results_page(
    title: str, classified: Sequence[Classified], grounded: Sequence[Grounded], missing: Sequence[str]
) -> str:
    """All results as Markdown.

    One table of data sets, classification; one a data set of several classes; one of data sets, grounding; what is missing.

    Args:
        title: Of the page.
        classified: Data sets' classifications.
        grounded: Data sets' groundings.
        missing: A line for each data set without results, saying why.
    """
    parts = [f"# {title}", "Brackets hold 95 % intervals over resampled patients."]
    if classified:
        parts += ["## Zero-shot classification", _data_sets(classified)]
        parts.append("F1 is the maximum over thresholds, ACC the accuracy at that threshold; means over classes.")
        for entry in classified:
            if len(entry.scores.classes) > 1:
                parts += [f"### {entry.name}, by class", _by_class(entry)]
                left_out = summarise(entry.scores).left_out
                parts += (
                    ["\n".join(f"Not in the mean: {name} ({why})." for name, why in left_out.items())]
                    if left_out
                    else []
                )
    if grounded:
        parts += ["## Grounding", _grounding(grounded)]
        parts.append(
            "Pointing game: the maximum lies inside a box; any pixel, the published rule: the maximal patch touches one. "
            "uniform: a map that is the same everywhere; prior: each class's mean box."
        )
    if missing:
        parts += ["## Without results", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts) + "\n"


def _data_sets(classified: Sequence[Classified]) -> str:
    lines = []
    for entry in classified:
        mean = summarise(entry.scores)
        lines.append([entry.name, f"{entry.scores.images:,}", str(len(mean.classes)), *_cells(mean)])
    return _markdown(["data set", "images", "classes", *_CLASSIFICATION.values()], lines)


def _by_class(entry: Classified) -> str:
    lines = []
    for name, n, scores in entry.lines():
        positives = f"{scores.positives:,}" if isinstance(scores, ClassScores) else ""
        lines.append([name, f"{n:,}", positives, *_cells(scores)])
    return _markdown(["class", "images", "positives", *_CLASSIFICATION.values()], lines)


def _cells(entry: ClassScores | MacroScores) -> list[str]:
    return [with_interval(getattr(entry, score), entry.intervals.get(score)) for score in _CLASSIFICATION]


def _grounding(grounded: Sequence[Grounded]) -> str:
    lines = []
    for entry in grounded:
        for size in SIZES:
            for group in (group for group in entry.groups[size] if group.name == ALL):
                for which in MAPS:
                    about = (
                        [entry.name, f"{size} than a patch", f"{group.findings:,}"] if which == MAPS[0] else [""] * 3
                    )
                    scores = [group.scores[which][score] for score in _GROUNDING]
                    lines.append([*about, which, *(with_interval(score.value, score.interval) for score in scores)])
    return _markdown(["data set", "findings", "n", "map", *_GROUNDING.values()], lines)


def _markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also align as text."""
    rows = [[cell.replace("|", "\\|") for cell in line] for line in (header, *lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows)
