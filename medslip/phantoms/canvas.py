"""Smooth fields on a square image: the body's coordinates, soft edges, strokes and noise.

All shapes are drawn in body units: x = 0 is the midline, and x grows towards the viewer's right (the patient's left);
y = 0 is the level of the lung apices, y = 1 that of the domes of the diaphragm. Only the grain depends on the size of
the image, so a phantom looks the same at every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from PIL import Image, ImageDraw

Field = npt.NDArray[np.floating[Any]]
"""A value for each pixel or point; float32 throughout."""

Points = npt.NDArray[np.floating[Any]]
"""N x 2 points (x, y) in body units."""

Point = tuple[float, float]

Stroke = tuple[Points | Sequence[Point], float, float]
"""A polyline, its width in body units, and its strength 0..1."""


@dataclass(frozen=True)
class Frame:
    """Where the body lies in the image, as fractions of the side: a similarity with two scales, then a slight bend."""

    centre_x: float  # the midline at y = 0
    centre_y: float  # level of the lung apices at x = 0
    scale_x: float  # of one body unit across
    scale_y: float  # ... and downwards
    angle: float  # tilt of the body, radians
    bend: float  # sideways bend, in body units
    bend_phase: float  # where along the body the bend is largest, radians


class Canvas:
    """The pixel grid of one image, and the tools to draw on it.

    Attributes:
        x: side x side, body x of each pixel's centre; ``y`` likewise.
        pixel: Size of a pixel in body units.
    """

    def __init__(self, side: int, frame: Frame) -> None:
        self.side = side
        self.frame = frame
        self.pixel = 1 / (side * frame.scale_y)
        step = (np.arange(side, dtype=np.float32) + 0.5) / side
        across, down = step[None, :] - frame.centre_x, step[:, None] - frame.centre_y
        cosine, sine = np.float32(np.cos(frame.angle)), np.float32(np.sin(frame.angle))
        self.y: Field = (cosine * down - sine * across) / np.float32(frame.scale_y)
        straight = (cosine * across + sine * down) / np.float32(frame.scale_x)
        self.x: Field = straight + self._bend(self.y)
        # Strokes are drawn larger and averaged down, which smooths their edges.
        self._oversampling = max(1, round(512 / side)) if side < 1024 else 1

    def _bend(self, y: Field) -> Field:
        return np.float32(self.frame.bend) * np.sin(2.2 * y + np.float32(self.frame.bend_phase))

    def to_pixels(self, points: Points) -> Points:
        """Pixel coordinates (x, y) of body points."""
        frame = self.frame
        x = (points[:, 0] - self._bend(points[:, 1])) * frame.scale_x
        y = points[:, 1] * frame.scale_y
        cosine, sine = np.cos(frame.angle), np.sin(frame.angle)
        across, down = cosine * x - sine * y + frame.centre_x, sine * x + cosine * y + frame.centre_y
        return (np.stack([across, down], axis=1) * self.side).astype(np.float32)

    def edge(self, distance: Field, width: float) -> Field:
        """0 outside, 1 inside, with a smooth step of the given width around distance 0."""
        return edge(distance, max(width, self.pixel))

    def strokes(self, strokes: Sequence[Stroke]) -> Field:
        """Polylines with rounded joints, 0..1, side x side; where they overlap the later one counts."""
        factor = self._oversampling
        image = Image.new("L", (self.side * factor, self.side * factor))
        pen = ImageDraw.Draw(image)
        unit = self.side * factor * 0.5 * (self.frame.scale_x + self.frame.scale_y)
        # All points are converted at once: a chest has hundreds of short strokes.
        ends = np.cumsum([len(points) for points, _, _ in strokes])
        points = np.concatenate([np.asarray(points, np.float32) for points, _, _ in strokes])
        pixels = self.to_pixels(points) * factor
        for line, (_, width, strength) in zip(np.split(pixels, ends[:-1]), strokes, strict=True):
            wide = width * unit
            # A line thinner than a pixel is drawn one pixel wide and fainter.
            fill = round(255 * strength * min(1.0, max(wide, 0.15)))
            # Joints are slow to round, and do not show on thin lines.
            joint = "curve" if wide > 6 else None
            pen.line(line.ravel().tolist(), fill=fill, width=max(1, round(wide)), joint=joint)
        return np.asarray(image.reduce(factor) if factor > 1 else image, np.float32) / 255

    def noise(self, rng: Generator, cells: int) -> Field:
        """Smooth noise of unit variance, about one bump per cell, side x side."""
        coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
        return np.asarray(coarse.resize((self.side, self.side), Image.Resampling.BICUBIC), np.float32)

    def spots(self, spots: Sequence[tuple[float, float, float, float]]) -> Field:
        """Fuzzy round spots (x, y, radius, strength), the strongest counts, side x side."""
        field = np.zeros_like(self.x)
        centres = self.to_pixels(np.asarray(spots, np.float32)[:, :2])
        for (column, row), (x, y, radius, strength) in zip(centres, spots, strict=True):
            reach = 2.5 * radius * self.side * max(self.frame.scale_x, self.frame.scale_y) + 2
            rows = slice(max(0, int(row - reach)), max(0, int(row + reach) + 1))
            columns = slice(max(0, int(column - reach)), max(0, int(column + reach) + 1))
            square = (self.x[rows, columns] - np.float32(x)) ** 2 + (self.y[rows, columns] - np.float32(y)) ** 2
            spot = np.float32(strength) * np.exp(square * np.float32(-1 / radius**2))
            np.maximum(field[rows, columns], spot, out=field[rows, columns])
        return field

    def blob(self, x: float, y: float, radius_x: float, radius_y: float, angle: float = 0.0) -> Field:
        """Elliptical radius: 0 at the centre, 1 on the ellipse, growing outwards."""
        return ellipse(self.x, self.y, x, y, radius_x, radius_y, angle)


def edge(distance: Field, width: float) -> Field:
    """Smooth step: 0 for distance below -width / 2, 1 above width / 2."""
    t = np.clip(distance * np.float32(1 / width) + np.float32(0.5), 0, 1)
    return (3 - 2 * t) * t * t


def ellipse(x: Field, y: Field, cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> Field:
    """Elliptical radius of points: 1 on the ellipse."""
    dx, dy = x - np.float32(cx), y - np.float32(cy)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = cosine / np.float32(rx) * dx + sine / np.float32(rx) * dy
    v = cosine / np.float32(ry) * dy - sine / np.float32(ry) * dx
    return np.sqrt(u * u + v * v)


def smooth_minimum(a: Field, b: Field, width: float) -> Field:
    """The smaller of two fields, with the crease between them rounded over ``width``."""
    overlap = np.maximum(np.float32(width) - np.abs(a - b), 0)
    return np.minimum(a, b) - overlap * overlap * np.float32(0.25 / width)


def curve(*corners: Point) -> Points:
    """A smooth line through the corners (Catmull-Rom), with 8 points between neighbours."""
    points = np.asarray([corners[0], *corners, corners[-1]], np.float32)
    t = np.linspace(0, 1, 8, dtype=np.float32)[:, None]
    pieces = []
    for a, b, c, d in zip(points, points[1:], points[2:], points[3:], strict=False):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate(pieces)
