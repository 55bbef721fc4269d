"""Draws a healthy chest: how much each ray is attenuated by soft tissue, air and bone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from medslip.phantoms.body import Body, Outlines
from medslip.phantoms.canvas import Canvas, Field, Point, Stroke, curve


@dataclass
class Chest:
    """A chest being drawn. Findings add to, or take from, ``density``; fields are side x side."""

    canvas: Canvas
    body: Body  # the build, with changes of shape that findings make
    healthy: Body  # the build without them
    density: Field  # attenuation: 0 air around the body, about 0.3 lung, 0.75 soft tissue, 1 bone
    air: Field  # fraction of each ray in aerated lung
    outlines: Outlines  # where each pixel lies relative to the outlines of ``body``
    vessels: Field  # what the lung vessels contribute to ``density``
    ribs: Field  # what the ribs contribute to it


def draw_chest(canvas: Canvas, body: Body, healthy: Body, rng: Generator) -> Chest:
    """A chest of the given build, without findings other than those of its shape; ``rng`` is of vessels and texture."""
    y = canvas.y
    outlines = body.outlines(canvas.x, y)
    air = outlines.air(max(0.02, canvas.pixel))
    density = _soft_tissue(canvas, body)
    density += 0.02 * canvas.noise(rng, 7) * density
    density += _trunk(canvas, body, outlines)
    density -= 0.5 * body.aeration * air
    _add_breasts(canvas, body, density)
    # Lungs are never uniform: the bases hold more blood, and are denser.
    density += air * (0.05 * (y - 0.5) + 0.015 * canvas.noise(rng, 9) + 0.008 * canvas.noise(rng, 40))
    vessels = _vessels(canvas, body, rng) * air
    density += vessels
    density -= 0.13 * canvas.strokes(airways(body))  # dark
    ribs = _ribs(canvas, body, outlines, rng)
    density += ribs
    density += _skeleton(canvas, body)
    return Chest(canvas, body, healthy, density, air, outlines, vessels, ribs)


def _soft_tissue(canvas: Canvas, body: Body) -> Field:
    """Torso, neck, shoulders and arms, as thickness."""
    x, y = canvas.x, canvas.y
    across = np.abs(x)
    half = body.width(x) * 1.02 + body.wall * (1 + 0.25 * np.maximum(y, 0))
    top = body.shoulder - 0.03 - 0.24 * np.exp(-np.maximum(across - 0.16, 0) / 0.2)
    round_torso = np.sqrt(np.clip(1 - (across / (half + 0.04)) ** 2, 0, 1))
    torso = canvas.edge(half - across, 0.05) * (0.5 + 0.25 * round_torso)
    upper = 0.56 * canvas.edge(y - top, 0.06) * canvas.edge(body.shoulder + 0.42 - y, 0.3)
    upper *= canvas.edge(half + 0.42 - across, 0.12)
    neck = canvas.edge(0.19 + 0.05 * np.maximum(-y, 0) - across, 0.06) * 0.62
    start = float(half.max()) + 0.04
    shoulder, elbow = (start, body.shoulder + 0.18), (start + 0.2 + 1.5 * body.arm, 1.5)
    arms = canvas.edge(0.15 - _distance(across, y, shoulder, elbow), 0.04)
    torso *= canvas.edge(y - top, 0.08)
    neck *= canvas.edge(0.3 - y, 0.2)
    return np.maximum.reduce([torso, upper, neck, 0.5 * arms]) + np.float32(body.fat) * (torso > 0.2)


def _distance(x: Field, y: Field, start: Point, end: Point) -> Field:
    """Distance of points from a line segment."""
    ahead, down = end[0] - start[0], end[1] - start[1]
    dx, dy = x - start[0], y - start[1]
    along = np.clip((dx * ahead + dy * down) * (1 / (ahead**2 + down**2)), 0, 1)
    return np.hypot(dx - along * ahead, dy - along * down)


def _trunk(canvas: Canvas, body: Body, outlines: Outlines) -> Field:
    """Mediastinum, heart, spine and what lies below the diaphragm."""
    x, y = canvas.x, canvas.y
    cavity = canvas.edge(outlines.inward + 0.05, 0.1)
    belly = canvas.edge(-outlines.above, 0.05) * canvas.edge(body.width(x) + 0.03 - np.abs(x), 0.1)
    density = 0.12 * belly
    density += 0.1 * canvas.edge(outlines.mediastinum, 0.05) * cavity
    heart = np.maximum(outlines.heart, 0)
    density += 0.14 * np.sqrt(np.minimum(heart * 4, 1)) * (1 - 0.6 * belly)
    spine = canvas.edge(0.085 - np.abs(x), 0.04)
    disc = np.cos((y + body.rib_phase * body.rib_spacing) * (2 * np.pi / body.rib_spacing))
    density += 0.055 * body.bone * spine * (1 + 0.35 * disc)
    # The pedicles and spinous processes show as paired dots along the midline.
    density += 0.05 * body.bone * np.maximum(disc, 0) ** 3 * np.exp(-(((np.abs(x) - 0.055) / 0.014) ** 2))
    density += 0.04 * body.bone * np.maximum(-disc, 0) ** 2 * np.exp(-((x / 0.014) ** 2))
    if body.stomach:
        cx, cy = 0.42 * body.width_left, body.dome_left + 0.13 * body.stomach
        bubble = 1 - canvas.blob(cx, cy, 0.17 * body.stomach, 0.085 * body.stomach, -0.15)
        density -= 0.2 * canvas.edge(bubble, 0.3) * belly
    aorta = canvas.edge(0.12 + 0.03 * body.knob - x, 0.02) * canvas.edge(x, 0.1)
    density += 0.03 * aorta * canvas.edge(y - body.knob_y, 0.1) * (1 - belly)
    return density


def _add_breasts(canvas: Canvas, body: Body, density: Field) -> None:
    if body.breast < 0.15:
        return
    radius = 0.24 + 0.12 * body.breast
    for sign in (1, -1):
        disc = canvas.blob(sign * (0.58 * body.half(sign).width + 0.05), body.breast_y - radius, radius, radius)
        # Fullest at the lower edge, where the fold is.
        low = np.clip((canvas.y - (body.breast_y - 1.9 * radius)) * (0.53 / radius), 0, 1)
        density += 0.12 * min(body.breast, 1) * canvas.edge(1 - disc, 0.12) * low


def airways(body: Body) -> list[Stroke]:
    """The main bronchi and, last, the trachea."""
    carina = body.carina
    trachea = curve((0.0, -0.7), (0.005, 0.0), (-0.012, carina))
    right = curve((-0.012, carina), (-0.09, carina + 0.1), (-0.16, carina + 0.16))
    left = curve((-0.012, carina), (0.1, carina + 0.08), (0.19, carina + 0.13))
    return [(right, 0.055, 0.6), (left, 0.05, 0.6), (trachea, 0.082, 1.0)]


def hilum(body: Body, sign: int) -> list[Stroke]:
    """The pulmonary arteries of one side, which are the hilum's shadow."""
    x, y = _hilum_at(body, sign)
    low = curve((x, y), (x + sign * 0.045, y + 0.08), (x + sign * 0.06, y + 0.2), (x + sign * 0.06, y + 0.3))
    upper = curve((x - sign * 0.06, y - 0.1), (x, y - 0.03), (x + sign * 0.04, y + 0.05))
    branch = curve((x, y - 0.02), (x + sign * 0.06, y - 0.09))
    return [(low, 0.045, 0.62), (low[:14], 0.055, 0.75), (upper, 0.06, 0.7), (branch, 0.032, 0.75)]


