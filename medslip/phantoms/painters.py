"""Draws findings into a chest.

A finding that changes the body's shape (a large heart, a high diaphragm) does so before the chest is drawn, in `reshape`.
Each painter then draws the finding that it is named after and returns its mask: True where the finding shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from medslip.phantoms.body import Body
from medslip.phantoms.canvas import Field, Point, curve, edge
from medslip.phantoms.chest import Chest, airways, hilum
from medslip.phantoms.findings import Plan

Mask = npt.NDArray[np.bool_]
"""side x side, True where a finding shows."""

_LEVEL_RANGE = {"upper": (0.16, 0.36), "mid": (0.42, 0.6), "lower": (0.68, 0.9)}
_ZONES = {"apical": (-1, 0.16), "upper lung": (-1, 0.39), "mid lung": (0.39, 0.64), "lower lung": (0.64, 9)}
"""Levels between which each zone of a lung lies: halfway between those at which its findings are painted."""


def reshape(body: Body, plans: Iterable[Plan]) -> Body:
    """The body with the changes of shape that its findings make."""
    for plan in plans:
        rng = np.random.default_rng(plan.seed)
        if plan.kind.name == "cardiomegaly":
            total = (0.56 + 0.1 * plan.degree) * (body.width_left + body.width_right)
            right = rng.uniform(0.3, 0.4)
            left, height = total * (1 - right), 0.34 + 0.04 * plan.degree
            body = replace(body, heart_left=left, heart_right=total * right, heart_height=height)
        elif plan.kind.name == "elevation":
            level = body.half(plan.sign).dome - (0.13 + 0.15 * plan.degree)
            body = replace(body, **{f"dome_{plan.site.side}": level})
        elif plan.kind.name == "emphysema":
            lower = 0.03 + 0.05 * plan.degree
            body = replace(
                body, dome_left=body.dome_left + lower, dome_right=body.dome_right + lower, sulcus=0.06,
                aeration=body.aeration + 0.03, vessels=body.vessels * 0.7, heart_y=body.heart_y + lower,
            )  # fmt: skip
    return body


def paint(chest: Chest, plan: Plan) -> Mask:
    """Draw a finding into a chest of the reshaped body, in place; True where it shows."""
    return _PAINTERS[plan.kind.name](chest, plan, np.random.default_rng(plan.seed))


def heart(chest: Chest, *_: object) -> Mask:
    """Where the heart shows, which was drawn with the body."""
    outlines, body = chest.outlines, chest.body
    inside = (outlines.heart > 0) & (chest.canvas.y > body.heart_y - 0.85 * body.heart_height)
    return inside & (outlines.above > -0.03) & (outlines.inward > -0.02)


def anatomies(chest: Chest) -> dict[str, Mask]:
    """Where a chest has its anatomies, by the names of Chest ImaGenome; not those that lie outside the image."""
    canvas, body, outlines = chest.canvas, chest.body, chest.outlines
    x, y, above = canvas.x, canvas.y, outlines.above
    middle = (outlines.mediastinum > 0) & (y > 0) & (above > 0)
    masks = {"trachea": canvas.strokes(airways(body)[-1:]) > 0.5, "cardiac silhouette": heart(chest)}
    hila = canvas.strokes([*hilum(body, 1), *hilum(body, -1)]) > 0.3
    masks["mediastinum"] = middle | masks["cardiac silhouette"]
    for side, sign in (("left", 1), ("right", -1)):
        half, within = body.half(sign), (x * sign > 0) & (outlines.inward > 0)
        lung = within & (above > 0) & (outlines.mediastinum < 0) & (outlines.heart < 0)
        masks[f"{side} lung"] = lung
        masks |= {f"{side} {zone} zone": lung & (y > low) & (y < high) for zone, (low, high) in _ZONES.items()}
        masks[f"{side} hilar structures"] = hila & (x * sign > 0)
        masks[f"{side} hemidiaphragm"] = within & (np.abs(above) < 0.02)
        # The recess beside the dome, where an effusion begins.
        masks[f"{side} costophrenic angle"] = lung & (y > half.dome) & (np.abs(x) > 0.42 * half.width)
    return {name: mask for name, mask in masks.items() if mask.any()}


def _spot(chest: Chest, plan: Plan, rng: Generator, margin: float) -> Point:
    """A point of the site's lung, at least about ``margin`` from its outline."""
    body = chest.body
    low, high = _LEVEL_RANGE[plan.level] if plan.level else (body.hilum - 0.03, body.hilum + 0.05)
    if "hilar" in plan.site.anatomy:
        return plan.sign * (body.mediastinum + 0.1 + 0.5 * margin), float(rng.uniform(low, high))
    x = (plan.sign * rng.uniform(0.12, 0.75, 400)).astype(np.float32)
    y = rng.uniform(low, high, 400).astype(np.float32)
    outlines = body.outlines(x, y)
    room = np.minimum(outlines.inward, outlines.above)
    room = np.minimum(room, np.minimum(-outlines.heart, -outlines.mediastinum))
    good = np.flatnonzero(room > margin)
    best = int(good[0]) if len(good) else int(np.argmax(room))
    return float(x[best]), float(y[best])


