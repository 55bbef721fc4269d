"""A picture of what the phantoms look like: some normal ones, then each kind of finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medslip.phantoms.findings import KINDS, Plan
from medslip.phantoms.study import draw_study

_COLUMNS, _TILE = 6, 192


def write_contact_sheet(path: Path, seed: int) -> None:
    """Write a PNG: one row of normal phantoms, then one phantom of each kind with its box.

    Args:
        path: The picture.
        seed: Of the corpus.
    """
    kinds = [None] * _COLUMNS + list(KINDS.values())
    sheet = Image.new("RGB", (_COLUMNS * _TILE, -(-len(kinds) // _COLUMNS) * _TILE))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, kind in enumerate(kinds):
        x, y = place % _COLUMNS * _TILE, place // _COLUMNS * _TILE
        plans = []
        if kind:
            rng = np.random.default_rng((seed, 9, place))
            site = kind.sites[int(rng.integers(len(kind.sites)))]
            plans = [Plan(kind, site, 0.7, int(rng.integers(2**32)))]
        study = draw_study(seed, place, _TILE, plans)
        sheet.paste(Image.fromarray(study.image).convert("RGB"), (x, y))
        for finding in study.findings:
            left, top, width, height = finding.box
            pen.rectangle((x + left - 2, y + top - 2, x + left + width + 1, y + top + height + 1), outline="#ffb000")
        title = kind.title if kind else "Normal"
        pen.text((x + 4, y + _TILE - 17), title, fill="#ffffff", font=font, stroke_width=2, stroke_fill="#000000")
    sheet.save(path)
