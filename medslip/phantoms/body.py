"""The numbers that shape one patient's chest, and the outlines that follow from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from medslip.phantoms.canvas import Field, edge, ellipse, smooth_minimum


class Half(NamedTuple):
    """One side of a body: see Body."""

    width: float
    dome: float
    heart: float


@dataclass(frozen=True)
class Body:
    """One patient's build, in body units (see canvas.py). Left and right are the patient's."""

    width_left: float  # half-width of the thoracic cavity on the left
    width_right: float
    taper: float  # how much the cavity widens per unit below its middle
    dome_left: float  # level of the left dome of the diaphragm
    dome_right: float
    sulcus: float  # how far the costophrenic angles lie below the domes
    wall: float  # thickness of the chest wall at the sides
    mediastinum: float  # half-width of the upper mediastinum
    heart_left: float  # how far the heart reaches to the left of the midline
    heart_right: float
    heart_y: float  # level of the middle of the heart
    heart_height: float  # half of the heart's height
    heart_angle: float  # tilt of its long axis, radians
    knob: float  # radius of the aortic knob
    knob_y: float
    carina: float  # level
    hilum: float  # level of both hila
    rib_spacing: float  # distance between neighbouring posterior ribs
    rib_phase: float  # where the first rib begins, 0..1 of the spacing
    rib_slope: float  # how steeply the posterior ribs fall towards the side
    rib_width: float
    bone: float  # strength of the bones
    fat: float  # density of the soft tissue in front of the lungs
    breast: float  # size, 0 for none
    breast_y: float  # level of the lower edge of the breasts
    shoulder: float  # level
    arm: float  # distance of the arms from the chest wall
    stomach: float  # size of the air bubble in the stomach, 0 for none
    aeration: float  # how dark the lungs are, about 1
    vessels: float  # strength of the lung vessels, about 1

    def half(self, sign: int) -> Half:
        """One side: +1 for the left (x > 0), -1 for the right."""
        if sign > 0:
            return Half(self.width_left, self.dome_left, self.heart_left)
        return Half(self.width_right, self.dome_right, self.heart_right)

    def width(self, x: Field) -> Field:
        """Half-width of the cavity on each point's side."""
        return np.where(x > 0, np.float32(self.width_left), np.float32(self.width_right))

    def depth(self, x: Field, y: Field) -> Field:
        """Roughly the distance inwards from the thoracic wall; negative outside. The diaphragm is not part of it."""
        half = self.width(x) * (1 + self.taper * (np.maximum(y, 0.5) - 0.5))
        across, middle = np.abs(x), 0.47
        crest = half * 0.47
        lateral = np.maximum(across - crest, 0) / (half - crest)
        medial = np.maximum(crest - across, 0) / (crest + 0.1)
        up = np.maximum(middle - y, 0) / middle
        # A superellipse of power 2.5: squarer than an ellipse at the shoulders of the lung.
        across = lateral + medial
        radius = (across * across * np.sqrt(across) + up * up * np.sqrt(up)) ** 0.4
        return (1 - radius) * (half - crest)

    def dome(self, x: Field) -> Field:
        """Level of the diaphragm above or below each point."""
        width = self.width(x)
        level = np.where(x > 0, np.float32(self.dome_left), np.float32(self.dome_right))
        crest = width * 0.42
        offset = (np.abs(x) - crest) / (width - crest)
        lateral, medial = np.maximum(offset, 0), np.maximum(-offset, 0)
        return level + self.sulcus * lateral**2 * (0.35 + 0.65 * lateral**2) + 0.09 * medial**2

    def rib_fall(self, x: Field) -> Field:
        """How far a posterior rib has fallen from the spine to each point; near the wall it turns downwards."""
        across = np.abs(x) / self.width(x)
        return self.rib_slope * across * (0.3 + across) + 1.6 * np.maximum(across - 0.72, 0) ** 2

    def heart(self, x: Field, y: Field) -> Field:
        """Distance inwards from the heart's outline; negative outside."""
        across, tall = self.heart_left + self.heart_right, self.heart_height
        # The left ventricle points down and to the left; the right atrium is a shallow bulge on the right; above
        # them the outline tapers into the great vessels.
        ventricle = ellipse(
            x, y, self.heart_left - 0.385 * across, self.heart_y + 0.2 * tall, 0.44 * across, 0.8 * tall,
            self.heart_angle,
        )  # fmt: skip
        atrium = ellipse(x, y, -self.heart_right + 0.34 * across, self.heart_y + 0.2 * tall, 0.34 * across, 0.85 * tall)
        base = ellipse(x, y, 0.03, self.heart_y - 0.45 * tall, 0.27 * across, 1.0 * tall, -0.12)
        outline = smooth_minimum(smooth_minimum(ventricle, atrium, 0.3), base, 0.3)
        return (1 - outline) * (0.35 * across)

    def mediastinal_width(self, x: Field, y: Field) -> Field:
        """Distance inwards from the mediastinum's outline, the heart left out; negative outside."""
        narrow = self.mediastinum * (1 - 0.1 * np.cos(7 * y + 0.4)) + 0.16 * np.maximum(-y, 0) ** 2
        band = narrow - np.abs(x - 0.015)
        knob = ellipse(x, y, self.mediastinum * 0.72, self.knob_y, self.knob, 1.15 * self.knob)
        trunk = ellipse(x, y, 0.08, self.knob_y + 0.17, 0.115, 0.12, -0.3)
        bulges = (1 - smooth_minimum(knob, trunk, 0.5)) * self.knob
        return -smooth_minimum(-band, -bulges, 0.03)

    def outlines(self, x: Field, y: Field) -> Outlines:
        """All of the above for the same points."""
        return Outlines(self.depth(x, y), self.dome(x) - y, self.heart(x, y), self.mediastinal_width(x, y))


