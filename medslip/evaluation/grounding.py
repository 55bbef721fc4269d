"""Scores of grounding one finding: a heat map compared with where the finding is.

A heat map lies between 0 and 1 with its maximum at 1, and is scaled by its own maximum only. Regions are boolean arrays of the
map's size. L layers, Q queries, N patches on a grid of g x g, H x W pixels of the image.

Scores of a finding:

- Pointing game: is the maximum of the map, upsampled bilinearly, inside a box? If several pixels share the maximum, the share
  of them that are; so a uniform map scores the same as a random pixel.
- Published rule: does the maximal patch touch a box with any of its pixels? It counts most maps that miss by less than a patch
  as hits.
- Pixel AUROC: the share of (inside, outside) pairs of pixels in which the inside has the higher value; a tie counts one half.
- Contrast-to-noise ratio: (mean inside - mean outside) / sqrt(variance inside + variance outside). It is
  negative for a map that looks elsewhere.
- IoU and Dice of the thresholded map with the finding.
- Boxes: around the connected parts of the thresholded map, see ``predicted_boxes`` and ``match_boxes``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Floats = npt.NDArray[np.floating]
Region = npt.NDArray[np.bool_]
Rectangle = tuple[float, float, float, float]
"""x, y, width, height in pixels."""

THRESHOLDS: npt.NDArray[np.float64] = np.linspace(0.02, 0.98, 49)
"""The thresholds to choose from."""

_SAME = 1e-6  # values this close to the maximum count as the maximum, because interpolation rounds


def attention_grids(maps: Floats, layers: Sequence[int] = (), heads: Sequence[int] = ()) -> Floats:
    """Mean attention over layers and heads.

    Args:
        maps: ... x L x heads x Q x N, each map of N patches summing to 1.
        layers: Which layers, from 0; empty for all.
        heads: Which heads of these layers; empty for all.

    Returns:
        ... x Q x g x g.

    Raises:
        ValueError: N is not a square number.
    """
    side = round(maps.shape[-1] ** 0.5)
    if side * side != maps.shape[-1]:
        raise ValueError(f"{maps.shape[-1]} patches do not form a square")
    chosen = maps[..., list(layers) or slice(None), :, :, :][..., list(heads) or slice(None), :, :]
    mean: Floats = chosen.mean(axis=(-4, -3))
    return mean.reshape(*mean.shape[:-1], side, side)


def interleave(grids: Sequence[Floats], centre: float) -> tuple[npt.NDArray[np.float64], float]:
    """Average the maps of K * K copies of an image, each shifted by a fraction of a patch.

    Each map is interpolated bilinearly between its points; the mean is given at the points of all maps.

    Args:
        grids: K * K of ... x g x g, in reading order: copy k, down or across, is shifted by (k - (K - 1) / 2) / K cells.
        centre: The point of a cell that a single map's value stands for; see ``heat_map``.

    Returns:
        ... x K g x K g, and the point of its cells that the values stand for, which may lie outside the cell.

    Raises:
        ValueError: The number of grids is not a square number.
    """
    k = math.isqrt(len(grids))
    if k * k != len(grids):
        raise ValueError(f"{len(grids)} grids are not K x K")
    *batch, height, width = np.shape(grids[0])
    # Each map is extended beyond its edge; otherwise only the outermost copy would count there.
    fine = np.empty((*batch, k * (height + 2), k * (width + 2)))
    for index, grid in enumerate(grids):
        edged = np.pad(grid, [(0, 0)] * len(batch) + [(1, 1), (1, 1)], mode="edge")
        fine[..., index // k :: k, index % k :: k] = edged
    weights = 1 - np.abs(np.arange(1 - k, k)) / k
    for axis in (-2, -1):
        fine = ndimage.convolve1d(fine, weights / k, axis=axis, mode="nearest")
    return fine[..., k:-k, k:-k], 0.5 + k * (centre - 0.5)


def anatomy_grids(anatomies: Floats, icl_logits: Floats) -> Floats:
    """Where the anatomy stream looks for each pathology: its maps, weighted by which anatomies the model pairs with it.

    Args:
        anatomies: ... x A x g x g, one map per anatomy.
        icl_logits: ... x A x P, whether this anatomy goes with this pathology in this image.

    Returns:
        ... x P x g x g. The weights of a pathology are the sigmoids of its logits, divided by their sum.
    """
    # log sigmoid(x) = -log(1 + exp(-x)); the logarithm keeps very low probabilities apart.
    log_weight = -np.logaddexp(0, -np.asarray(icl_logits, np.float64))
    weight = np.exp(log_weight - log_weight.max(axis=-2, keepdims=True))
    weight /= weight.sum(axis=-2, keepdims=True)
    grids: Floats = np.einsum("...ap,...ahw->...phw", weight, anatomies)
    return grids


def heat_map(grid: Floats, height: int, width: int, centre: float = 0.5) -> npt.NDArray[np.float64]:
    """A grid, upsampled bilinearly and divided by its maximum.

    Each cell's value holds at one point of the cell; beyond the outermost points the map is constant.

    Args:
        grid: g x g, at least 0, not all 0.
        height: H, in pixels.
        width: W, in pixels.
        centre: Where that point is in the cell, down and across: 0 at its upper left corner, 0.5 in its middle.

    Returns:
        H x W, 0..1.

    Raises:
        ValueError: The grid is not finite, negative somewhere, or 0 throughout.
    """
    grid = np.asarray(grid, np.float64)
    if not np.isfinite(grid).all() or grid.min() < 0 or grid.max() <= 0:
        raise ValueError("a heat map's grid is finite, at least 0, and above 0 somewhere")
    heat: npt.NDArray[np.float64] = (
        _interpolation(height, grid.shape[0], centre) @ grid @ _interpolation(width, grid.shape[1], centre).T
    )
    return heat / heat.max()


def _interpolation(pixels: int, cells: int, centre: float) -> npt.NDArray[np.float64]:
    """Pixels x cells, the weight of each cell at each pixel's centre."""
    position = np.clip((np.arange(pixels) + 0.5) * cells / pixels - centre, 0, cells - 1)
    lower = np.minimum(position.astype(int), max(cells - 2, 0))
    weights = np.zeros((pixels, cells))
    row = np.arange(pixels)
    weights[row, lower] = 1 - (position - lower)
    if cells > 1:
        weights[row, lower + 1] = position - lower
    return weights


