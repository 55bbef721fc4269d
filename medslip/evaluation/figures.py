"""Pictures of a run. The only place that knows matplotlib; nothing here touches its global state.

Colours are those of Okabe and Ito, told apart by colour-blind readers too. Every picture is a PNG at 150 dpi,
written whole or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from sklearn.metrics import precision_recall_curve, roc_curve

from medslip.evaluation.calibration import ClassCalibration
from medslip.evaluation.classification import ClassScores, Scores
from medslip.evaluation.comparison import Difference
from medslip.evaluation.subgroups import AttributeScores
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
    path: Path, scores: Scores, labels: npt.NDArray[np.int8], probabilities: npt.NDArray[np.floating]
) -> None:
    """Draw one small ROC curve a class, with the AUROC and the line of chance.

    Args:
        path: The PNG to write.
        scores: What ``classification.score`` made of the same labels and probabilities.
        labels: Images x classes: 1, 0, -1 unknown.
        probabilities: Images x classes.
    """
    _small_multiples(path, "ROC", scores, labels, probabilities)


def precision_recall_curves(
    path: Path, scores: Scores, labels: npt.NDArray[np.int8], probabilities: npt.NDArray[np.floating]
) -> None:
    """Draw one small precision-recall curve a class, with the average precision and the line of chance.

    The line of chance is the class's share of positives. The dot is the threshold of maximum F1.

    Args:
        path: The PNG to write.
        scores: What ``classification.score`` made of the same labels and probabilities.
        labels: Images x classes: 1, 0, -1 unknown.
        probabilities: Images x classes.
    """
    _small_multiples(path, "PR", scores, labels, probabilities)


@dataclass(frozen=True)
class BoxCurve:
    """Precision against recall of one map's boxes.

    Attributes:
        name: Of the map.
        recall: k, rising.
        precision: k.
        average: Average precision.
    """

    name: str
    recall: npt.NDArray[np.float64]
    precision: npt.NDArray[np.float64]
    average: float


def _small_multiples(
    path: Path,
    kind: Literal["ROC", "PR"],
    scores: Scores,
    labels: npt.NDArray[np.int8],
    probabilities: npt.NDArray[np.floating],
) -> None:
    columns = min(5, len(scores.classes))
    rows = math.ceil(len(scores.classes) / columns)
    figure = Figure(figsize=(0.5 + 2.1 * columns, 0.55 + 2.35 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(scores.classes) :]:
        panel.set_visible(False)
    for k, (panel, entry) in enumerate(zip(panels, scores.classes, strict=False)):
        known = labels[:, k] >= 0
        draw = _roc if kind == "ROC" else _precision_recall
        _square(panel)
        panel.set_title(f"{entry.name.replace('_', ' ')}\n{_headline(kind, entry)}", fontsize=8)
        if entry.undefined:
            panel.text(0.5, 0.5, entry.undefined, ha="center", va="center", fontsize=8, color=GREY)
        else:
            draw(panel, entry, labels[known, k], probabilities[known, k])
        panel.tick_params(labelleft=k % columns == 0, labelbottom=k + columns >= len(scores.classes))
    across, up = ("False positive rate", "True positive rate") if kind == "ROC" else ("Recall", "Precision")
    figure.supxlabel(across, fontsize=10)
    figure.supylabel(up, fontsize=10)
    _save(figure, path)


def _headline(kind: Literal["ROC", "PR"], entry: ClassScores) -> str:
    if entry.undefined:
        return ""
    if kind == "PR":
        return f"AP {entry.average_precision:.3f}, max F1 {entry.max_f1:.3f}"
    interval = entry.intervals.get("auroc")
    span = "" if interval is None else f" [{interval.low:.3f}, {interval.high:.3f}]"
    return f"AUROC {entry.auroc:.3f}{span}"


def reliability_diagrams(
    path: Path, calibration: Sequence[ClassCalibration], recalibrated: Sequence[ClassCalibration] = ()
) -> None:
    """Draw one small reliability diagram a class: the share that has it over the mean probability of each bin.

    Bars are the 95 % intervals of the shares; the dotted line is perfect calibration.

    Args:
        path: The PNG to write.
        calibration: What ``calibration.calibration`` returned.
        recalibrated: The same after recalibration, drawn in a second colour; empty for none.
    """
    columns = min(5, len(calibration))
    rows = math.ceil(len(calibration) / columns)
    width = max(0.5 + 2.1 * columns, 4.6 if recalibrated else 0)  # the legend's, at least
    figure = Figure(figsize=(width, 0.9 + 2.35 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(calibration) :]:
        panel.set_visible(False)
    for k, (panel, entry) in enumerate(zip(panels, calibration, strict=False)):
        _square(panel)
        name = entry.name.replace("_", " ")
        if entry.undefined:
            panel.set_title(f"{name}\n", fontsize=8)
            panel.text(0.5, 0.5, entry.undefined, ha="center", va="center", fontsize=8, color=GREY)
        else:
            panel.set_title(f"{name}\nECE {entry.ece:.3f}, if perfect {entry.chance_ece:.3f}", fontsize=8)
            panel.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=":")
            if recalibrated:
                _bins(panel, recalibrated[k], ORANGE, "recalibrated on validation")
            _bins(panel, entry, BLUE, "as predicted")
        panel.tick_params(labelleft=k % columns == 0, labelbottom=k + columns >= len(calibration))
    if recalibrated:
        drawn = next((panel for panel in panels if panel.get_legend_handles_labels()[0]), None)
        if drawn is not None:
            handles, names = drawn.get_legend_handles_labels()
            figure.legend(handles[::-1], names[::-1], loc="outside upper left", ncols=2, fontsize=8, frameon=False)
    figure.supxlabel("Mean probability", fontsize=10)
    figure.supylabel("Share present", fontsize=10)
    _save(figure, path)


def _bins(panel: Axes, entry: ClassCalibration, colour: str, name: str) -> None:
    across = [each.probability for each in entry.bins]
    up = np.array([each.frequency for each in entry.bins])
    ends = np.array([(each.low, each.high) for each in entry.bins]).reshape(-1, 2).T
    panel.errorbar(
        across, up, np.abs(ends - up), fmt="o-", color=colour, markersize=3, linewidth=1.2, elinewidth=0.8, label=name
    )


def subgroup_forest(path: Path, subgroups: Mapping[str, AttributeScores], scores: Scores) -> None:
    """Draw the mean AUROC of each compared subgroup with its 95 % interval, a block of rows an attribute.

    Args:
        path: The PNG to write.
        subgroups: What ``subgroups.subgroups`` returned. Attributes without a comparison are left out.
        scores: What ``classification.score`` made of all images: beside each block, a line at their mean over its classes.
    """
    shown = {name: by for name, by in subgroups.items() if "auroc" in by.comparisons}
    lines = sum(1 + len(by.comparisons["auroc"].means) for by in shown.values())
    overall = {entry.name: entry.auroc for entry in scores.classes}
    figure = Figure(figsize=(8, 1.1 + 0.3 * max(lines, 2)), layout="constrained")
    panel = figure.subplots()
    row, ticks, names = 0, [], []
    for attribute, by in shown.items():
        comparison, top = by.comparisons["auroc"], row
        count = len(comparison.classes)
        gap = "" if comparison.gap is None else f", gap {comparison.gap:.3f}"
        if comparison.interval is not None:
            gap += f" [{comparison.interval.low:.3f}, {comparison.interval.high:.3f}]"
        ticks.append(row)
        names.append(attribute)
        title = f"mean of {count} class{'' if count == 1 else 'es'}{gap}"
        panel.text(1.02, row, title, transform=panel.get_yaxis_transform(), va="center", fontsize=8)
        images = {group.name: group.images for group in by.groups}
        for mean in comparison.means:
            row += 1
            ticks.append(row)
            names.append(mean.group)
            span = ""
            if mean.interval is not None:
                panel.plot((mean.interval.low, mean.interval.high), (row, row), color=BLUE, linewidth=1.5)
                span = f" [{mean.interval.low:.3f}, {mean.interval.high:.3f}]"
            panel.plot(mean.value, row, "s", color=BLUE, markersize=5)
            text = f"{mean.value:.3f}{span}   {images[mean.group]:,} images"
            panel.text(1.02, row, text, transform=panel.get_yaxis_transform(), va="center", fontsize=8, color=GREY)
        everybody = float(np.mean([overall[name] for name in comparison.classes]))
        panel.plot((everybody, everybody), (top + 0.5, row + 0.5), color=GREY, linewidth=0.8, linestyle=":")
        row += 1
    panel.set_yticks(ticks, names, fontsize=8)
    for label in panel.get_yticklabels():
        if label.get_text() in shown:
            label.set_fontweight("bold")
    panel.tick_params(axis="y", length=0)
    panel.tick_params(axis="x", labelsize=8)
    panel.set_ylim(max(row, 1) - 0.3, -0.7)
    if not shown:
        panel.text(0.5, 0.5, "no subgroup to compare", transform=panel.transAxes, ha="center", color=GREY)
    panel.set_xlabel("AUROC, mean over the same classes; dotted: all images", fontsize=9)
    _bare(panel)
    panel.spines["left"].set_visible(False)
    _save(figure, path)


def box_curves(path: Path, panels: Mapping[str, Sequence[BoxCurve]]) -> None:
    """Draw precision against recall of predicted boxes.

    Args:
        path: The PNG to write.
        panels: Title -> the curves of a panel.
    """
    figure = Figure(figsize=(0.5 + 3.2 * len(panels), 3.6), layout="constrained")
    drawn = figure.subplots(1, len(panels), squeeze=False).ravel()
    for panel, (title, curves) in zip(drawn, panels.items(), strict=True):
        _square(panel)
        panel.set_title(title, fontsize=9)
        for curve, colour in zip(curves, (BLUE, GREY, RED), strict=False):
            # Up to the recall of the surest box, the precision is that box's; a map without boxes has no curve.
            recall, precision = np.r_[curve.recall[:1] * 0, curve.recall], np.r_[curve.precision[:1], curve.precision]
            panel.plot(recall, precision, color=colour, linewidth=1.5, label=f"{curve.name}, {curve.average:.3f}")
            panel.plot(recall[-1:], precision[-1:], "o", color=colour, markersize=3.5)
        panel.legend(fontsize=7, frameon=False, title="average precision", title_fontsize=7)
    figure.supxlabel("Recall", fontsize=10)
    figure.supylabel("Precision", fontsize=10)
    _save(figure, path)


def _square(panel: Axes) -> None:
    panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1), aspect="equal")
    panel.tick_params(labelsize=8, length=2)
    _bare(panel)


def _roc(panel: Axes, entry: ClassScores, label: npt.NDArray, probability: npt.NDArray) -> None:
    false, true, _ = roc_curve(label, probability)
    panel.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=":")
    panel.fill_between(false, true, color=BLUE, alpha=0.12, linewidth=0)
    panel.plot(false, true, color=BLUE, linewidth=1.5)
    text = f"{entry.positives:,} positives of {len(label):,}"
    panel.text(0.98, 0.04, text, ha="right", fontsize=7, color=GREY)


def _precision_recall(panel: Axes, entry: ClassScores, label: npt.NDArray, probability: npt.NDArray) -> None:
    precision, recall, threshold = precision_recall_curve(label, probability)
    at = int(np.searchsorted(threshold, np.asarray(entry.threshold, probability.dtype)))
    panel.axhline(entry.positives / len(label), color=GREY, linewidth=0.8, linestyle=":")
    # Recall falls along the arrays, and each step holds the precision at its right end: the area is the AP.
    panel.fill_between(recall, precision, step="post", color=BLUE, alpha=0.12, linewidth=0)
    panel.step(recall, precision, where="post", color=BLUE, linewidth=1.5)
    panel.plot(recall[at], precision[at], "o", color=RED, markersize=4.5)


def loss_curves(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Draw the course of a pre-training.

    Args:
        path: The PNG to write.
        history: The log's entries in order. A training entry has ``step``, ``total`` and the keys of
            LOSS_PARTS; a validation entry has ``step``, ``validation_total`` and ``validation_auroc``
            (macro). Keys that are missing, None or NaN are not drawn; other keys are ignored.
    """
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    total, parts, auroc = figure.subplots(1, 3)
    _line(total, history, "total", "training", BLUE)
    _dots(total, history, "validation_total", "validation", RED)
    for key, (name, colour, style) in LOSS_PARTS.items():
        _line(parts, history, key, name, colour, style)
    _dots(auroc, history, "validation_auroc", "macro AUROC", RED)
    auroc.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    auroc.set_ylim(min(0.4, _series(history, "validation_auroc")[1].min(initial=1.0)), 1.0)
    titles = ("Total loss", "Parts of the training loss", "Zero-shot macro AUROC, validation")
    for panel, title in zip((total, parts, auroc), titles, strict=True):
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("Step", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", color="0.92", linewidth=0.8)
        _bare(panel)
    for panel in (total, parts):
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8, frameon=False)
    _save(figure, path)


