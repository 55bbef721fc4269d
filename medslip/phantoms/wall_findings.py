"""Findings of pleura, diaphragm, heart and ribs. Each painter changes the chest and returns where the film was changed."""

from __future__ import annotations

import numpy as np

from medslip.phantoms.body import Body
from medslip.phantoms.canvas import Stroke
from medslip.phantoms.chest import Chest
from medslip.phantoms.painting import Mask, add
from medslip.phantoms.plans import Plan


def paint_effusion(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """Fluid in the costophrenic angle, with a meniscus."""
    canvas, body, sign = chest.canvas, chest.body, plan.sign
    width = body.width_left if sign > 0 else body.width_right
    dome = body.dome_left if sign > 0 else body.dome_right
    lateral = sign * canvas.x / np.float32(width)
    # The fluid's surface climbs towards the wall: a meniscus.
    top = dome + 0.06 - (0.1 + 0.32 * plan.degree)
    surface = top + 0.14 * (1 - lateral) - 0.12 * np.exp((lateral - 1) / 0.1)
    fluid = canvas.edge(canvas.y - surface, 0.05) * (lateral > 0)
    fluid *= canvas.edge(chest.outlines.inward, 0.03)
    change = 0.52 * fluid * chest.air
    chest.density += change + 0.06 * fluid
    return (fluid > 0.4) & (chest.air > 0.12)


def paint_pneumothorax(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """A visceral line around the lung, and air without vessels beyond it."""
    canvas = chest.canvas
    gap = 0.1 + 0.13 * plan.degree
    floor = rng.uniform(0.7, 1.1)
    # The lung falls away from the wall, most at the apex.
    distance = gap * np.clip(1.15 - canvas.y / floor, 0, 1) * (1 + 0.06 * np.sin(9 * canvas.y + rng.uniform(0, 6)))
    side = canvas.x * plan.sign > 0.06
    free = canvas.edge(distance - chest.outlines.inward, 0.012) * side * (distance > 0.02)
    line = np.exp(-(((chest.outlines.inward - distance) / 0.009) ** 2)) * side * (distance > 0.02)
    air = chest.air > 0.1
    chest.density -= free * (chest.vessels + 0.11 * air)
    chest.density += air * (0.2 * line + 0.05 * (1 - free) * side)
    return (free > 0.5) & (chest.outlines.inward > 0) & (chest.outlines.above > 0)


def paint_elevation(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """What lies between the high dome and where it would be."""
    canvas = chest.canvas
    lung = before.outlines(canvas.x, canvas.y).air(0.02)
    return (chest.outlines.above < 0) & (lung > 0.15) & (canvas.x * plan.sign > 0)


def paint_cardiomegaly(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """The large heart, drawn with the body."""
    canvas = chest.canvas
    inside = chest.outlines.heart > 0
    inside &= canvas.y > chest.body.heart_y - 0.85 * chest.body.heart_height
    return inside & (chest.outlines.above > -0.03) & (chest.outlines.inward > -0.02)


def paint_thicken(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """A lumpy rind inside the lateral chest wall."""
    canvas = chest.canvas
    top = rng.uniform(0.08, 0.35)
    length = rng.uniform(0.38, 0.6)
    along = (canvas.y - np.float32(top)) / np.float32(length)
    profile = np.clip(along * (1 - along) * 4, 0, 1) ** np.float32(0.4)
    waves = 1 + 0.14 * np.sin(13 * canvas.y + rng.uniform(0, 6)) + 0.1 * np.sin(29 * canvas.y + rng.uniform(0, 6))
    depth = (0.105 + 0.055 * plan.degree) * profile * waves
    lateral = canvas.x * plan.sign > 0.3
    shape = (
        canvas.edge(depth - chest.outlines.inward, 0.012)
        * lateral
        * (depth > 0.01)
        * canvas.edge(chest.outlines.inward + 0.01, 0.02)
    )
    chest.density += shape * (0.48 * chest.air + 0.18)
    return (shape > 0.4) & (chest.outlines.inward > 0)


def paint_hernia(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """A sac behind the heart with a fluid level."""
    canvas, body = chest.canvas, chest.body
    size = 0.12 + 0.04 * plan.degree
    x = rng.uniform(0.0, 0.13)
    y = float(body.dome(np.asarray([x], np.float32))[0]) - size * rng.uniform(0.55, 0.85)
    radius = canvas.blob(x, y, size * rng.uniform(1.0, 1.25), size)
    sac = canvas.edge((1 - radius) * np.float32(size), 0.02)
    rim = np.exp(-(((radius - 0.95) * np.float32(size) / 0.012) ** 2))
    level = y - size * rng.uniform(-0.1, 0.3)
    gas = canvas.edge((0.93 - radius) * np.float32(size), 0.015) * canvas.edge(np.float32(level) - canvas.y, 0.012)
    chest.density += 0.07 * sac + 0.1 * rim * (radius < 1.2) - 0.3 * gas
    return radius < 1.05


def paint_fracture(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """Neighbouring ribs broken, displaced, with callus."""
    canvas, body, sign = chest.canvas, chest.body, plan.sign
    width = body.width_left if sign > 0 else body.width_right
    share = rng.uniform(0.66, 0.84)
    first = int(np.ceil((rng.uniform(0.1, 0.4) / body.rib_spacing) + body.rib_phase))
    stubs: list[Stroke] = []
    knobs: list[Stroke] = []
    for number in range(first, first + int(rng.integers(3, 5))):
        broken = share + rng.normal(0, 0.02)
        level = (number + 0.5 - body.rib_phase) * body.rib_spacing
        shift = 0.03 * float(rng.choice((-1, 1)))
        # The two ends overlap, one above the other, and lean towards each other's place.
        for start, end, lean in ((broken - 0.2, broken + 0.03, -shift), (broken + 0.17, broken - 0.03, shift)):
            across = (sign * width * np.linspace(start, end, 6)).astype(np.float32)
            down = level + body.rib_fall(across) + lean * np.linspace(0, 1, 6, dtype=np.float32)
            stubs.append((np.stack([across, down], axis=1), 0.036, 1.0))
        cx = np.asarray([sign * width * broken], np.float32)
        cy = level + body.rib_fall(cx)
        knobs.append((np.asarray([(cx[0], cy[0] - 0.012), (cx[0], cy[0] + 0.012)], np.float32), 0.062, 1.0))
    bones, callus = canvas.strokes(stubs), canvas.strokes(knobs)
    # The unbroken rib gives way to the displaced ends and their callus.
    chest.density -= chest.ribs * np.maximum(callus, bones) * 0.8
    shape = np.maximum(bones * 0.65, callus)
    return add(chest, shape, 0.42)