def box_region(boxes: Sequence[Rectangle], height: int, width: int) -> Region:
    """Height x width: the pixels whose centre lies in a box; a box between centres gets the nearest row or column."""
    region = np.zeros((height, width), bool)
    for x, y, w, h in boxes:
        region[_span(y, h, height), _span(x, w, width)] = True
    return region


def _span(start: float, length: float, pixels: int) -> slice:
    first, end = (int(np.ceil(edge - 0.5)) for edge in (start, start + length))
    if end <= first:
        first = int(start + length / 2)
        end = first + 1
    return slice(max(min(first, pixels - 1), 0), max(end, 1))


def mean_box_grid(boxes: Floats, side: int) -> npt.NDArray[np.float64]:
    """The mean of boxes as a map: the share of them that cover each cell, where a partly covered cell counts in part.

    Args:
        boxes: n x 4 (x, y, width, height), as shares of the image's width and height.
        side: Cells along each side of the map.

    Returns:
        side x side, 0..1.

    Raises:
        ValueError: No boxes.
    """
    if not len(boxes):
        raise ValueError("no boxes to average")
    start = np.asarray(boxes, np.float64)[:, :2, None]
    end = start + np.asarray(boxes, np.float64)[:, 2:, None]
    edge = np.arange(side) / side
    covered = np.clip(side * (np.minimum(end, edge + 1 / side) - np.maximum(start, edge)), 0, 1)
    mean: npt.NDArray[np.float64] = covered[:, 1].T @ covered[:, 0] / len(boxes)
    return mean


def pointing(heat: Floats, region: Region) -> float:
    """The share of the map's maximal pixels that lie in the region, 0..1."""
    return float(region[heat >= heat.max() * (1 - _SAME)].mean())


