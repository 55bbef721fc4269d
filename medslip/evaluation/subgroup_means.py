"""Means over cases, such as the Dice of images, by subgroup: as subgroups.py compares classes, without classes.

A score's mean is given in a group that has at least LEAST cases of it. The groups that have it are compared, and their gap is
to be read as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from medslip.evaluation.bootstrap import Counts, count_carriers, count_patients, patient_index
from medslip.evaluation.classification import Floats
from medslip.evaluation.subgroups import LEAST, AttributeScores, Parts, compare, summaries


def subgroup_means(
    cases: Mapping[str, npt.NDArray[np.floating]],
    image_of: npt.NDArray[np.intp],
    patients: Sequence[str],
    attributes: Mapping[str, Sequence[str]],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, AttributeScores]:
    """Average each group of each attribute, with 95 % intervals.

    Args:
        cases: Score -> its value in each of n cases, NaN where a case has no share in the mean.
        image_of: n, the position of each case's image.
        patients: One name an image, "" where unknown.
        attributes: Attribute -> the group of each image, "" where unknown.
        resamples: Bootstrap resamples of patients; 0 for no intervals.
        seed: Of the resamples.

    Returns:
        Attribute -> its scores, without the attributes that no image with a case has.
    """
    # An image without a case is in no group, and its patient is not resampled.
    images, case_image = np.unique(image_of, return_inverse=True)
    owner = patient_index([patients[index] for index in images])
    known = {name: [groups[index] for index in images] for name, groups in attributes.items()}
    values = np.stack(list(cases.values()), axis=1).astype(np.float64)
    found = {
        name: _MeansByGroup(Parts(groups, owner), tuple(cases), values, case_image, owner)
        for name, groups in known.items()
        if any(groups)
    }
    return summaries(found, count_patients(owner), resamples, seed)


class _MeansByGroup:
    """One attribute's groups, by their means over cases.

    Args:
        parts: The images by group.
        names: Of K scores.
        values: n x K, NaN where a case has no share.
        image_of: n, the image of each case.
        owner: The number of each image's patient.
    """

    def __init__(
        self,
        parts: Parts,
        names: tuple[str, ...],
        values: Floats,
        image_of: npt.NDArray[np.intp],
        owner: npt.NDArray[np.intp],
    ) -> None:
        self._parts, self._names = parts, names
        counted = ~np.isnan(values)
        self._sums, self._weights = (np.zeros((len(parts.names), count_patients(owner), len(names))) for _ in range(2))
        for g, mask in enumerate(parts.inside):
            inside = mask[image_of]
            of_case = owner[image_of[inside]]
            np.add.at(self._sums[g], of_case, np.where(counted, values, 0)[inside])
            np.add.at(self._weights[g], of_case, counted[inside])

    def scores(self, counts: Counts) -> Floats:
        """Rows of weights x groups x K; NaN where no case has weight."""
        summed, weight = (np.swapaxes(counts @ each, 0, 1) for each in (self._sums, self._weights))
        return np.divide(summed, weight, out=np.full(summed.shape, np.nan), where=weight > 0)

    def summary(self, values: Floats, drawn: Floats) -> AttributeScores:
        """The groups with enough cases, side by side."""
        enough = self._weights.sum(axis=1) >= LEAST
        carriers = np.stack([count_carriers(weights) for weights in self._weights])
        comparisons = {}
        for k, key in enumerate(self._names):
            chosen = np.flatnonzero(enough[:, k])
            if len(chosen):
                names = [self._parts.names[g] for g in chosen]
                comparisons[key] = compare((), names, values[chosen, k], drawn[:, chosen, k], carriers[chosen, k])
        groups = tuple(self._parts.group(g, bool(enough[g].any())) for g in range(len(enough)))
        return AttributeScores(self._parts.unknown, groups, comparisons)