def finetuning_curves(path: Path, history: Sequence[Mapping[str, float]], score: str, name: str) -> None:
    """Draw the course of a fine-tuning.

    Args:
        path: The PNG to write.
        history: The log's entries in order. A training entry has ``step`` and ``total``; a validation entry has ``step``,
            ``validation_total`` and the score. Other keys are ignored.
        score: Key of the score that chooses the best epoch, 0..1; the best is ringed.
        name: What it is called.
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
    for panel, title in ((loss, "Loss"), (scores, f"{name}, validation")):
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("Step", fontsize=9)
        panel.tick_params(labelsize=8)
        panel.grid(axis="y", color="0.92", linewidth=0.8)
        _bare(panel)
    if loss.get_legend_handles_labels()[0]:
        loss.legend(fontsize=8, frameon=False)
    _save(figure, path)


def _line(
    panel: Axes, history: Sequence[Mapping[str, float]], key: str, name: str, colour: str, style: str = "-"
) -> None:
    """A curve smoothed over a fiftieth of the run, the raw values faint behind it."""
    step, value = _series(history, key)
    if not len(step):
        return
    width = max(1, len(value) // 50)
    # Dividing by the smoothed ones keeps the ends level: there the window holds fewer values.
    window = np.ones(2 * width + 1)
    smooth = np.convolve(value, window)[width:-width] / np.convolve(np.ones(len(value)), window)[width:-width]
    panel.plot(step, value, color=colour, alpha=0.18, linewidth=0.8)
    panel.plot(step, smooth, color=colour, linewidth=1.5, linestyle=style, label=name)


def _dots(panel: Axes, history: Sequence[Mapping[str, float]], key: str, name: str, colour: str) -> None:
    step, value = _series(history, key)
    if len(step):
        panel.plot(step, value, "o-", color=colour, markersize=3.5, linewidth=1.2, label=name)


def _series(history: Sequence[Mapping[str, float]], key: str) -> tuple[npt.NDArray, npt.NDArray]:
    pairs = [(entry["step"], entry[key]) for entry in history if entry.get(key) is not None]
    steps, values = np.array(pairs, float).reshape(-1, 2).T
    finite = np.isfinite(values)
    return steps[finite], values[finite]


@dataclass(frozen=True)
class Tile:
    """One picture of an overview.

    Attributes:
        image: H x W, grey, any range (black is its minimum, white its maximum).
        title: Above it; may have several lines.
        heat_map: h x w, 0..1, laid over the image and stretched to it, clear below 0.15; None for none.
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
        raise ValueError("an overview needs a tile")
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
        opacity = 0.65 * np.clip((heat - 0.15) / 0.5, 0, 1)  # weak attention does not veil the image
        panel.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=opacity, extent=extent, interpolation="bilinear")
    for x, y, w, h in tile.boxes:
        # A dark rim keeps the box visible on bright bone.
        for colour, line in (("black", 2.6), (SKY, 1.3)):
            panel.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=colour, linewidth=line))
    panel.set_xlim(extent[:2])
    panel.set_ylim(extent[2:])
    panel.set_title(tile.title, fontsize=8, pad=3)


def difference_plot(path: Path, panels: Mapping[str, Sequence[tuple[str, Difference]]]) -> None:
    """Draw differences between two runs with their intervals, a line each, and the line of no difference.

    Intervals that leave out 0 are coloured. A difference that is not defined leaves its line empty.

    Args:
        path: The PNG to write.
        panels: Title -> (name, difference), from the top down.
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


def _draw_differences(panel: Axes, title: str, entries: Sequence[tuple[str, Difference]]) -> None:
    panel.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
    for line, (_, entry) in enumerate(entries):
        if entry.value is None:
            continue
        colour = GREY if not entry.clear else BLUE if entry.value > 0 else RED
        if entry.interval is not None:
            panel.plot((entry.interval.low, entry.interval.high), (line, line), color=colour, linewidth=1.5)
        panel.plot(entry.value, line, "o", color=colour, markersize=4)
    panel.set_yticks(range(len(entries)), [name.replace("_", " ") for name, _ in entries])
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
