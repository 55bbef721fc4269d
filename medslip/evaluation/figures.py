"""Figures of a run. The only file that imports matplotlib; nothing here touches its global state.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart. Every figure is a PNG at 150 dpi, written whole
or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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

DPI = 150
BLUE, ORANGE, GREEN, SKY, PURPLE, RED = "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#CC79A7", "#D55E00"
GREY = "0.45"

LOSS_PARTS = {
    "existence_pathology": ("existence, pathology", BLUE, "-"),
    "existence_anatomy": ("existence, anatomy", BLUE, "--"),
    "protocl_pathology": ("ProtoCL, pathology", ORANGE, "-"),
    "protocl_anatomy": ("ProtoCL, anatomy", ORANGE, "--"),
    "icl": ("ICL", GREEN, "-"),
}
"""Key of a training entry -> its name in the legend, colour and line style."""


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
        panel.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=":")
        panel.fill_between(false, true, color=BLUE, alpha=0.12, linewidth=0)
        panel.plot(false, true, color=BLUE, linewidth=1.5)
        text = f"{row['positives']:,} positives of {known.sum():,}"
        panel.text(0.98, 0.04, text, ha="right", fontsize=7, color=GREY)
        return f"AUROC {row['auroc']}"

    _small_multiples(path, class_rows(scores), draw, "False positive rate", "True positive rate")


def precision_recall_curves(
    path: Path, scores: pd.DataFrame, labels: npt.NDArray[np.int8], probabilities: npt.NDArray[np.floating]
) -> None:
    """Draw one small precision-recall curve per class, with the average precision and the line of chance.

    The line of chance is the class's share of positives. The dot is the threshold of maximum F1.

    Args:
        path: The PNG to write.
        scores: What ``classification.score`` made of the same labels and probabilities.
        labels: Images x classes: 1, 0, -1 unknown.
        probabilities: Images x classes.
    """

    def draw(panel: Axes, k: int, row: pd.Series) -> str:
        known = labels[:, k] >= 0
        precision, recall, threshold = precision_recall_curve(labels[known, k], probabilities[known, k])
        at = int(np.searchsorted(threshold, np.asarray(row["threshold"], probabilities.dtype)))
        panel.axhline(row["positives"] / known.sum(), color=GREY, linewidth=0.8, linestyle=":")
        # Recall falls along the arrays, and each step has the precision of its right end: the area is the AP.
        panel.fill_between(recall, precision, step="post", color=BLUE, alpha=0.12, linewidth=0)
        panel.step(recall, precision, where="post", color=BLUE, linewidth=1.5)
        panel.plot(recall[at], precision[at], "o", color=RED, markersize=4.5)
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
        panel.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=":")
        for which, (colour, name) in styles.items():
            bins = reliability[(reliability["class"] == row["class"]) & (reliability["probabilities"] == which)]
            shares = [(each.value, each.value - each.low, each.high - each.value) for each in bins["frequency"]]
            up, below, above = np.array(shares).reshape(-1, 3).T
            if len(up):
                panel.errorbar(
                    bins["probability"], up, np.abs([below, above]), fmt="o-", color=colour, markersize=3, linewidth=1.2,
                    elinewidth=0.8, label=name,
                )  # fmt: skip
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
    figure = Figure(figsize=(width, 0.55 + 0.35 * legend + 2.35 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel in panels[len(rows) :]:
        panel.set_visible(False)
    for k, (panel, (_, row)) in enumerate(zip(panels, rows.iterrows(), strict=False)):
        _square(panel)
        if row["note"]:
            panel.text(0.5, 0.5, row["note"], ha="center", va="center", fontsize=8, color=GREY)
        headline = "" if row["note"] else draw(panel, k, row)
        panel.set_title(f"{row['class'].replace('_', ' ')}\n{headline}", fontsize=8)
        panel.tick_params(labelleft=k % columns == 0, labelbottom=k + columns >= len(rows))
    labelled = [panel.get_legend_handles_labels() for panel in panels if panel.get_legend_handles_labels()[0]]
    if legend and labelled:
        handles, names = labelled[0]
        figure.legend(handles[::-1], names[::-1], loc="outside upper left", ncols=2, fontsize=8, frameon=False)
    figure.supxlabel(across, fontsize=10)
    figure.supylabel(up, fontsize=10)
    _save(figure, path)


def subgroup_forest(path: Path, subgroups: pd.DataFrame, gaps: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Draw the mean AUROC of each compared group with its 95 % interval, one block of rows per attribute.

    Args:
        path: The PNG to write.
        subgroups: From ``subgroups.by_group``.
        gaps: From ``subgroups.by_group``; attributes without a gap in AUROC are left out.
        scores: What ``classification.score`` made of all images; the dotted line is their mean over the same classes.
    """
    shown = gaps[gaps["score"] == "auroc"]
    compared = subgroups[subgroups["auroc"].map(lambda mean: not math.isnan(mean.value))] if len(shown) else subgroups
    overall = scores.set_index("class")["auroc"]
    figure = Figure(figsize=(8, 1.1 + 0.3 * max(len(shown) + len(compared), 2)), layout="constrained")
    panel = figure.subplots()
    row, ticks = 0, {}

    def write(text: str, colour: str = "black") -> None:
        panel.text(1.02, row, text, transform=panel.get_yaxis_transform(), va="center", fontsize=8, color=colour)

    for _, gap in shown.iterrows():
        top, count = row, len(gap["classes"])
        between = "" if math.isnan(gap["gap"].value) else f", gap {gap['gap']}"
        write(f"mean of {count} class{'' if count == 1 else 'es'}{between}")
        ticks[row] = gap["attribute"]
        for _, group in compared[compared["attribute"] == gap["attribute"]].iterrows():
            row += 1
            ticks[row] = group["group"]
            _interval(panel, group["auroc"], row, BLUE, "s")
            write(f"{group['auroc']}   {group['images']:,} images", GREY)
        everyone = float(np.mean([overall[name].value for name in gap["classes"]]))
        panel.plot((everyone, everyone), (top + 0.5, row + 0.5), color=GREY, linewidth=0.8, linestyle=":")
        row += 1
    panel.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    for label in panel.get_yticklabels():
        if label.get_text() in set(shown["attribute"]):
            label.set_fontweight("bold")
    panel.tick_params(axis="y", length=0)
    panel.tick_params(axis="x", labelsize=8)
    panel.set_ylim(max(row, 1) - 0.3, -0.7)
    panel.set_xlabel("AUROC, mean over the same classes; dotted: all images", fontsize=9)
    _bare(panel)
    panel.spines["left"].set_visible(False)
    _save(figure, path)


