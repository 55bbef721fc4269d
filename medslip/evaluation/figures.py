"""Figures of a run. The only file that imports matplotlib; its global state is left as it was.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart. Every figure is a PNG at 150 dpi, written whole
or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from sklearn.metrics import precision_recall_curve, roc_curve

from medslip.evaluation.bootstrap import Estimate
from medslip.evaluation.classification import class_rows
from medslip.evaluation.tables import words
from medslip.files import written_whole

BLUE, ORANGE, GREEN, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00"
GREY = "0.45"
_HEAT = "inferno"

_STYLE: Any = {
    "savefig.dpi": 150,
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "figure.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.markersize": 4,
    "grid.color": "0.92",
}
_REFERENCE: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": ":"}
"""How lines to compare with are drawn, such as that of chance."""

LOSS_PARTS = {
    "existence_pathology": ("existence, pathology", BLUE, "-"),
    "existence_anatomy": ("existence, anatomy", BLUE, "--"),
    "protocl_pathology": ("ProtoCL, pathology", ORANGE, "-"),
    "protocl_anatomy": ("ProtoCL, anatomy", ORANGE, "--"),
    "icl": ("ICL", GREEN, "-"),
}
"""Key of a training entry -> its name in the legend, colour and line style; further terms get one of _FURTHER."""

_FURTHER = (RED, SKY, "black")
_NO_LOSS = frozenset({"kind", "step", "time", "total", "learning_rate"})


@contextmanager
def _figure(path: Path, width: float, height: float, **padding: Any) -> Iterator[Figure]:
    """An empty figure of width x height inches, which is written at the end."""
    with mpl.rc_context(_STYLE):
        figure = Figure((width, height), layout=ConstrainedLayoutEngine(**padding))
        FigureCanvasAgg(figure)
        yield figure
        with written_whole(path) as partial:
            # Without the program's name the same numbers make the same file.
            figure.savefig(partial, format="png", metadata={"Software": None})


def roc_curves(
    path: Path, scores: pd.DataFrame, labels: npt.NDArray[np.int8], probabilities: npt.NDArray[np.floating]
) -> None:
    """Draw one small ROC curve per class, with the AUROC and the line of chance.

    Args:
        path: The PNG to write.
        scores: What ``classification.score`` made of the same labels and probabilities.
        labels: Images x classes: 1, 0, -1 unknown.
        probabilities: Images x classes.
    """

    def draw(panel: Axes, k: int, row: pd.Series) -> str:
        known = labels[:, k] >= 0
        false, true, _ = roc_curve(labels[known, k], probabilities[known, k])
        panel.plot((0, 1), (0, 1), **_REFERENCE)
        panel.fill_between(false, true, color=BLUE, alpha=0.12, linewidth=0)
        panel.plot(false, true, color=BLUE)
        panel.text(0.98, 0.04, f"{row['positives']:,} positives of {known.sum():,}", ha="right", size=7, color=GREY)
        return f"AUROC {row['auroc']}"

    _small_multiples(path, class_rows(scores), draw, "False positive rate", "True positive rate")


def precision_recall_curves(
    path: Path, scores: pd.DataFrame, labels: npt.NDArray[np.int8], probabilities: npt.NDArray[np.floating]
) -> None:
    """Draw one small precision-recall curve per class, with the average precision and the line of chance.

    The line of chance is the class's share of positives. The dot is the threshold of maximum F1.

    Args: as for ``roc_curves``.
    """

    def draw(panel: Axes, k: int, row: pd.Series) -> str:
        known = labels[:, k] >= 0
        precision, recall, threshold = precision_recall_curve(labels[known, k], probabilities[known, k])
        at = int(np.searchsorted(threshold, np.asarray(row["threshold"], probabilities.dtype)))
        panel.axhline(row["positives"] / known.sum(), **_REFERENCE)
        # Recall falls along the arrays, and each step has the precision of its right end: the area is the AP.
        panel.fill_between(recall, precision, step="post", color=BLUE, alpha=0.12, linewidth=0)
        panel.step(recall, precision, where="post", color=BLUE)
        panel.plot(recall[at], precision[at], "o", color=RED)
        return f"AP {row['average_precision'].value:.3f}, max F1 {row['max_f1'].value:.3f}"

    _small_multiples(path, class_rows(scores), draw, "Recall", "Precision")


def reliability_diagrams(path: Path, calibration: pd.DataFrame, reliability: pd.DataFrame) -> None:
    """Draw one small reliability diagram per class: the share of present over the mean probability of each bin.

    Bars are the 95 % intervals of the shares; the dotted line is perfect calibration.

    Args:
        path: The PNG to write.
        calibration: What ``classifier.evaluate`` returned under this name, recalibrated probabilities included.
        reliability: Its bins.
    """
    styles = {"recalibrated": (ORANGE, "recalibrated on validation"), "predicted": (BLUE, "as predicted")}

    def draw(panel: Axes, k: int, row: pd.Series) -> str:
        panel.plot((0, 1), (0, 1), **_REFERENCE)
        for which, (colour, name) in styles.items():
            bins = reliability[(reliability["class"] == row["class"]) & (reliability["probabilities"] == which)]
            if len(bins):
                ends = [(each.value, each.low, each.high) for each in bins["frequency"]]
                share, low, high = np.array(ends).T
                bars = np.abs([share - low, high - share])
                panel.errorbar(bins["probability"], share, bars, fmt="o-", color=colour, elinewidth=0.8, label=name)
        return f"ECE {row['ece'].value:.3f}, by chance {row['chance_ece']:.3f}"

    rows = calibration[calibration["probabilities"] == "predicted"]
    legend = bool((reliability["probabilities"] == "recalibrated").any())
    _small_multiples(path, rows, draw, "Mean probability", "Share present", legend)


def _small_multiples(
    path: Path,
    rows: pd.DataFrame,
    draw: Callable[[Axes, int, pd.Series], str],
    across: str,
    up: str,
    legend: bool = False,
) -> None:
    """One square panel per row of a table with ``class`` and ``note``; ``draw`` fills it and returns its headline."""
    columns = min(5, len(rows))
    lines = math.ceil(len(rows) / columns)
    width = max(0.5 + 2.1 * columns, 4.6 if legend else 0)
    with _figure(path, width, 0.55 + 0.35 * legend + 2.35 * lines) as figure:
        panels = _square_panels(figure, lines, columns, across, up)
        for panel in panels[len(rows) :]:
            panel.set_visible(False)
        labelled: dict[str, Any] = {}
        for k, (panel, (_, row)) in enumerate(zip(panels, rows.iterrows(), strict=False)):
            panel.text(0.5, 0.5, row["note"], ha="center", va="center", color=GREY)
            headline = "" if row["note"] else draw(panel, k, row)
            panel.set_title(f"{row['class'].replace('_', ' ')}\n{headline}", size=8)
            panel.tick_params(labelleft=k % columns == 0, labelbottom=k + columns >= len(rows))
            handles, names = panel.get_legend_handles_labels()
            labelled |= dict(zip(names, handles, strict=True))
        if legend and labelled:
            figure.legend(labelled.values(), labelled, loc="outside upper left", ncols=2, reverse=True)


def _square_panels(figure: Figure, lines: int, columns: int, across: str, up: str) -> npt.NDArray[np.object_]:
    """Panels from 0 to 1, in reading order, under common labels."""
    panels: npt.NDArray[np.object_] = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    figure.supxlabel(across)
    figure.supylabel(up)
    return panels


def box_curves(path: Path, panels: Mapping[str, Mapping[str, tuple[npt.NDArray, npt.NDArray]]]) -> None:
    """Draw precision against recall of the boxes that each map predicts.

    Args:
        path: The PNG to write.
        panels: Title -> name of a map, with its average precision -> its recall, rising, and its precision.
    """
    with _figure(path, 0.5 + 3.2 * len(panels), 3.6) as figure:
        drawn = _square_panels(figure, 1, len(panels), "Recall", "Precision")
        for panel, (title, curves) in zip(drawn, panels.items(), strict=True):
            panel.set_title(title)
            for (name, (recall, precision)), colour in zip(curves.items(), (BLUE, GREY, RED), strict=False):
                # Up to the recall of the most confident box the precision is that box's; a map without boxes has no curve.
                across, up = np.r_[recall[:1] * 0, recall], np.r_[precision[:1], precision]
                panel.plot(across, up, "o-", color=colour, markevery=[-1], label=name)
            panel.legend(fontsize=7, title="average precision", title_fontsize=7)


def subgroup_forest(path: Path, subgroups: pd.DataFrame, gaps: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Draw the mean AUROC of each compared group with its 95 % interval, one block of rows per attribute.

    Args:
        path: The PNG to write.
        subgroups: From ``subgroups.by_group``.
        gaps: From ``subgroups.by_group``; attributes without a gap in AUROC are left out.
        scores: What ``classification.score`` made of all images; the dotted line is their mean over the same classes.
    """
    shown = gaps[gaps["score"] == "auroc"]
    compared = subgroups[subgroups["auroc"].map(float).notna()] if len(shown) else subgroups
    overall = scores.set_index("class")["auroc"].map(float)
    with _figure(path, 8, 1.1 + 0.3 * max(len(shown) + len(compared), 2)) as figure:
        panel = figure.subplots()
        # One line each: what stands to the left, and to the right.
        lines: list[tuple[str, str]] = []
        for _, gap in shown.iterrows():
            count, top = len(gap["classes"]), len(lines)
            between = "" if math.isnan(gap["gap"].value) else f", gap {gap['gap']}"
            lines.append((gap["attribute"], f"mean of {count} class{'' if count == 1 else 'es'}{between}"))
            for _, group in compared[compared["attribute"] == gap["attribute"]].iterrows():
                _interval(panel, group["auroc"], len(lines), BLUE, "s")
                lines.append((group["group"], f"{group['auroc']}   {group['images']:,} images"))
            panel.vlines(overall[gap["classes"]].mean(), top + 0.5, len(lines) - 0.5, **_REFERENCE)
        panel.set_yticks(range(len(lines)), [left for left, _ in lines])
        for row, ((left, right), label) in enumerate(zip(lines, panel.get_yticklabels(), strict=True)):
            heading = left in set(shown["attribute"])
            label.set_fontweight("bold" if heading else "normal")
            colour, beside = "black" if heading else GREY, panel.get_yaxis_transform()
            panel.text(1.02, row, right, transform=beside, va="center", color=colour)
        panel.tick_params(axis="y", length=0)
        panel.set_ylim(max(len(lines), 1) - 0.3, -0.7)
        panel.set_xlabel("AUROC, mean over the same classes; dotted: all images")
        panel.spines["left"].set_visible(False)


