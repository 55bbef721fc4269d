"""Findings of the lungs. Each painter changes the chest and returns where the film was changed."""

from __future__ import annotations

import numpy as np

from medslip.phantoms.body import Body
from medslip.phantoms.canvas import Stroke, curve, edge
from medslip.phantoms.chest import Chest
from medslip.phantoms.painting import Mask, add, opacify, spot
from medslip.phantoms.plans import Plan


def paint_edema(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """Clouds around the hila, blurred vessels, septal lines at the bases."""
    canvas, body = chest.canvas, chest.body
    shape = np.zeros_like(canvas.x)
    for sign in (-1, 1):
        reach = rng.uniform(0.75, 1.2)
        x, y = sign * rng.uniform(0.26, 0.34), body.hilum + rng.uniform(0.02, 0.2)
        wing = canvas.blob(x, y, 0.21 * reach, 0.27 * reach, 0.25 * sign)
        shape += np.exp(-(wing**2)) * np.float32(rng.uniform(0.7, 1.15))
    cloud = np.clip(0.85 + 0.42 * canvas.noise(rng, 26) + 0.3 * canvas.noise(rng, 52), 0.1, 1.9)
    opacify(chest, shape * cloud, 0.14 + 0.12 * plan.degree)
    # Fluid around them blurs the vessels; it marks the septa at the periphery of the bases.
    chest.density -= 0.7 * chest.vessels * np.minimum(shape, 1)
    lines: list[Stroke] = []
    for _ in range(30):
        sign = int(rng.choice((-1, 1)))
        width = body.width_left if sign > 0 else body.width_right
        x, y = sign * width * rng.uniform(0.84, 0.96), rng.uniform(0.5, 1.0)
        lines.append((np.asarray([(x, y), (x - sign * 0.08, y + 0.004)], np.float32), 0.01, 0.9))
    chest.density += 0.18 * canvas.strokes(lines) * chest.air
    return (shape > 0.4) & (chest.air > 0.2)


def paint_emphysema(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """Thin-walled bullae without vessels."""
    canvas = chest.canvas
    inside = np.zeros_like(canvas.x)
    walls = np.zeros_like(canvas.x)
    x, y = spot(chest, plan, rng, 0.12)
    for _ in range(int(rng.integers(4, 7))):
        radius = rng.uniform(0.065, 0.115)
        bulla = canvas.blob(x + rng.normal(0, 0.07), y + rng.normal(0, 0.09), radius, radius * rng.uniform(0.8, 1.2))
        inside = np.maximum(inside, canvas.edge(1 - bulla, 0.1))
        walls = np.maximum(walls, np.exp(-(((bulla - 1) * np.float32(radius) / 0.008) ** 2)))
    air = chest.air > 0.15
    chest.density -= inside * air * (0.13 + 0.9 * chest.vessels)
    chest.density += 0.22 * walls * air
    return (inside > 0.4) & air


def paint_consolidation(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """A filled lobe: ragged, with air-filled bronchi."""
    canvas, body = chest.canvas, chest.body
    if plan.site.anatomy == "middle_right_lobe":
        x, y = -(body.heart_right + 0.14), rng.uniform(0.64, 0.74)
    else:
        x, y = spot(chest, plan, rng, 0.1)
    size = 0.15 + 0.09 * plan.degree
    radius = canvas.blob(x, y, size * rng.uniform(0.95, 1.4), size * rng.uniform(0.8, 1.1), rng.uniform(-0.6, 0.6))
    ragged = 1 - radius + 0.2 * canvas.noise(rng, 18) + 0.12 * canvas.noise(rng, 40)
    shape = edge(ragged, 0.8) * (canvas.x * plan.sign > 0)
    fissure = {"upper": canvas.edge(0.48 - canvas.y, 0.03), "lower": canvas.edge(canvas.y - 0.5, 0.05)}
    shape *= fissure.get(plan.level, canvas.edge(canvas.y - 0.52, 0.03))
    mask = opacify(chest, shape, 0.34)
    # Air-filled bronchi stand out against the filled lung.
    heading = np.arctan2(y - body.hilum, x - plan.sign * 0.2)
    air: list[Stroke] = []
    for _ in range(4):
        turn = heading + rng.normal(0, 0.5)
        start = (x + rng.normal(0, 0.4 * size), y + rng.normal(0, 0.35 * size))
        end = (start[0] + 0.6 * size * np.cos(turn), start[1] + 0.6 * size * np.sin(turn))
        air.append((np.asarray((start, end), np.float32), 0.014, 0.9))
    chest.density -= 0.18 * canvas.strokes(air) * shape * chest.air
    return mask & (shape > 0.4)


def paint_infiltrate(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """Many small fuzzy patches."""
    canvas = chest.canvas
    x, y = spot(chest, plan, rng, 0.12)
    region = canvas.blob(x, y, 0.23, 0.23)
    spots = []
    for _ in range(int(30 + 16 * plan.degree)):
        angle, away = rng.uniform(0, 2 * np.pi), 0.23 * np.sqrt(rng.uniform())
        spots.append(
            (x + away * np.cos(angle), y + away * np.sin(angle), rng.uniform(0.022, 0.038), rng.uniform(0.6, 1))
        )
    patches = canvas.spots(spots)
    shape = patches * (canvas.x * plan.sign > 0)
    opacify(chest, shape, 0.42)
    return (region < 1.06) & (chest.air > 0.15) & (canvas.x * plan.sign > 0)


def paint_atelectasis(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """One to three plates above the diaphragm."""
    canvas, body = chest.canvas, chest.body
    dome = body.dome_left if plan.sign > 0 else body.dome_right
    width = body.width_left if plan.sign > 0 else body.width_right
    plates: list[Stroke] = []
    y = dome - rng.uniform(0.07, 0.13)
    inner = body.heart_left if plan.sign > 0 else body.heart_right
    tilt = rng.normal(0, 0.05)
    for _ in range(int(rng.integers(1, 4))):
        start = max(inner * 0.85, 0.2) + rng.uniform(0, 0.06)
        end = min(start + rng.uniform(0.24, 0.4), width * 0.96)
        slope = tilt + rng.normal(0, 0.015)
        line = curve((plan.sign * start, y), (plan.sign * (start + end) / 2, y + slope + 0.01),
                     (plan.sign * end, y + 2 * slope))  # fmt: skip
        plates.append((line, rng.uniform(0.02, 0.032), float(rng.uniform(0.8, 1))))
        y -= rng.uniform(0.06, 0.1)
    return opacify(chest, canvas.strokes(plates), 0.36 + 0.08 * plan.degree)


def paint_mass(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """A large lobulated opacity with spicules."""
    size = 0.11 + 0.05 * plan.degree
    x, y = spot(chest, plan, rng, 0.09)
    canvas = chest.canvas
    angle = np.arctan2(canvas.y - np.float32(y), canvas.x - np.float32(x))
    lobes = 1 + 0.1 * np.cos(3 * angle + rng.uniform(0, 6)) + 0.06 * np.cos(5 * angle + rng.uniform(0, 6))
    radius = canvas.blob(x, y, size * rng.uniform(0.9, 1.15), size) / lobes.astype(np.float32)
    shape = edge(1 - radius, 0.2) * (0.85 + 0.15 * np.sqrt(np.clip(1 - radius, 0, 1)))
    spicules: list[Stroke] = []
    for turn in rng.uniform(0, 2 * np.pi, 16):
        start, end = 0.8 * size, size * rng.uniform(1.2, 1.7)
        points = [(x + reach * np.cos(turn), y + reach * np.sin(turn)) for reach in (start, end)]
        spicules.append((np.asarray(points, np.float32), 0.012, float(rng.uniform(0.25, 0.5))))
    return opacify(chest, np.maximum(shape, canvas.strokes(spicules)), 0.54)


def paint_nodule(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """A small round opacity."""
    size = 0.054 + 0.02 * plan.degree
    x, y = spot(chest, plan, rng, size + 0.03)
    radius = chest.canvas.blob(x, y, size * rng.uniform(0.9, 1.1), size)
    return opacify(chest, edge(1 - radius, 0.4), 0.44)


def paint_calcification(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """A cluster of grains as dense as metal."""
    canvas = chest.canvas
    x, y = spot(chest, plan, rng, 0.06)
    shape = np.zeros_like(canvas.x)
    for _ in range(int(rng.integers(3, 6))):
        size = rng.uniform(0.022, 0.036)
        grain = canvas.blob(x, y, size * rng.uniform(0.8, 1.25), size, rng.uniform(0, 3))
        shape = np.maximum(shape, edge(1 - grain + 0.12 * canvas.noise(rng, 60), 0.35))
        x, y = x + rng.normal(0, 0.05), y + rng.normal(0, 0.05)
    return add(chest, shape * (canvas.x * plan.sign > 0), 0.75)
