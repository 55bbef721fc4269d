"""A picture of what the phantoms look like: some as they come, then each kind of finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medslip.phantoms.kinds import KINDS
from medslip.phantoms.plans import Plan
from medslip.phantoms.study import draw_study

_COLUMNS, _ROWS_AS_THEY_COME, _TILE = 6, 1, 192


def write_contact_sheet(path: Path, seed: int) -> None:
    """Write a PNG: one row of normal phantoms, then one phantom of each kind with its box.

    Args:
        path: The picture.
        seed: The corpus's seed; the phantoms are drawn anew, each with its one finding.
    """
    rows = _ROWS_AS_THEY_COME + -(-len(KINDS) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE, rows * _TILE))
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place in range(_COLUMNS * _ROWS_AS_THEY_COME + len(KINDS)):
        x, y = place % _COLUMNS * _TILE, place // _COLUMNS * _TILE
        plans, title = [], "Normal"
        if place >= _COLUMNS * _ROWS_AS_THEY_COME:
            kind = KINDS[place - _COLUMNS * _ROWS_AS_THEY_COME]
            rng = np.random.default_rng((seed, 9, place))
            site = kind.sites[int(rng.integers(len(kind.sites)))]
            plans, title = [Plan(kind, site, 0.7, int(rng.integers(2**32)))], kind.title
        study = draw_study(seed, place, _TILE, plans)
        sheet.paste(Image.fromarray(study.image).convert("RGB"), (x, y))
        for finding in study.findings:
            left, top, width, height = finding.box
            pen.rectangle((x + left - 2, y + top - 2, x + left + width + 1, y + top + height + 1), outline="#ffb000")
        pen.text((x + 4, y + _TILE - 17), title, fill="#ffffff", font=font, stroke_width=2, stroke_fill="#000000")
    sheet.save(path)