def _interval(panel: Axes, found: Estimate, row: float, colour: str, marker: str) -> None:
    if found.has_interval:
        panel.plot((found.low, found.high), (row, row), color=colour, linewidth=1.5)
    panel.plot(found.value, row, marker, color=colour, markersize=4.5)


def box_curves(path: Path, panels: Mapping[str, Mapping[str, tuple[npt.NDArray, npt.NDArray]]]) -> None:
    """Draw precision against recall of the boxes that each map predicts.

    Args:
        path: The PNG to write.
        panels: Title -> name of a map, with its average precision -> its recall, rising, and its precision.
    """
    figure = Figure(figsize=(0.5 + 3.2 * len(panels), 3.6), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False).ravel()
    for panel, (title, curves) in zip(drawn, panels.items(), strict=True):
        _square(panel)
        panel.set_title(title, fontsize=9)
        for (name, (recall, precision)), colour in zip(curves.items(), (BLUE, GREY, RED), strict=False):
            # Up to the recall of the most confident box the precision is that box's; a map without boxes has no curve.
            across, up = np.r_[recall[:1] * 0, recall], np.r_[precision[:1], precision]
            panel.plot(across, up, "o-", color=colour, linewidth=1.5, markersize=3.5, markevery=[-1], label=name)
        panel.legend(fontsize=7, frameon=False, title="average precision", title_fontsize=7)
    figure.supxlabel("Recall", fontsize=10)
    figure.supylabel("Precision", fontsize=10)
    _save(figure, path)


def _square(panel: Axes) -> None:
    panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    panel.tick_params(labelsize=8, length=2)
    _bare(panel)


History = Sequence[Mapping[str, float]]
"""The entries of a training log, in order. Keys that are missing, None or NaN are not drawn; other keys are ignored."""


