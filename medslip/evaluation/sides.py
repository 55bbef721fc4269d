"""Left or right: on which side of the patient does the model believe a finding to be?

Sides are the patient's: in a frontal radiograph the patient's left is on the image's right. Two scores tell them apart:

- By ICL: the highest logit of the pathology with a left anatomy, against the highest with a right one.
- By the maps: the pathology's map times the mean map of the left anatomies, summed over patches, against that of
  the right ones.

Left and right anatomies are those with a counterpart on the other side, so that both sides have the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.evaluation.bootstrap import patient_index, resample_means
from medslip.evaluation.grounding import Floats, Rectangle
from medslip.evaluation.grounding_scores import ALL
from medslip.vocabulary import ANATOMIES, MIRRORED_ANATOMY

WAYS = ("icl", "maps")
"""The two scores, as columns."""

_LEFT = [row for row, name in enumerate(ANATOMIES) if "left" in name.split("_")]
_RIGHT = [MIRRORED_ANATOMY[row] for row in _LEFT]


def lean(icl_logits: Floats, pathologies: Floats, anatomies: Floats) -> npt.NDArray[np.float64]:
    """How much more evidence there is for the left than for the right: above 0 for left, below for right.

    Args:
        icl_logits: ... x A x Q, of the queried pathologies.
        pathologies: ... x Q x g x g, their maps.
        anatomies: ... x A x g x g, the maps of the anatomies.

    Returns:
        ... x Q x 2, by each of WAYS.
    """
    by_icl = icl_logits[..., _LEFT, :].max(axis=-2) - icl_logits[..., _RIGHT, :].max(axis=-2)
    difference = anatomies[..., _LEFT, :, :].mean(axis=-3) - anatomies[..., _RIGHT, :, :].mean(axis=-3)
    by_maps = np.einsum("...qhw,...hw->...q", pathologies, difference)
    return np.stack([by_icl, by_maps], axis=-1)


def side_of(boxes: Sequence[Rectangle], width: int) -> str:
    """The side, "left" or "right" of the patient, that all boxes lie on; empty if one of them crosses the midline.

    Args:
        boxes: x, y, width, height in pixels.
        width: Of the image, whose vertical midline divides the sides.
    """
    if all(2 * x >= width for x, _, _, _ in boxes):
        return "left"
    return "right" if all(2 * (x + across) <= width for x, _, across, _ in boxes) else ""


def correct_sides(cases: pd.DataFrame) -> pd.DataFrame:
    """Whether the model knows the side of each case, by each of WAYS: 1, 0, 0.5 for a tie, NaN for a case without a side.

    Args:
        cases: As for ``score_sides``.
    """
    truth = cases["side"].map({"left": 1.0, "right": -1.0})
    return pd.DataFrame({way: (1 + truth * np.sign(cases[f"left_{way}"])) / 2 for way in WAYS})


def score_sides(cases: pd.DataFrame, resamples: int = 1000, seed: int = 0) -> pd.DataFrame:
    """How often the model knows the side, over findings on one side, with 95 % intervals over resampled patients.

    Args:
        cases: One row per finding: ``patient``, ``class``, ``side`` (see ``side_of``), ``left_icl`` and ``left_maps`` (see
            ``lean``).
        resamples: Number of resamples; 0 for no intervals.
        seed: Random seed.

    Returns:
        One row per class that has findings on one side, then one over ALL: ``class``, ``cases``, ``left`` (how many are on the
        left), ``patients``, and WAYS, the share of cases whose side is right, where a tie counts one half (Estimate).
    """
    sided = cases[cases["side"] != ""].reset_index(drop=True)
    if sided.empty:
        return pd.DataFrame(columns=["class", "cases", "left", "patients", *WAYS])
    left, owner = sided["side"] == "left", patient_index(sided["patient"].tolist())
    groups = {name: sided["class"] == name for name in sorted(set(sided["class"]))} | {ALL: left | ~left}
    correct = pd.concat([correct_sides(sided).where(inside) for inside in groups.values()], axis=1)
    means = resample_means(correct.to_numpy(), owner, resamples, seed).estimates().reshape(-1, len(WAYS))
    return pd.DataFrame(
        [
            {
                "class": name,
                "cases": int(inside.sum()),
                "left": int(left[inside].sum()),
                "patients": len(np.unique(owner[inside])),
                **dict(zip(WAYS, of_class, strict=True)),
            }
            for (name, inside), of_class in zip(groups.items(), means, strict=True)
        ]
    )
