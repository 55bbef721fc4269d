"""What the painters of findings share: their masks, a place in the lung, and two ways to make tissue denser."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from medslip.phantoms.canvas import Field
from medslip.phantoms.chest import Chest
from medslip.phantoms.plans import Plan

Mask = npt.NDArray[np.bool_]
"""side x side, True where a finding shows."""

_LEVEL_RANGE = {"upper": (0.16, 0.36), "mid": (0.42, 0.6), "lower": (0.68, 0.9)}


def spot(chest: Chest, plan: Plan, rng: np.random.Generator, margin: float) -> tuple[float, float]:
    """A point of the site's lung, at least about ``margin`` from its outline."""
    body = chest.body
    low, high = _LEVEL_RANGE[plan.level] if plan.level else (body.hilum - 0.03, body.hilum + 0.05)
    if "hilar" in plan.site.anatomy:
        return plan.sign * (body.mediastinum + 0.1 + 0.5 * margin), float(rng.uniform(low, high))
    x = (plan.sign * rng.uniform(0.12, 0.75, 400)).astype(np.float32)
    y = rng.uniform(low, high, 400).astype(np.float32)
    room = np.minimum(body.depth(x, y), body.dome(x) - y)
    room = np.minimum(room, np.minimum(-body.heart(x, y), -body.mediastinal_width(x, y)))
    good = np.flatnonzero(room > margin)
    best = int(good[0]) if len(good) else int(np.argmax(room))
    return float(x[best]), float(y[best])


def opacify(chest: Chest, shape: Field, amount: float) -> Mask:
    """Fill air with tissue; it shows where 0.3 of the strongest change is reached."""
    change = np.float32(amount) * shape * (0.15 + 0.85 * chest.air)
    chest.density += change
    return change > 0.3 * max(float(change.max()), 1e-6)


def add(chest: Chest, shape: Field, amount: float) -> Mask:
    """Lay something dense over everything; it shows where 0.35 of its strongest part is reached."""
    chest.density += np.float32(amount) * shape
    return shape > 0.35 * max(float(shape.max()), 1e-6)
