"""What can be found in a phantom (findings.yaml), and which findings a study is to have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import yaml
from numpy.random import Generator

CATALOGUE: Mapping[str, Any] = yaml.safe_load(files("medslip.phantoms").joinpath("findings.yaml").read_text("utf-8"))
"""The content of findings.yaml."""


@dataclass(frozen=True)
class Site:
    """A place where a kind may sit."""

    anatomy: str  # vocabulary name
    side: str  # the patient's "left" or "right"; empty for the midline and for both sides
    zones: frozenset[str]  # what a finding takes up there


@dataclass(frozen=True)
class Kind:
    """A kind of finding; findings.yaml explains the fields."""

    name: str  # vocabulary name of the pathology
    title: str
    weight: float
    sites: tuple[Site, ...]
    stated: tuple[str, ...]
    denied: str
    summary: str
    cxr14: str | None = None


@dataclass(frozen=True)
class Plan:
    """A finding that a study is to have."""

    kind: Kind
    site: Site
    degree: float  # how marked it is, 0..1
    seed: int  # of its particulars, which are the same at every image size

    @property
    def sign(self) -> int:
        """+1 for the patient's left (x > 0), -1 for the right."""
        return -1 if self.site.side == "right" else 1

    @property
    def level(self) -> str:
        """The level of the lung that the anatomy names: upper, mid, lower, or empty."""
        return next((level for level in ("upper", "mid", "lower") if level in self.site.anatomy), "")


def _kind(name: str, entry: Mapping[str, Any]) -> Kind:
    defaults = {"denied": f"{name}/N{{g}}", "summary": f"{{adjective}} {name}/O ."}
    sites = tuple(site for place in entry["sites"] for site in _sites(**place))
    return Kind(name, **{**defaults, **entry, "sites": sites, "stated": tuple(entry["stated"])})


def _sites(anatomy: str, zones: list[str], sides: list[str] | None = None) -> Iterator[Site]:
    both = any("{side}" in text for text in (anatomy, *zones))
    for side in sides or (["left", "right"] if both else [""]):
        yield Site(anatomy.format(side=side), side, frozenset(zone.format(side=side) for zone in zones))


KINDS: Mapping[str, Kind] = {name: _kind(name, entry) for name, entry in CATALOGUE["kinds"].items()}
"""Name -> kind, in the order of placing."""


def choose(rng: Generator) -> list[Plan]:
    """The findings of a study: none, or one to four that leave one another visible."""
    if rng.random() < 0.22:
        return []
    wanted = int(rng.choice((1, 2, 3, 4), p=(0.26, 0.36, 0.28, 0.10)))
    kinds = list(KINDS.values())
    # Efraimidis-Spirakis: the order of these keys is a weighted draw without replacement.
    order = np.argsort(rng.exponential(size=len(kinds)) / [kind.weight for kind in kinds])
    taken: set[str] = set()
    plans: dict[int, Plan] = {}
    for index in order:
        free = [site for site in kinds[index].sites if not site.zones & taken]
        if free and len(plans) < wanted:
            site = free[int(rng.integers(len(free)))]
            taken |= site.zones
            plans[index] = Plan(kinds[index], site, float(rng.uniform()), int(rng.integers(2**32)))
    return [plans[index] for index in sorted(plans)]
