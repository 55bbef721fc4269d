"""The evaluation of a classifier: scores, calibration, operating points and subgroups, as tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.evaluation.bootstrap import count_patients, patient_index
from medslip.evaluation.calibration import Platt, calibration, fit_platt
from medslip.evaluation.classification import score
from medslip.evaluation.figures import precision_recall_curves, reliability_diagrams, roc_curves, subgroup_forest
from medslip.evaluation.operating_points import choose_thresholds, operating_points
from medslip.evaluation.subgroups import ClassesInGroup, by_group


@dataclass(frozen=True)
class Predictions:
    """Images with labels and predicted probabilities.

    Attributes:
        name: Of the images, for tables and figures.
        images: n rows: ``path``, ``patient``, ``view``, ``sex`` ("" where unknown) and ``age`` (years, NaN where unknown).
        classes: C names.
        labels: n x C, int8: 1 present, 0 absent, -1 unknown.
        probabilities: n x C, 0..1.
    """

    name: str
    images: pd.DataFrame
    classes: Sequence[str]
    labels: npt.NDArray[np.int8]
    probabilities: npt.NDArray[np.floating]

    def about(self) -> dict[str, Any]:
        """``name``, and the numbers of ``images`` and ``patients``."""
        patients = count_patients(patient_index(self.images["patient"].tolist()))
        return {"name": self.name, "images": len(self.images), "patients": patients}


def evaluate(
    test: Predictions,
    validation: Predictions | None = None,
    specificity: float = 0.9,
    resamples: int = 1000,
    seed: int = 0,
    leave_out: Sequence[str] = (),
) -> dict[str, pd.DataFrame]:
    """Evaluate predictions on test images.

    Args:
        test: The predictions.
        validation: Predictions on other images of the same classes, to choose thresholds and fit recalibrations on; None for
            neither.
        specificity: The specificity that thresholds are chosen for, 0..1.
        resamples: Bootstrap resamples of patients; 0 for no intervals.
        seed: Random seed of the resamples and of the simulated chance levels.
        leave_out: Classes without which a second mean is taken, each.

    Returns:
        The tables ``scores`` (see ``classification.score``); ``calibration`` and ``reliability`` (see ``calibration``), where
        the column ``probabilities`` is "predicted" or "recalibrated"; ``operating_points``, with validation images only;
        ``subgroups``, ``subgroup_gaps`` and ``subgroup_classes`` (see ``subgroups.by_group``).
    """
    classes, labels, probabilities = test.classes, test.labels, test.probabilities
    patients = test.images["patient"].tolist()
    tables = {"scores": score(classes, labels, probabilities, patients, resamples, seed, leave_out)}
    calibrations = {"predicted": calibration(classes, labels, probabilities, patients, resamples, seed)}
    thresholds, points = [np.nan] * len(classes), {}
    if validation is not None:
        fitted = [fit_platt(validation.labels[:, k], validation.probabilities[:, k]) for k in range(len(classes))]
        again, bins = calibration(classes, labels, recalibrate(probabilities, fitted), patients, resamples, seed)
        for name in ("slope", "intercept"):
            again[name] = [getattr(platt, name, np.nan) for platt in fitted]
        again = again[again["slope"].notna() & (again["note"] == "")]
        calibrations["recalibrated"] = again, bins[bins["class"].isin(again["class"])]
        chosen = choose_thresholds(classes, validation.labels, validation.probabilities, specificity)
        points["operating_points"] = operating_points(chosen, labels, probabilities, patients, resamples, seed)
        thresholds = chosen.loc[chosen["rule"] == "specificity", "threshold"].tolist()
    for which, both in calibrations.items():
        for table in both:
            table.insert(1, "probabilities", which)
    for name, parts in zip(("calibration", "reliability"), zip(*calibrations.values(), strict=True), strict=True):
        tables[name] = pd.concat(parts, ignore_index=True)
    groups = by_group(
        test.images,
        lambda inside, owner: ClassesInGroup(inside, owner, classes, labels, probabilities, thresholds),
        resamples,
        seed,
    )
    return tables | points | groups


def recalibrate(probabilities: npt.NDArray[np.floating], fitted: Sequence[Platt | None]) -> npt.NDArray[np.float64]:
    """The recalibrated probabilities, n x C; unchanged in classes without a recalibration.

    Args:
        probabilities: n x C.
        fitted: The recalibrations of C classes.
    """
    columns = [
        column if platt is None else platt(column) for platt, column in zip(fitted, probabilities.T, strict=True)
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def draw(folder: Path, tables: dict[str, pd.DataFrame], test: Predictions) -> None:
    """Draw roc.png, precision_recall.png, calibration.png and, where groups can be compared, subgroups.png.

    Args:
        folder: The run directory.
        tables: What ``evaluate`` returned.
        test: The predictions.
    """
    for name, curves in (("roc.png", roc_curves), ("precision_recall.png", precision_recall_curves)):
        curves(folder / name, tables["scores"], test.labels, test.probabilities)
    reliability_diagrams(folder / "calibration.png", tables["calibration"], tables["reliability"])
    if (tables["subgroup_gaps"]["score"] == "auroc").any():
        subgroup_forest(folder / "subgroups.png", tables["subgroups"], tables["subgroup_gaps"], tables["scores"])


def prediction_table(
    images: pd.DataFrame,
    classes: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.int8] | None = None,
) -> pd.DataFrame:
    """The predictions.csv of a classification, one row per image; docs/metrics.md gives its columns.

    Args:
        images: n rows: ``path``, ``patient``, ``view``, ``sex``, ``age``.
        classes: C names.
        probabilities: n x C.
        labels: n x C; None for unlabelled images.
    """
    columns: dict[str, Any] = {"image": images["path"].astype(str), "patient": images["patient"]}
    columns |= {name: probabilities[:, k] for k, name in enumerate(classes)}
    if labels is not None:
        columns |= {f"label_{name}": labels[:, k] for k, name in enumerate(classes)}
    return pd.DataFrame(columns).assign(**metadata_columns(images))


def metadata_columns(images: pd.DataFrame) -> dict[str, pd.Series]:
    """``view``, ``sex`` and ``age`` for a table of predictions, without those that are unknown for every image."""
    columns = {name: images[name].replace("", np.nan) for name in ("view", "sex", "age")}
    return {name: column for name, column in columns.items() if column.notna().any()}