def _interval(panel: Axes, found: Estimate, row: float, colour: str, marker: str) -> None:
    panel.plot((found.low, found.high), (row, row), color=colour)
    panel.plot(found.value, row, marker, color=colour)


History = Sequence[Mapping[str, float]]
"""The entries of a training log, in order. Values that are missing, None or NaN are not drawn."""


def loss_curves(path: Path, history: History) -> None:
    """Draw the course of a pre-training.

    Args:
        path: The PNG to write.
        history: A training entry has ``step``, ``total`` and the loss terms by name; a validation entry has ``step``,
            ``validation_total`` and ``validation_auroc`` (mean over classes).
    """
    terms = dict.fromkeys(key for entry in history if "total" in entry for key in entry if key not in _NO_LOSS)
    further = (key for key in terms if key not in LOSS_PARTS)
    lines = LOSS_PARTS | {key: (words(key), colour, "-") for key, colour in zip(further, cycle(_FURTHER), strict=False)}
    with _figure(path, 11, 3.6) as figure:
        titles = ("Total loss", "Parts of the training loss", "Zero-shot mean AUROC, validation")
        total, parts, scores = _course_panels(figure, titles)
        _total_loss(total, history)
        for key, (name, colour, style) in lines.items():
            _line(parts, _series(history, key), name, colour, style)
        if parts.lines:
            parts.legend()
        auroc = _series(history, "validation_auroc")
        _dots(scores, auroc, "mean AUROC")
        scores.axhline(0.5, **_REFERENCE)
        scores.set_ylim(min([0.4, *auroc]), 1.0)