def pointing_patch(grid: Floats, region: Region) -> float:
    """The share of the grid's maximal patches that touch the region with any pixel, 0..1.

    Args:
        grid: g x g.
        region: H x W; a pixel belongs to the patch that its centre lies in.
    """
    touched = np.zeros(grid.shape, bool)
    pixels = zip(np.nonzero(region), region.shape, grid.shape, strict=True)
    touched[tuple((2 * place + 1) * patches // (2 * number) for place, number, patches in pixels)] = True
    return float(touched[grid >= (1 - _SAME) * grid.max()].mean())


def pixel_auroc(heat: Floats, region: Region) -> float:
    """The pixel AUROC; NaN if the region is empty or the whole image.

    The mid-rank of each inside pixel among all pixels counts those below it; pairs of inside pixels are subtracted.
    """
    # Single precision takes fewer rounding errors for differences, and sorts faster.
    values = np.asarray(heat, np.float32)
    inside, pixels = np.sort(values[region], axis=None), np.sort(values, axis=None)
    outside = len(pixels) - len(inside)
    if not len(inside) or not outside:
        return float("nan")
    ranks = np.searchsorted(pixels, inside, "left") + np.searchsorted(pixels, inside, "right")
    pairs = ranks.sum(dtype=np.float64) / 2 - len(inside) ** 2 / 2
    return float(pairs / (len(inside) * outside))


def contrast_to_noise(heat: Floats, region: Region) -> float:
    """The contrast-to-noise ratio; 0 for a map without contrast, NaN where it has no noise or the region no outside."""
    inside, outside = heat[region], heat[~region]
    if not len(inside) or not len(outside):
        return float("nan")
    contrast = float(inside.mean() - outside.mean())
    noise = float(np.sqrt(inside.var() + outside.var()))
    if noise <= _SAME:
        return 0.0 if abs(contrast) <= _SAME else float("nan")
    return contrast / noise


def overlap(
    heat: Floats, region: Region, thresholds: Floats = THRESHOLDS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """IoU and Dice of {heat >= threshold} with the region, at every threshold.

    Args:
        heat: H x W.
        region: H x W, not empty.
        thresholds: K, ascending.

    Returns:
        K each.
    """
    bins = np.searchsorted(thresholds, heat, side="right")  # how many thresholds a pixel reaches
    reached = [np.bincount(values.ravel(), minlength=len(thresholds) + 1) for values in (bins, bins[region])]
    predicted, both = (counts[::-1].cumsum()[::-1][1:].astype(np.float64) for counts in reached)
    size = np.count_nonzero(region)
    return both / (predicted + size - both), 2 * both / (predicted + size)


def predicted_boxes(heat: Floats, threshold: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The boxes that a map predicts: one around each connected part of {heat >= threshold}.

    Args:
        heat: H x W, 0..1.
        threshold: 0..1. Pixels are connected along edges, not corners.

    Returns:
        Boxes, k x 4 (x, y, width, height); and their confidences, k: the share of the whole map's sum that lies in the part.
    """
    parts, number = ndimage.label(heat >= threshold)
    found = ndimage.find_objects(parts)
    boxes = np.array([(x.start, y.start, x.stop - x.start, y.stop - y.start) for y, x in found], np.float64).reshape(
        -1, 4
    )
    mass = np.bincount(parts.ravel(), weights=heat.ravel(), minlength=number + 1)
    return boxes, mass[1:] / mass.sum()


def box_iou(first: Floats, second: Floats) -> npt.NDArray[np.float64]:
    """IoU of every box of n x 4 with every box of m x 4 (x, y, width, height), n x m."""
    a, b = np.asarray(first, np.float64).reshape(-1, 1, 4), np.asarray(second, np.float64).reshape(1, -1, 4)
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    both = np.clip(high - low, 0, None).prod(axis=-1)
    either = a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def match_boxes(boxes: Floats, confidence: Floats, truth: Sequence[Rectangle], at_least: float) -> Region:
    """Which predicted boxes find a true one.

    The most confident box chooses first, among the true boxes that are left the one with the highest IoU, if it is high enough.

    Args:
        boxes: k x 4.
        confidence: k.
        truth: The finding's boxes.
        at_least: The smallest IoU that counts, 0..1.

    Returns:
        k.
    """
    found = np.zeros(len(boxes), bool)
    iou = box_iou(boxes, np.asarray(truth, np.float64))
    for index in np.argsort(-confidence, kind="stable"):
        best = int(iou[index].argmax())
        if iou[index, best] >= at_least:
            found[index] = True
            iou[:, best] = -1.0
    return found