def _hilum_at(body: Body, sign: int) -> Point:
    return sign * (body.mediastinum + 0.07), body.hilum - 0.03 * (sign > 0)


def _vessels(canvas: Canvas, body: Body, rng: Generator) -> Field:
    """Arteries and veins that leave the hila and branch towards the periphery."""
    strokes: list[Stroke] = []
    for sign in (1, -1):
        width = body.half(sign).width
        x, y = _hilum_at(body, sign)
        # Angles from straight up (0) over outwards to straight down (pi).
        for angle in np.linspace(0.25, 2.95, 9):
            turn = angle + rng.normal(0, 0.16)
            reach = (0.62 if turn > 1.1 else 0.5) * width / 0.65 * rng.uniform(0.8, 1.2)
            start = (x + rng.normal(0, 0.015), y + 0.1 * (turn - 1.5) + rng.normal(0, 0.02))
            strokes += _branch(rng, sign, start, turn, reach, 0.025, forks=3)
        strokes += hilum(body, sign)
    strokes.sort(key=lambda stroke: stroke[2])
    return 0.14 * body.vessels * canvas.strokes(strokes)


def _branch(
    rng: Generator, sign: int, start: Point, angle: float, reach: float, width: float, forks: int
) -> Iterator[Stroke]:
    """A vessel and all that branches off it."""
    # Plain draws: a chest has hundreds of branches, and rng.uniform is several times slower.
    length = reach * (0.36 if forks else 0.8) * (0.7 + 0.6 * rng.random())
    bend = angle + 0.25 * rng.standard_normal()
    half = length / 2
    middle = (start[0] + sign * math.sin(angle) * half, start[1] - math.cos(angle) * half)
    end = (middle[0] + sign * math.sin(bend) * half, middle[1] - math.cos(bend) * half)
    yield (start, middle, end), width, 0.16 + 17 * width
    if forks:
        for turn in (-1, 1):
            away = bend + turn * (0.12 + 0.43 * rng.random())
            yield from _branch(rng, sign, end, away, reach - length * 0.75, width * 0.64, forks - 1)