def finetuning_curves(path: Path, history: History, score: str, name: str) -> None:
    """Draw the course of a fine-tuning.

    Args:
        path: The PNG to write.
        history: A training entry has ``step`` and ``total``; a validation entry has ``step``, ``validation_total`` and the
            score.
        score: Key of the score that chooses the best epoch, 0..1; the best is ringed.
        name: What the score is called.
    """
    with _figure(path, 8, 3.6) as figure:
        loss, scores = _course_panels(figure, ("Loss", f"{name}, validation"))
        _total_loss(loss, history)
        found = _series(history, score)
        _dots(scores, found, name)
        if len(found):
            scores.plot(found.idxmax(), found.max(), "o", color=BLUE, markersize=10, fillstyle="none")


def _course_panels(figure: Figure, titles: Sequence[str]) -> npt.NDArray[np.object_]:
    panels: npt.NDArray[np.object_] = figure.subplots(1, len(titles))
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, size=10)
        panel.set_xlabel("Step")
        panel.grid(axis="y")
    return panels


def _total_loss(panel: Axes, history: History) -> None:
    _line(panel, _series(history, "total"), "training", BLUE)
    _dots(panel, _series(history, "validation_total"), "validation")
    if panel.lines:
        panel.legend()


def _line(panel: Axes, values: pd.Series, name: str, colour: str, style: str = "-") -> None:
    """A curve smoothed over a fiftieth of the run, with the raw values faint behind it."""
    if len(values):
        smooth = values.rolling(2 * max(1, len(values) // 50) + 1, center=True, min_periods=1).mean()
        panel.plot(values, color=colour, alpha=0.18, linewidth=0.8)
        panel.plot(smooth, color=colour, linestyle=style, label=name)


def _dots(panel: Axes, values: pd.Series, name: str) -> None:
    if len(values):
        panel.plot(values, "o-", color=RED, linewidth=1.2, label=name)


def _series(history: History, key: str) -> pd.Series:
    """Step -> value, where it is finite."""
    entries = [entry for entry in history if entry.get(key) is not None]
    values = pd.Series([entry[key] for entry in entries], [entry["step"] for entry in entries], float)
    return values[np.isfinite(values)]


@dataclass(frozen=True)
class Tile:
    """One image of an overview.

    Attributes:
        image: H x W, grey, any range (black is its minimum, white its maximum).
        title: Above it; may have several lines.
        heat_map: h x w, 0..1, stretched over the image, transparent below 0.15; None for none.
        boxes: (x, y, width, height) each, in pixels of the image.
    """

    image: npt.NDArray
    title: str = ""
    heat_map: npt.NDArray | None = None
    boxes: Sequence[tuple[float, float, float, float]] = ()


def overview(path: Path, tiles: Sequence[Tile], columns: int = 4, tile_size: float = 2.4) -> None:
    """Draw a contact sheet.

    Args:
        path: The PNG to write.
        tiles: In reading order.
        columns: Tiles in a row.
        tile_size: Width and height of a tile without its title, in inches.

    Raises:
        ValueError: No tiles.
    """
    if not tiles:
        raise ValueError("an overview needs at least one tile")
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    lines = max(tile.title.count("\n") + bool(tile.title) for tile in tiles)
    height = rows * (tile_size + 0.17 * lines)
    with _figure(path, columns * tile_size, height, w_pad=0.03, h_pad=0.05, wspace=0, hspace=0) as figure:
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel in panels:
            panel.set_axis_off()
        for panel, tile in zip(panels, tiles, strict=False):
            _draw_tile(panel, tile)


def _draw_tile(panel: Axes, tile: Tile) -> None:
    height, width = tile.image.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    panel.imshow(tile.image, cmap="gray", extent=extent)
    if tile.heat_map is not None:
        heat = np.clip(np.asarray(tile.heat_map, float), 0, 1)
        look: Any = {"cmap": _HEAT, "vmin": 0, "vmax": 1, "alpha": _opacity(heat), "interpolation": "bilinear"}
        panel.imshow(heat, extent=extent, **look)
    for x, y, w, h in tile.boxes:
        # A dark outline keeps the box visible on bright bone.
        for colour, line in (("black", 2.6), (SKY, 1.3)):
            panel.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=colour, linewidth=line))
    panel.set(xlim=extent[:2], ylim=extent[2:])
    panel.set_title(tile.title, size=8, pad=3)


