"""Devices. Each painter changes the chest and returns where the film was changed."""

from __future__ import annotations

import numpy as np

from medslip.phantoms.body import Body
from medslip.phantoms.canvas import Stroke, curve
from medslip.phantoms.chest import Chest
from medslip.phantoms.painting import Mask, add
from medslip.phantoms.plans import Plan


def paint_pacemaker(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """A generator below the clavicle, and its leads to the heart."""
    canvas, body, sign = chest.canvas, chest.body, plan.sign
    width = body.width_left if sign > 0 else body.width_right
    x, y = sign * width * rng.uniform(0.68, 0.9), 0.12 + 0.5 * body.shoulder + rng.uniform(0, 0.1)
    tilt = rng.uniform(-0.3, 0.3)
    across, down = canvas.x - np.float32(x), canvas.y - np.float32(y)
    u = np.abs(np.cos(tilt) * across + np.sin(tilt) * down) / np.float32(rng.uniform(0.085, 0.1))
    v = np.abs(np.cos(tilt) * down - np.sin(tilt) * across) / np.float32(rng.uniform(0.07, 0.085))
    can = canvas.edge((1 - (u**3 + v**3) ** np.float32(1 / 3)) * 0.08, 0.012)
    vein = curve(
        (x, y + 0.03), (x - sign * 0.12, y - 0.06), (sign * 0.26, 0.1), (sign * 0.06 - 0.05, 0.2), (-0.1, 0.34),
        (-0.12, 0.55), (-0.11, body.heart_y),
    )  # fmt: skip
    tip_y = body.heart_y + 0.55 * body.heart_height
    ventricle = curve((-0.11, body.heart_y - 0.05), (-0.04, tip_y - 0.02), (0.1, tip_y + 0.02),
                      (body.heart_left * 0.62, tip_y))  # fmt: skip
    leads: list[Stroke] = [(vein, 0.014, 0.8), (ventricle, 0.014, 0.8)]
    if rng.random() < 0.6:
        loop = curve((-0.11, body.heart_y - 0.1), (-0.1, body.heart_y + 0.1), (-0.03, body.heart_y + 0.02))
        leads.append((loop, 0.014, 0.8))
    wires = canvas.strokes(leads)
    chest.density += 0.6 * can + 0.36 * wires
    return (can > 0.4) | (wires > 0.25)


def paint_tube(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """A tube in the trachea, its tip above the carina."""
    canvas, body = chest.canvas, chest.body
    tip = body.carina - rng.uniform(0.06, 0.13)
    top = rng.normal(0, 0.03)
    line = curve((top, -0.6), (top / 2, -0.1), (-0.008, tip - 0.08), (-0.008, tip))
    # The wall shows twice, edge on; the lumen between is dark.
    tube, lumen = canvas.strokes([(line, 0.078, 1.0)]), canvas.strokes([(line, 0.036, 1.0)])
    chest.density += 0.5 * tube - 0.55 * lumen
    return tube > 0.4


def paint_catheter(chest: Chest, plan: Plan, rng: np.random.Generator, before: Body) -> Mask:
    """A line through the jugular or the subclavian vein to the superior vena cava."""
    canvas, body, sign = chest.canvas, chest.body, plan.sign
    tip = (-(body.mediastinum - 0.03), rng.uniform(0.38, 0.52))
    start = -0.1 if sign < 0 else 0.08
    if rng.random() < 0.5:  # through the jugular vein
        points = [(sign * rng.uniform(0.14, 0.2), -0.6), (sign * 0.15, -0.15), (sign * 0.13, 0.1)]
    else:  # through the arm and the subclavian vein
        width = body.width_left if sign > 0 else body.width_right
        points = [
            (sign * (width + 0.35), 0.35 + body.shoulder), (sign * (width + 0.05), 0.1 + body.shoulder),
            (sign * 0.5 * width, 0.08 + 0.5 * body.shoulder), (sign * 0.2, 0.14),
        ]  # fmt: skip
    line = curve(*points, (start, 0.22), tip)
    shape = canvas.strokes([(line, 0.03, 1.0)])
    return add(chest, shape, 0.55)
