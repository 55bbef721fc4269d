"""Which findings a study is to have, and how they change the body's shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from medslip.phantoms.body import Body
from medslip.phantoms.kinds import KINDS, Kind, Site

_COUNTS = ((1, 0.26), (2, 0.36), (3, 0.28), (4, 0.10))
"""Number of findings of an abnormal study, and its probability."""


@dataclass(frozen=True)
class Plan:
    """A finding that a study is to have.

    Attributes:
        kind: What it is.
        site: Where it sits.
        degree: How marked it is, 0..1.
        seed: Decides its particulars, the same at every image side.
    """

    kind: Kind
    site: Site
    degree: float
    seed: int

    @property
    def sign(self) -> int:
        """+1 for the patient's left (x > 0), -1 for the right."""
        return -1 if self.site.side == "right" else 1

    @property
    def level(self) -> str:
        """The level of the lung that the anatomy names: upper, mid, lower, or empty."""
        return next((level for level in ("upper", "mid", "lower") if level in self.site.anatomy), "")


def choose(rng: np.random.Generator, normal_fraction: float = 0.22) -> list[Plan]:
    """A study's findings: none, or one to four that leave one another visible."""
    if rng.random() < normal_fraction:
        return []
    counts, chances = zip(*_COUNTS, strict=True)
    wanted = int(rng.choice(counts, p=chances))
    weights = np.asarray([kind.weight for kind in KINDS])
    # Efraimidis-Spirakis: the order of these keys is a weighted draw without replacement.
    order = np.argsort(rng.exponential(size=len(KINDS)) / weights)
    taken: set[str] = set()
    plans: list[tuple[int, Plan]] = []
    for index in order:
        kind = KINDS[index]
        free = [site for site in kind.sites if not site.zones & taken]
        if free and len(plans) < wanted:
            site = free[int(rng.integers(len(free)))]
            taken |= site.zones
            plan = Plan(kind, site, float(rng.uniform()), int(rng.integers(2**32)))
            plans.append((int(index), plan))
    return [plan for _, plan in sorted(plans, key=lambda item: item[0])]


def reshape(body: Body, plans: list[Plan]) -> Body:
    """The body with the changes of shape that its findings make."""
    for plan in plans:
        rng = np.random.default_rng(plan.seed)
        if plan.kind.pathology == "cardiomegaly":
            total = (0.56 + 0.1 * plan.degree) * (body.width_left + body.width_right)
            right = rng.uniform(0.3, 0.4)
            body = replace(
                body, heart_left=total * (1 - right), heart_right=total * right, heart_height=0.34 + 0.04 * plan.degree
            )
        elif plan.kind.pathology == "elevation":
            rise = 0.13 + 0.15 * plan.degree
            if plan.sign > 0:
                body = replace(body, dome_left=body.dome_left - rise)
            else:
                body = replace(body, dome_right=body.dome_right - rise)
        elif plan.kind.pathology == "emphysema":
            lower = 0.03 + 0.05 * plan.degree
            body = replace(
                body, dome_left=body.dome_left + lower, dome_right=body.dome_right + lower, sulcus=0.06,
                aeration=body.aeration + 0.03, vessels=body.vessels * 0.7, heart_y=body.heart_y + lower,
            )  # fmt: skip
    return body
