"""Drawing a planned finding into a chest: which painter draws which kind.

A finding that changes the body's shape (a large heart, a high diaphragm) has done so before the chest was drawn, see
plans.reshape; every finding then draws itself, and says where.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medslip.phantoms import devices, lung_findings, wall_findings
from medslip.phantoms.body import Body
from medslip.phantoms.chest import Chest
from medslip.phantoms.painting import Mask
from medslip.phantoms.plans import Plan

_PAINTERS: dict[str, Callable[[Chest, Plan, np.random.Generator, Body], Mask]] = {
    "edema": lung_findings.paint_edema,
    "emphysema": lung_findings.paint_emphysema,
    "consolidation": lung_findings.paint_consolidation,
    "infiltrate": lung_findings.paint_infiltrate,
    "atelectasis": lung_findings.paint_atelectasis,
    "mass": lung_findings.paint_mass,
    "nodule": lung_findings.paint_nodule,
    "calcification": lung_findings.paint_calcification,
    "effusion": wall_findings.paint_effusion,
    "pneumothorax": wall_findings.paint_pneumothorax,
    "elevation": wall_findings.paint_elevation,
    "cardiomegaly": wall_findings.paint_cardiomegaly,
    "thicken": wall_findings.paint_thicken,
    "hernia": wall_findings.paint_hernia,
    "fracture": wall_findings.paint_fracture,
    "pacemaker": devices.paint_pacemaker,
    "tube": devices.paint_tube,
    "catheter": devices.paint_catheter,
}


def paint(chest: Chest, plan: Plan, before: Body) -> Mask:
    """Draw a finding.

    Args:
        chest: The chest, drawn with the reshaped body; its density is changed in place.
        plan: What to draw.
        before: The body without any finding.

    Returns:
        side x side, True where the finding shows.
    """
    rng = np.random.default_rng(plan.seed)
    return _PAINTERS[plan.kind.pathology](chest, plan, rng, before)
