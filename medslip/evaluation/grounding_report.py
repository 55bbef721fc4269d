"""What an evaluation of grounding leaves: metrics.json, scores.csv, and the tables that it prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medslip.evaluation.grounding_scores import CASE_SCORES, MAPS, SCORES, CaseScores, GroupScores, Score
from medslip.evaluation.run_folder import METRICS_FORMAT, METRICS_VERSION, environment, write_json
from medslip.evaluation.text_table import aligned, number, with_interval
from medslip.files import written_whole

SIZES = ("larger", "smaller")
"""Findings whose largest box has more area than one patch, and the others."""

ALL = "all findings"
"""The group of every class's cases."""

GROUNDING_WORDS = {
    "pointing": "pointing game",
    "pointing_patch": "pointing game, published rule",
    "pixel_auroc": "AUROC of pixels",
    "contrast_to_noise": "contrast-to-noise ratio",
    "iou": "IoU",
    "dice": "Dice",
    "box_precision": "average precision of boxes",
}
"""Score -> what people call it."""


def write_grounding_metrics(
    folder: Path,
    data: Mapping[str, Any],
    groups: Mapping[str, Sequence[GroupScores]],
    resamples: int,
    seed: int,
    device: str = "cpu",
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write metrics.json of a grounding; its shape is in docs/metrics.md.

    Args:
        folder: The run's folder.
        data: What was grounded.
        groups: Size (of SIZES) -> its groups.
        resamples: Of the bootstrap.
        seed: Of the resamples.
        device: The torch device of the run.
        extra: More top-level entries, such as the thresholds.
    """
    metrics = {
        "format": METRICS_FORMAT,
        "version": METRICS_VERSION,
        "task": "grounding",
        "data": data,
        "bootstrap": {"resamples": resamples, "seed": seed, "unit": "patient", "level": 0.95},
        **{size: [asdict(group) for group in groups[size]] for size in SIZES},
        "environment": environment(device),
        **(extra or {}),
    }
    write_json(Path(folder) / "metrics.json", metrics)


def write_case_scores(
    folder: Path, columns: Mapping[str, Sequence[Any]], answers: Mapping[str, Sequence[CaseScores]]
) -> None:
    """Write scores.csv, one line a finding of an image.

    Columns: those given, then for each map each of CASE_SCORES (``model_pointing``, ...), and ``model_boxes`` and
    ``model_boxes_found``, the number of predicted boxes and of those that find a true one. Empty where not defined.

    Args:
        folder: The run's folder.
        columns: Name -> one entry a case.
        answers: Map (each of MAPS) -> its scores of every case.
    """
    table: dict[str, Any] = dict(columns)
    for name in MAPS:
        values = np.stack([case.values for case in answers[name]])
        table |= {f"{name}_{key}": values[:, k] for k, key in enumerate(CASE_SCORES)}
        table[f"{name}_boxes"] = [len(case.found) for case in answers[name]]
        table[f"{name}_boxes_found"] = [int(case.found.sum()) for case in answers[name]]
    with written_whole(Path(folder) / "scores.csv") as partial:
        pd.DataFrame(table).to_csv(partial, index=False, float_format="%.6g")


def class_table(groups: Sequence[GroupScores]) -> str:
    """A line a group: pointing game with its interval and chance levels, then the other scores of the model.

    Args:
        groups: Every class, then "all findings".
    """
    header = [
        "class", "n", "pointing [95 % interval]", "uniform", "prior", "any pixel", "pixel AUROC", "CNR", "IoU", "Dice",
        "box AP",
    ]  # fmt: skip
    rows = [[group.name, f"{group.findings:,}", *_cells(group)] for group in groups]
    text = aligned([header, *rows])
    if rows[-1][0] == ALL:
        text.insert(-1, text[1])
    return "\n".join(text)


def chance_table(group: GroupScores) -> str:
    """A line a score: the model's with its interval, the chance levels, and how far the model is above the prior.

    Args:
        group: Usually all findings of one size.
    """
    header = [group.name, "model [95 % interval]", "uniform", "prior", "above prior [95 % interval]"]
    rows = [
        [
            GROUNDING_WORDS[key],
            _shown(group.scores["model"][key]),
            number(group.scores["uniform"][key].value),
            number(group.scores["prior"][key].value),
            _shown(group.above_prior[key]),
        ]
        for key in SCORES
    ]
    return "\n".join(aligned([header, *rows]))


def _cells(group: GroupScores) -> list[str]:
    model = group.scores["model"]
    chance = [number(group.scores[name]["pointing"].value) for name in ("uniform", "prior")]
    return [_shown(model["pointing"]), *chance, *(number(model[key].value) for key in SCORES[1:])]


def _shown(score: Score) -> str:
    return with_interval(score.value, score.interval)