def _opacify(chest: Chest, shape: Field, amount: float) -> Mask:
    """Fill air with tissue; it shows where 0.3 of the strongest change is reached."""
    change = amount * shape * (0.15 + 0.85 * chest.air)
    chest.density += change
    return change > 0.3 * max(float(change.max()), 1e-6)


def _add(chest: Chest, shape: Field, amount: float) -> Mask:
    """Lay something dense over everything; it shows where 0.35 of its strongest part is reached."""
    chest.density += amount * shape
    return shape > 0.35 * max(float(shape.max()), 1e-6)


# Lungs


def edema(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """Clouds around the hila, blurred vessels, septal lines at the bases."""
    canvas, body = chest.canvas, chest.body
    shape = np.zeros_like(canvas.x)
    for sign in (-1, 1):
        reach = rng.uniform(0.75, 1.2)
        x, y = sign * rng.uniform(0.26, 0.34), body.hilum + rng.uniform(0.02, 0.2)
        wing = canvas.blob(x, y, 0.21 * reach, 0.27 * reach, 0.25 * sign)
        shape += np.exp(-(wing**2)) * rng.uniform(0.7, 1.15)
    cloud = np.clip(0.85 + 0.42 * canvas.noise(rng, 26) + 0.3 * canvas.noise(rng, 52), 0.1, 1.9)
    _opacify(chest, shape * cloud, 0.14 + 0.12 * plan.degree)
    # Fluid around them blurs the vessels, and marks the septa at the periphery of the bases.
    chest.density -= 0.7 * chest.vessels * np.minimum(shape, 1)
    lines = []
    for _ in range(30):
        sign = int(rng.choice((-1, 1)))
        x, y = sign * body.half(sign).width * rng.uniform(0.84, 0.96), rng.uniform(0.5, 1.0)
        lines.append((((x, y), (x - sign * 0.08, y + 0.004)), 0.01, 0.9))
    chest.density += 0.18 * canvas.strokes(lines) * chest.air
    return (shape > 0.4) & (chest.air > 0.2)


def emphysema(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """Thin-walled bullae without vessels."""
    canvas = chest.canvas
    inside, walls = np.zeros_like(canvas.x), np.zeros_like(canvas.x)
    x, y = _spot(chest, plan, rng, 0.12)
    for _ in range(int(rng.integers(4, 7))):
        radius = rng.uniform(0.065, 0.115)
        bulla = canvas.blob(x + rng.normal(0, 0.07), y + rng.normal(0, 0.09), radius, radius * rng.uniform(0.8, 1.2))
        inside = np.maximum(inside, canvas.edge(1 - bulla, 0.1))
        walls = np.maximum(walls, np.exp(-(((bulla - 1) * radius / 0.008) ** 2)))
    air = chest.air > 0.15
    chest.density -= inside * air * (0.13 + 0.9 * chest.vessels)
    chest.density += 0.22 * walls * air
    return (inside > 0.4) & air


def consolidation(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """A filled lobe: ragged, with air-filled bronchi."""
    canvas, body = chest.canvas, chest.body
    if plan.site.anatomy == "middle_right_lobe":
        x, y = -(body.heart_right + 0.14), rng.uniform(0.64, 0.74)
    else:
        x, y = _spot(chest, plan, rng, 0.1)
    size = 0.15 + 0.09 * plan.degree
    radius = canvas.blob(x, y, size * rng.uniform(0.95, 1.4), size * rng.uniform(0.8, 1.1), rng.uniform(-0.6, 0.6))
    ragged = 1 - radius + 0.2 * canvas.noise(rng, 18) + 0.12 * canvas.noise(rng, 40)
    shape = edge(ragged, 0.8) * (canvas.x * plan.sign > 0)
    fissure = {"upper": canvas.edge(0.48 - canvas.y, 0.03), "lower": canvas.edge(canvas.y - 0.5, 0.05)}
    shape *= fissure.get(plan.level, canvas.edge(canvas.y - 0.52, 0.03))
    mask = _opacify(chest, shape, 0.34)
    # Air-filled bronchi stand out against the filled lung.
    heading = np.arctan2(y - body.hilum, x - plan.sign * 0.2)
    bronchi = []
    for _ in range(4):
        turn = heading + rng.normal(0, 0.5)
        start = (x + rng.normal(0, 0.4 * size), y + rng.normal(0, 0.35 * size))
        end = (start[0] + 0.6 * size * np.cos(turn), start[1] + 0.6 * size * np.sin(turn))
        bronchi.append(((start, end), 0.014, 0.9))
    chest.density -= 0.18 * canvas.strokes(bronchi) * shape * chest.air
    return mask & (shape > 0.4)


def infiltrate(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """Many small fuzzy patches."""
    canvas = chest.canvas
    x, y = _spot(chest, plan, rng, 0.12)
    spots = []
    for _ in range(int(30 + 16 * plan.degree)):
        angle, away = rng.uniform(0, 2 * np.pi), 0.23 * np.sqrt(rng.uniform())
        cx, cy = x + away * np.cos(angle), y + away * np.sin(angle)
        spots.append((cx, cy, rng.uniform(0.022, 0.038), rng.uniform(0.6, 1)))
    side = canvas.x * plan.sign > 0
    _opacify(chest, canvas.spots(spots) * side, 0.42)
    return (canvas.blob(x, y, 0.23, 0.23) < 1.06) & (chest.air > 0.15) & side


def atelectasis(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """One to three plates above the diaphragm."""
    sign, half = plan.sign, chest.body.half(plan.sign)
    plates = []
    y, tilt = half.dome - rng.uniform(0.07, 0.13), rng.normal(0, 0.05)
    for _ in range(int(rng.integers(1, 4))):
        start = max(half.heart * 0.85, 0.2) + rng.uniform(0, 0.06)
        end = min(start + rng.uniform(0.24, 0.4), half.width * 0.96)
        slope = tilt + rng.normal(0, 0.015)
        line = curve((sign * start, y), (sign * (start + end) / 2, y + slope + 0.01), (sign * end, y + 2 * slope))
        plates.append((line, rng.uniform(0.02, 0.032), rng.uniform(0.8, 1)))
        y -= rng.uniform(0.06, 0.1)
    return _opacify(chest, chest.canvas.strokes(plates), 0.36 + 0.08 * plan.degree)


def mass(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """A large lobulated opacity with spicules."""
    canvas, size = chest.canvas, 0.11 + 0.05 * plan.degree
    x, y = _spot(chest, plan, rng, 0.09)
    angle = np.arctan2(canvas.y - y, canvas.x - x)
    lobes = 1 + 0.1 * np.cos(3 * angle + rng.uniform(0, 6)) + 0.06 * np.cos(5 * angle + rng.uniform(0, 6))
    radius = canvas.blob(x, y, size * rng.uniform(0.9, 1.15), size) / lobes
    shape = edge(1 - radius, 0.2) * (0.85 + 0.15 * np.sqrt(np.clip(1 - radius, 0, 1)))
    spicules = []
    for turn in rng.uniform(0, 2 * np.pi, 16):
        ends = (0.8 * size, size * rng.uniform(1.2, 1.7))
        line = [(x + reach * np.cos(turn), y + reach * np.sin(turn)) for reach in ends]
        spicules.append((line, 0.012, rng.uniform(0.25, 0.5)))
    return _opacify(chest, np.maximum(shape, canvas.strokes(spicules)), 0.54)


def nodule(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """A small round opacity."""
    size = 0.054 + 0.02 * plan.degree
    x, y = _spot(chest, plan, rng, size + 0.03)
    radius = chest.canvas.blob(x, y, size * rng.uniform(0.9, 1.1), size)
    return _opacify(chest, edge(1 - radius, 0.4), 0.44)


def calcification(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """A cluster of grains as dense as metal."""
    canvas = chest.canvas
    x, y = _spot(chest, plan, rng, 0.06)
    shape = np.zeros_like(canvas.x)
    for _ in range(int(rng.integers(3, 6))):
        size = rng.uniform(0.022, 0.036)
        grain = canvas.blob(x, y, size * rng.uniform(0.8, 1.25), size, rng.uniform(0, 3))
        shape = np.maximum(shape, edge(1 - grain + 0.12 * canvas.noise(rng, 60), 0.35))
        x, y = x + rng.normal(0, 0.05), y + rng.normal(0, 0.05)
    return _add(chest, shape * (canvas.x * plan.sign > 0), 0.75)


# Pleura, diaphragm, heart and ribs


def effusion(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """Fluid in the costophrenic angle, with a meniscus."""
    canvas, half = chest.canvas, chest.body.half(plan.sign)
    lateral = plan.sign * canvas.x / half.width
    # The surface of the fluid climbs towards the wall.
    top = half.dome + 0.06 - (0.1 + 0.32 * plan.degree)
    surface = top + 0.14 * (1 - lateral) - 0.12 * np.exp((lateral - 1) / 0.1)
    fluid = canvas.edge(canvas.y - surface, 0.05) * (lateral > 0)
    fluid *= canvas.edge(chest.outlines.inward, 0.03)
    chest.density += 0.52 * fluid * chest.air + 0.06 * fluid
    return (fluid > 0.4) & (chest.air > 0.12)


def pneumothorax(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """A visceral line around the lung, and air without vessels beyond it."""
    canvas, inward = chest.canvas, chest.outlines.inward
    gap = 0.1 + 0.13 * plan.degree
    floor = rng.uniform(0.7, 1.1)
    # The lung falls away from the wall, most at the apex.
    distance = gap * np.clip(1.15 - canvas.y / floor, 0, 1) * (1 + 0.06 * np.sin(9 * canvas.y + rng.uniform(0, 6)))
    side = canvas.x * plan.sign > 0.06
    free = canvas.edge(distance - inward, 0.012) * side * (distance > 0.02)
    line = np.exp(-(((inward - distance) / 0.009) ** 2)) * side * (distance > 0.02)
    air = chest.air > 0.1
    chest.density -= free * (chest.vessels + 0.11 * air)
    chest.density += air * (0.2 * line + 0.05 * (1 - free) * side)
    return (free > 0.5) & (inward > 0) & (chest.outlines.above > 0)


def elevation(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """The area between the high dome and its healthy level."""
    canvas = chest.canvas
    lung = chest.healthy.outlines(canvas.x, canvas.y).air(0.02)
    return (chest.outlines.above < 0) & (lung > 0.15) & (canvas.x * plan.sign > 0)


def thicken(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """A lumpy rind inside the lateral chest wall."""
    canvas, inward = chest.canvas, chest.outlines.inward
    along = (canvas.y - rng.uniform(0.08, 0.35)) / rng.uniform(0.38, 0.6)
    profile = np.clip(along * (1 - along) * 4, 0, 1) ** 0.4
    waves = 1 + 0.14 * np.sin(13 * canvas.y + rng.uniform(0, 6)) + 0.1 * np.sin(29 * canvas.y + rng.uniform(0, 6))
    depth = (0.105 + 0.055 * plan.degree) * profile * waves
    shape = canvas.edge(depth - inward, 0.012) * (canvas.x * plan.sign > 0.3) * (depth > 0.01)
    shape *= canvas.edge(inward + 0.01, 0.02)
    chest.density += shape * (0.48 * chest.air + 0.18)
    return (shape > 0.4) & (inward > 0)


def hernia(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """A sac behind the heart with a fluid level."""
    canvas, size = chest.canvas, 0.12 + 0.04 * plan.degree
    x = rng.uniform(0.0, 0.13)
    y = float(chest.body.dome(np.asarray([x], np.float32))[0]) - size * rng.uniform(0.55, 0.85)
    radius = canvas.blob(x, y, size * rng.uniform(1.0, 1.25), size)
    sac = canvas.edge((1 - radius) * size, 0.02)
    rim = np.exp(-(((radius - 0.95) * size / 0.012) ** 2))
    above = y - size * rng.uniform(-0.1, 0.3) - canvas.y
    gas = canvas.edge((0.93 - radius) * size, 0.015) * canvas.edge(above, 0.012)
    chest.density += 0.07 * sac + 0.1 * rim * (radius < 1.2) - 0.3 * gas
    return radius < 1.05


def fracture(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """Neighbouring ribs broken, displaced, with callus."""
    canvas, body = chest.canvas, chest.body
    out = plan.sign * body.half(plan.sign).width
    middle = rng.uniform(0.66, 0.84)
    first = int(np.ceil((rng.uniform(0.1, 0.4) / body.rib_spacing) + body.rib_phase))
    stubs, knobs = [], []
    for number in range(first, first + int(rng.integers(3, 5))):
        broken = middle + rng.normal(0, 0.02)
        level = (number + 0.5 - body.rib_phase) * body.rib_spacing
        shift = 0.03 * float(rng.choice((-1, 1)))
        # The two ends overlap, one above the other, and lean towards each other's place.
        for start, end, lean in ((broken - 0.2, broken + 0.03, -shift), (broken + 0.17, broken - 0.03, shift)):
            across = (out * np.linspace(start, end, 6)).astype(np.float32)
            down = level + body.rib_fall(across) + lean * np.linspace(0, 1, 6, dtype=np.float32)
            stubs.append((np.stack([across, down], axis=1), 0.036, 1.0))
        x = np.asarray([out * broken], np.float32)
        y = level + body.rib_fall(x)
        knobs.append((((x[0], y[0] - 0.012), (x[0], y[0] + 0.012)), 0.062, 1.0))
    bones, callus = canvas.strokes(stubs), canvas.strokes(knobs)
    # The unbroken rib gives way to the displaced ends and their callus.
    chest.density -= chest.ribs * np.maximum(callus, bones) * 0.8
    return _add(chest, np.maximum(bones * 0.65, callus), 0.42)


# Devices


def pacemaker(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """A generator below the clavicle, and its leads to the heart."""
    canvas, body, sign = chest.canvas, chest.body, plan.sign
    x = sign * body.half(sign).width * rng.uniform(0.68, 0.9)
    y = 0.12 + 0.5 * body.shoulder + rng.uniform(0, 0.1)
    tilt = rng.uniform(-0.3, 0.3)
    across, down = canvas.x - np.float32(x), canvas.y - np.float32(y)
    u = np.abs(np.cos(tilt) * across + np.sin(tilt) * down) / np.float32(rng.uniform(0.085, 0.1))
    v = np.abs(np.cos(tilt) * down - np.sin(tilt) * across) / np.float32(rng.uniform(0.07, 0.085))
    can = canvas.edge((1 - (u**3 + v**3) ** np.float32(1 / 3)) * 0.08, 0.012)
    vein = curve(
        (x, y + 0.03), (x - sign * 0.12, y - 0.06), (sign * 0.26, 0.1), (sign * 0.06 - 0.05, 0.2), (-0.1, 0.34),
        (-0.12, 0.55), (-0.11, body.heart_y),
    )  # fmt: skip
    tip = body.heart_y + 0.55 * body.heart_height
    ventricle = curve(
        (-0.11, body.heart_y - 0.05), (-0.04, tip - 0.02), (0.1, tip + 0.02), (body.heart_left * 0.62, tip)
    )
    leads = [(vein, 0.014, 0.8), (ventricle, 0.014, 0.8)]
    if rng.random() < 0.6:
        loop = curve((-0.11, body.heart_y - 0.1), (-0.1, body.heart_y + 0.1), (-0.03, body.heart_y + 0.02))
        leads.append((loop, 0.014, 0.8))
    wires = canvas.strokes(leads)
    chest.density += 0.6 * can + 0.36 * wires
    return (can > 0.4) | (wires > 0.25)


def tube(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """A tube in the trachea, its tip above the carina."""
    tip, top = chest.body.carina - rng.uniform(0.06, 0.13), rng.normal(0, 0.03)
    line = curve((top, -0.6), (top / 2, -0.1), (-0.008, tip - 0.08), (-0.008, tip))
    # The wall shows twice, edge on; the lumen between is dark.
    wall, lumen = chest.canvas.strokes([(line, 0.078, 1.0)]), chest.canvas.strokes([(line, 0.036, 1.0)])
    chest.density += 0.5 * wall - 0.55 * lumen
    return wall > 0.4


def catheter(chest: Chest, plan: Plan, rng: Generator) -> Mask:
    """A line through the jugular or the subclavian vein to the superior vena cava."""
    body, sign = chest.body, plan.sign
    tip = (-(body.mediastinum - 0.03), rng.uniform(0.38, 0.52))
    if rng.random() < 0.5:  # through the jugular vein
        way = [(sign * rng.uniform(0.14, 0.2), -0.6), (sign * 0.15, -0.15), (sign * 0.13, 0.1)]
    else:  # through the arm and the subclavian vein
        width, shoulder = body.half(sign).width, body.shoulder
        way = [
            (sign * (width + 0.35), 0.35 + shoulder), (sign * (width + 0.05), 0.1 + shoulder),
            (sign * 0.5 * width, 0.08 + 0.5 * shoulder), (sign * 0.2, 0.14),
        ]  # fmt: skip
    line = curve(*way, (-0.1 if sign < 0 else 0.08, 0.22), tip)
    return _add(chest, chest.canvas.strokes([(line, 0.03, 1.0)]), 0.55)


_PAINTERS = {"cardiomegaly": heart} | {
    painter.__name__: painter
    for painter in (
        edema, emphysema, consolidation, infiltrate, atelectasis, mass, nodule, calcification, effusion, pneumothorax,
        elevation, thicken, hernia, fracture, pacemaker, tube, catheter,
    )
}  # fmt: skip