def loss_curves(path: Path, history: History) -> None:
    """Draw the course of a pre-training.

    Args:
        path: The PNG to write.
        history: A training entry has ``step``, ``total`` and the keys of LOSS_PARTS; a validation entry has ``step``,
            ``validation_total`` and ``validation_auroc`` (mean over classes).
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    total, parts, auroc = figure.subplots(1, 3)
    _line(total, history, "total", "training", BLUE)
    _dots(total, history, "validation_total", "validation", RED)
    for key, (name, colour, style) in LOSS_PARTS.items():
        _line(parts, history, key, name, colour, style)
    _dots(auroc, history, "validation_auroc", "mean AUROC", RED)
    auroc.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    auroc.set_ylim(min(0.4, _series(history, "validation_auroc")[1].min(initial=1.0)), 1.0)
    titles = {"Total loss": total, "Parts of the training loss": parts, "Zero-shot mean AUROC, validation": auroc}
    _save_course(figure, titles, (total, parts), path)


def finetuning_curves(path: Path, history: History, score: str, name: str) -> None:
    """Draw the course of a fine-tuning.

    Args:
        path: The PNG to write.
        history: A training entry has ``step`` and ``total``; a validation entry has ``step``, ``validation_total`` and the
            score.
        score: Key of the score that chooses the best epoch, 0..1; the best is ringed.
        name: What the score is called.
    """
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    loss, scores = figure.subplots(1, 2)
    _line(loss, history, "total", "training", BLUE)
    _dots(loss, history, "validation_total", "validation", RED)
    _dots(scores, history, score, name, RED)
    step, value = _series(history, score)
    if len(step):
        best = int(value.argmax())
        scores.plot(step[best], value[best], "o", color=BLUE, markersize=10, fillstyle="none")
    _save_course(figure, {"Loss": loss, f"{name}, validation": scores}, (loss,), path)


def _save_course(figure: Figure, panels: Mapping[str, Axes], with_legend: Sequence[Axes], path: Path) -> None:
    for title, panel in panels.items():
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("Step", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", color="0.92", linewidth=0.8)
        _bare(panel)
    for panel in with_legend:
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8, frameon=False)
    _save(figure, path)


def _line(panel: Axes, history: History, key: str, name: str, colour: str, style: str = "-") -> None:
    """A curve smoothed over a fiftieth of the run, with the raw values faint behind it."""
    step, value = _series(history, key)
    if not len(step):
        return
    width = max(1, len(value) // 50)
    # Dividing by a smoothed 1 keeps the ends level, where the window holds fewer values.
    window = np.ones(2 * width + 1)
    smooth = np.convolve(value, window)[width:-width] / np.convolve(np.ones(len(value)), window)[width:-width]
    panel.plot(step, value, color=colour, alpha=0.18, linewidth=0.8)
    panel.plot(step, smooth, color=colour, linewidth=1.5, linestyle=style, label=name)


def _dots(panel: Axes, history: History, key: str, name: str, colour: str) -> None:
    step, value = _series(history, key)
    if len(step):
        panel.plot(step, value, "o-", color=colour, markersize=3.5, linewidth=1.2, label=name)


def _series(history: History, key: str) -> tuple[npt.NDArray, npt.NDArray]:
    pairs = [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None]
    steps, values = np.array(pairs, float).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


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
    size = (columns * tile_size, rows * (tile_size + 0.17 * lines))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05, wspace=0, hspace=0))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    for panel, tile in zip(panels, tiles, strict=False):
        _draw_tile(panel, tile)
    _save(figure, path)


def _draw_tile(panel: Axes, tile: Tile) -> None:
    height, width = tile.image.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    panel.imshow(tile.image, cmap="gray", extent=extent)
    if tile.heat_map is not None:
        heat = np.clip(np.asarray(tile.heat_map, float), 0, 1)
        opacity = 0.65 * np.clip((heat - 0.15) / 0.5, 0, 1)  # weak attention does not hide the image
        panel.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=opacity, extent=extent, interpolation="bilinear")
    for x, y, w, h in tile.boxes:
        # A dark outline keeps the box visible on bright bone.
        for colour, line in (("black", 2.6), (SKY, 1.3)):
            panel.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=colour, linewidth=line))
    panel.set_xlim(extent[:2])
    panel.set_ylim(extent[2:])
    panel.set_title(tile.title, fontsize=8, pad=3)


def difference_plot(path: Path, panels: Mapping[str, pd.DataFrame]) -> None:
    """Draw differences between two runs with their intervals, one row each, and the line of no difference.

    Intervals that exclude 0 are coloured. A difference that is not defined leaves its row empty.

    Args:
        path: The PNG to write.
        panels: Title -> rows from the top down: the first column names a row, ``difference`` is an Estimate.
    """
    columns = min(2, len(panels))
    parts = [list(panels.items())[start : start + columns] for start in range(0, len(panels), columns)]
    lines = [max(len(entries) for _, entries in row) for row in parts]
    figure = Figure(figsize=(5.2 * columns, sum(0.24 * count + 0.9 for count in lines)), layout="constrained")
    grid = figure.subplots(len(parts), columns, squeeze=False, height_ratios=[count + 2 for count in lines])
    for row, axes in zip(parts, grid, strict=True):
        for panel, (title, entries) in zip(axes, row, strict=False):
            _draw_differences(panel, title, entries)
        for panel in axes[len(row) :]:
            panel.set_visible(False)
    _save(figure, path)


def _draw_differences(panel: Axes, title: str, entries: pd.DataFrame) -> None:
    panel.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    for line, entry in enumerate(entries["difference"]):
        if not math.isnan(entry.value):
            colour = GREY if not entry.excludes_zero else BLUE if entry.value > 0 else RED
            _interval(panel, entry, line, colour, "o")
    panel.set_yticks(range(len(entries)), [words(name).replace("_", " ") for name in entries.iloc[:, 0]])
    panel.set_ylim(len(entries) - 0.5, -0.5)
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("B - A", fontsize=9)
    panel.tick_params(labelsize=8)
    _bare(panel)


def _bare(panel: Axes) -> None:
    panel.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with written_whole(path) as partial:
        # Without the program's name the same numbers make the same file.
        figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})