def _ribs(canvas: Canvas, body: Body, outlines: Outlines, rng: Generator) -> Field:
    """Posterior ribs, falling outwards, and the fainter anterior ribs, falling inwards."""
    across = np.abs(canvas.x) / body.width(canvas.x)
    cage = canvas.edge(outlines.inward + 0.055, 0.05)
    posterior = canvas.y - body.rib_fall(canvas.x)
    density = _rib_rows(canvas, posterior, body.rib_spacing, body.rib_phase, body.rib_width, rng)
    density *= canvas.edge(across - 0.12, 0.1) * (0.7 + 0.5 * across)
    anterior = canvas.y + 0.42 * across - 1.1 * np.maximum(across - 0.72, 0) ** 2 - 0.12
    front = _rib_rows(canvas, anterior, body.rib_spacing * 1.12, 1 - body.rib_phase, body.rib_width * 1.15, rng)
    front *= canvas.edge(across - 0.45, 0.35) * 0.6
    # Thick tissue in front scatters, and hides them.
    seen = 0.3 + 0.7 * canvas.edge(outlines.above, 0.1)
    seen *= 1 - 0.45 * canvas.edge(outlines.heart, 0.1)
    return 0.065 * body.bone * (density + front) * cage * seen


def _rib_rows(canvas: Canvas, level: Field, spacing: float, phase: float, width: float, rng: Generator) -> Field:
    """Parallel bands along lines of equal level: bright margins, paler marrow."""
    order = level / spacing + phase
    index = np.floor(order)
    jitter = rng.normal(0, 0.05, 64).astype(np.float32)
    offset = np.abs(order - index - 0.5 + jitter[index.astype(np.int32) % 64]) * spacing
    half = np.float32(width / 2)
    body = canvas.edge(half - offset, 0.012)
    margin = np.exp(-(((offset - half * 0.75) / 0.008) ** 2))
    return 0.7 * body + 0.45 * margin


def _skeleton(canvas: Canvas, body: Body) -> Field:
    """Clavicles, scapulae and upper arms."""
    outer, inner = [], []
    faint: list[Stroke] = []
    shoulder = body.shoulder
    for sign in (1, -1):
        width = body.half(sign).width
        tip = width * 1.22 + 0.1
        clavicle = curve(
            (sign * 0.085, 0.19), (sign * 0.25, 0.155 + 0.15 * shoulder), (sign * width * 0.7, 0.1 + 0.6 * shoulder),
            (sign * width, 0.01 + shoulder), (sign * tip, 0.02 + shoulder),
        )  # fmt: skip
        outer.append((clavicle, 0.058, 0.75))
        inner.append((clavicle, 0.032, 0.3))
        head = [(sign * (tip + 0.05), shoulder + 0.14), (sign * (tip + 0.051), shoulder + 0.15)]
        joint, elbow = (sign * (tip + 0.05), shoulder + 0.15), (sign * (tip + 0.12 + body.arm), 0.7)
        arm = curve(joint, elbow, (sign * (tip + 0.16 + 1.5 * body.arm), 1.5))
        blade = curve(
            (sign * (tip - 0.05), shoulder + 0.06), (sign * width * 0.86, shoulder + 0.13),
            (sign * width * 0.93, shoulder + 0.36), (sign * (width + 0.02), shoulder + 0.58),
        )  # fmt: skip
        spine = curve((sign * width * 0.86, shoulder + 0.13), (sign * tip, shoulder + 0.04))
        faint += [(head, 0.19, 0.55), (arm, 0.085, 0.6), (blade, 0.022, 0.55), (spine, 0.03, 0.5)]
    bones = canvas.strokes(outer) * (1 - 0.5 * canvas.strokes(inner)) + 0.8 * canvas.strokes(faint)
    return 0.16 * body.bone * bones