def heat_colours(heat_map: npt.NDArray) -> npt.NDArray[np.uint8]:
    """A heat map in the colours and with the transparency that it has in an overview, to lay over an image.

    Args:
        heat_map: H x W, 0..1.

    Returns:
        H x W x 4: red, green, blue and opacity.
    """
    heat = np.clip(np.asarray(heat_map, float), 0, 1)
    colours: npt.NDArray[np.uint8] = mpl.colormaps[_HEAT](heat, alpha=_opacity(heat), bytes=True)
    return colours


def _opacity(heat: npt.NDArray) -> npt.NDArray:
    """Weak attention does not hide the image."""
    return 0.65 * np.clip((heat - 0.15) / 0.5, 0, 1)


def difference_plot(path: Path, panels: Mapping[str, pd.DataFrame]) -> None:
    """Draw differences between two runs with their intervals, one row each, and the line of no difference.

    Intervals that exclude 0 are coloured. A difference that is not defined leaves its row empty.

    Args:
        path: The PNG to write.
        panels: Title -> rows from the top down: the first column names a row, ``difference`` is an Estimate.
    """
    columns = min(2, len(panels))
    lengths = [len(entries) for entries in panels.values()]
    lines = [max(lengths[start : start + columns]) for start in range(0, len(lengths), columns)]
    with _figure(path, 5.2 * columns, sum(0.24 * count + 0.9 for count in lines)) as figure:
        heights = [count + 2 for count in lines]
        drawn = figure.subplots(len(lines), columns, squeeze=False, height_ratios=heights).ravel()
        for panel in drawn[len(panels) :]:
            panel.set_visible(False)
        for panel, (title, entries) in zip(drawn, panels.items(), strict=False):
            panel.axvline(0, **_REFERENCE)
            for row, entry in enumerate(entries["difference"]):
                colour = GREY if not entry.excludes_zero else BLUE if entry.value > 0 else RED
                _interval(panel, entry, row, colour, "o")
            panel.set_yticks(range(len(entries)), [words(name).replace("_", " ") for name in entries.iloc[:, 0]])
            panel.set_ylim(len(entries) - 0.5, -0.5)
            panel.set_title(title, size=10)
            panel.set_xlabel("B - A")
