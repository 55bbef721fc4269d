"""Class labels of images as triplets, for pre-training without reports.

A label says what is there, not where, so every cell is in the row "unspecified". A class labelled 1 is present, 0 absent,
-1 not mentioned. Two rules beyond that:

- An image labelled "No Finding" also has `normal` present. (`normal` is never absent: a finding in one place does not say
  that nothing else is normal.)
- tail_abnorm_obs, which collects the rarer abnormalities, is present if a class that maps to it is, such as Fibrosis, and
  never absent: no fibrosis does not mean no other rare finding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from medslip.data.table import ImageTable
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT, UNKNOWN, Cells
from medslip.vocabulary import PATHOLOGIES, anatomy_index, class_pathologies, pathology_index

_CATCH_ALL = "tail_abnorm_obs"


def label_cells(table: ImageTable, mapping: Mapping[str, str]) -> Iterator[tuple[str, Cells]]:
    """Each study's cells, merged over its images, present before absent.

    Args:
        table: Images with labels.
        mapping: Class -> pathology, for classes that are not named after one.

    Yields:
        Study and cells, in the order of the studies' first images.

    Raises:
        InputError: There are no labels, or a class stands for no pathology.
    """
    if table.labels is None:
        raise InputError(f"{table.name}: has neither reports nor labels, so there is nothing to pre-train on")
    pathologies = class_pathologies(table.classes, mapping, table.name)
    states = pathology_states(table.label_array, pathologies, table.images["normal"].to_numpy(bool))
    row = anatomy_index("unspecified")
    for study, members in table.images.groupby("study", sort=False).indices.items():
        state = states[members].max(axis=0)
        yield str(study), {(row, int(column)): int(state[column]) for column in np.flatnonzero(state >= ABSENT)}


def pathology_states(
    labels: npt.NDArray[np.int8], pathologies: Sequence[str], normal: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int8]:
    """States of the row "unspecified", n x P.

    Args:
        labels: n x C, 1 present, 0 absent, -1 unknown.
        pathologies: The pathology of each of the C classes; of classes that share one, any present wins.
        normal: n, whether the image is labelled as having no finding.

    Returns:
        int8: 1 present, 0 absent, -1 not mentioned.
    """
    states = np.full((len(labels), len(PATHOLOGIES)), UNKNOWN, np.int8)
    for column, pathology in enumerate(pathologies):
        state = labels[:, column]
        if pathology == _CATCH_ALL:
            state = np.where(state == PRESENT, state, UNKNOWN).astype(np.int8)
        index = pathology_index(pathology)
        states[:, index] = np.maximum(states[:, index], state)
    states[normal, pathology_index("normal")] = PRESENT
    return states