@dataclass(frozen=True)
class Outlines:
    """How far points lie inside a body's outlines, in body units; negative outside."""

    inward: Field  # from the thoracic wall
    above: Field  # above the diaphragm
    heart: Field
    mediastinum: Field

    def air(self, softness: float) -> Field:
        """How much of a ray through each point runs through aerated lung, 0..1."""
        air = 1 - np.exp(np.maximum(self.inward, 0) * (-1 / 0.06))
        air *= edge(self.above, softness)
        air *= 1 - edge(self.mediastinum, 2 * softness)
        air *= 1 - 0.86 * edge(self.heart, 1.6 * softness)
        return air


_RANGES = {
    "taper": (-0.05, 0.14), "sulcus": (0.13, 0.24), "mediastinum": (0.105, 0.15), "heart_height": (0.27, 0.33),
    "heart_angle": (0.3, 0.8), "knob": (0.07, 0.105), "knob_y": (0.2, 0.28), "carina": (0.3, 0.37), "hilum": (0.45, 0.54),
    "rib_spacing": (0.1, 0.125), "rib_phase": (0, 1), "rib_slope": (0.1, 0.24), "rib_width": (0.034, 0.046),
    "bone": (0.7, 1.3), "breast_y": (0.82, 1.12), "shoulder": (-0.1, 0.12), "arm": (0.02, 0.3), "aeration": (0.88, 1.08),
    "vessels": (0.7, 1.25),
}  # fmt: skip
"""Fields of a body that depend on nothing else."""


def sample_body(rng: Generator, female: bool) -> Body:
    """A healthy build: heart, diaphragm, mediastinum and lungs within normal limits."""
    between = rng.uniform
    width = between(0.55, 0.75)
    dome = between(0.92, 1.08)
    # Widest heart over widest cavity stays below one half.
    ratio = between(0.37, 0.5)
    right_share = between(0.28, 0.38)
    large = between(0, 1) ** 2

    def drawn(*names: str) -> dict[str, float]:
        return {name: between(*_RANGES[name]) for name in names}

    return Body(
        width_left=width * between(0.94, 1.05),
        width_right=width * between(0.96, 1.06),
        **drawn("taper"),
        dome_left=dome + between(-0.03, 0.08),
        dome_right=dome,
        **drawn("sulcus"),
        wall=between(0.05, 0.11) + 0.2 * large,
        **drawn("mediastinum"),
        heart_left=2 * width * ratio * (1 - right_share),
        heart_right=2 * width * ratio * right_share,
        heart_y=dome - between(0.19, 0.25),
        **drawn("heart_height", "heart_angle", "knob", "knob_y", "carina", "hilum"),
        **drawn("rib_spacing", "rib_phase", "rib_slope", "rib_width", "bone"),
        fat=between(0.0, 0.1) + 0.1 * large,
        breast=between(0.5, 1.2) if female else between(0, 0.35),
        **drawn("breast_y", "shoulder", "arm"),
        stomach=between(0.4, 1.0) if rng.random() < 0.7 else 0.0,
        **drawn("aeration", "vessels"),
    )
