"""What those who must judge a model ask beyond its scores: calibration, operating points and subgroups, together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medslip.data.labelled import LabelledImages
from medslip.data.table import ImageTable
from medslip.evaluation.bootstrap import Interval, count_patients, patient_index
from medslip.evaluation.calibration import (
    BINS,
    CALIBRATION_SCORES,
    SIMULATIONS,
    ClassCalibration,
    Platt,
    calibration,
    fit_platt,
)
from medslip.evaluation.classification import Floats
from medslip.evaluation.estimates import estimate, subgroup_entries, with_scores
from medslip.evaluation.operating_points import POINT_SCORES, ClassPoints, choose_thresholds, operating_points
from medslip.evaluation.subgroups import AttributeScores, groups_of, subgroups


@dataclass(frozen=True)
class Judgement:
    """The answers.

    Attributes:
        calibration: Of each class, on the test images.
        validation: Name, images and patients of the validation images; None where there are none.
        specificity: That thresholds were chosen at.
        platt: Of each class, fitted on validation; None where validation lacks positives or negatives. Empty without
            validation images.
        recalibrated: As ``calibration``, after recalibration; without it where a class has none. Empty without validation
            images.
        points: Of each class; empty without validation images.
        subgroups: Attribute -> its scores.
    """

    calibration: tuple[ClassCalibration, ...]
    validation: Mapping[str, Any] | None
    specificity: float
    platt: tuple[Platt | None, ...]
    recalibrated: tuple[ClassCalibration, ...]
    points: tuple[ClassPoints, ...]
    subgroups: Mapping[str, AttributeScores]

    def entries(self) -> dict[str, Any]:
        """The entries ``calibration``, ``operating_points`` and ``subgroups`` of metrics.json; see docs/metrics.md."""
        classes = [{**_calibration_entry(entry), "recalibrated": None} for entry in self.calibration]
        for entry, platt, after in zip(classes, self.platt, self.recalibrated, strict=False):
            if platt is not None and after.undefined is None:
                scores = _calibration_entry(after)
                for repeated in ("name", "positives", "negatives", "undefined"):
                    del scores[repeated]
                entry["recalibrated"] = {**asdict(platt), **scores}
        return {
            "calibration": {
                "bins": BINS,
                "simulations": SIMULATIONS,
                "validation": self.validation,
                "classes": classes,
            },
            "operating_points": {
                "specificity": self.specificity,
                "validation": self.validation,
                "classes": [
                    {
                        "name": entry.name,
                        "undefined": entry.undefined,
                        "at_specificity": with_scores(entry.at_specificity, POINT_SCORES),
                        "at_max_f1": with_scores(entry.at_max_f1, POINT_SCORES),
                    }
                    for entry in self.points
                ],
            }
            if self.points
            else None,
            "subgroups": subgroup_entries(self.subgroups),
        }


def _calibration_entry(entry: ClassCalibration) -> dict[str, Any]:
    bins = [
        {
            "images": each.images,
            "probability": each.probability,
            "frequency": estimate(each.frequency, Interval(each.low, each.high, resamples=0, left_out=0)),
        }
        for each in entry.bins
    ]
    return {**with_scores(entry, CALIBRATION_SCORES), "bins": bins}


def judge(
    images: ImageTable | LabelledImages,
    probabilities: npt.NDArray[np.floating],
    validation: tuple[ImageTable | LabelledImages, npt.NDArray[np.floating]] | None,
    specificity: float = 0.9,
    resamples: int = 1000,
    seed: int = 0,
) -> Judgement:
    """Judge the answers on test images.

    Args:
        images: n labelled test images.
        probabilities: n x C, of their classes.
        validation: Labelled images of the same classes, and their probabilities, to choose thresholds and fit
            recalibrations on; None for neither.
        specificity: That thresholds are chosen at, 0..1.
        resamples: Bootstrap resamples of patients; 0 for no intervals.
        seed: Of the resamples and of the simulated chance levels.
    """
    labels, classes, patients = images.label_array, images.classes, images.patients
    platt: tuple[Platt | None, ...] = ()
    recalibrated: tuple[ClassCalibration, ...] = ()
    points: tuple[ClassPoints, ...] = ()
    about = None
    if validation is not None:
        others, answers = validation
        known = others.label_array
        about = {"name": others.name, "images": len(others), "patients": count_patients(patient_index(others.patients))}
        platt = tuple(fit_platt(known[:, k], answers[:, k]) for k in range(len(classes)))
        recalibrated = calibration(classes, labels, recalibrate(probabilities, platt), patients, resamples, seed)
        thresholds = choose_thresholds(known, answers, specificity)
        points = operating_points(classes, labels, probabilities, patients, thresholds, resamples, seed)
    return Judgement(
        calibration=calibration(classes, labels, probabilities, patients, resamples, seed),
        validation=about,
        specificity=specificity,
        platt=platt,
        recalibrated=recalibrated,
        points=points,
        subgroups=subgroups(
            classes,
            labels,
            probabilities,
            patients,
            groups_of(images.metadata),
            [entry.at_specificity.chosen.threshold for entry in points] or None,
            resamples,
            seed,
        ),
    )


def recalibrate(probabilities: npt.NDArray[np.floating], platt: Sequence[Platt | None]) -> Floats:
    """The recalibrated probabilities; as they are where a class has no recalibration.

    Args:
        probabilities: n x C.
        platt: C.
    """
    columns = [
        column if fitted is None else fitted(column) for fitted, column in zip(platt, probabilities.T, strict=True)
    ]
    return np.stack(columns, axis=1).astype(np.float64)
