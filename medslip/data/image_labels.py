"""Class labels of images as triplets, for pre-training without reports.

A label says what is there, not where: every cell lies in the row "unspecified". A class labelled 1 becomes
present, 0 absent, -1 stays unmentioned. Two rules beyond that:

- An image labelled "No Finding" also has `normal` present. (`normal` is never absent: a finding somewhere
  does not say that nothing else is normal.)
- tail_abnorm_obs, which gathers every rarer abnormality, is present where a class that maps to it is, such as
  Fibrosis, and never absent: no fibrosis does not mean no other rare finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from medslip.data.labelled import LabelledImages
from medslip.data.prepared import PreparedWriter, StudyImage
from medslip.data.summary import PreparationSummary
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT, UNKNOWN, Cells
from medslip.vocabulary import CXR14_CLASSES, PATHOLOGIES, anatomy_index, pathology_index

_CATCH_ALL = "tail_abnorm_obs"

_ALIASES = {
    "pleuralthicken": "thicken", "pleuraleffusion": "effusion", "lungopacity": "opacity",
    "lunglesion": "lesion", "supportdevices": "device", "hiatalhernia": "hernia",
}  # fmt: skip
"""Spellings of other public tables; keys as _key makes them."""


def _key(name: str) -> str:
    """A class name without case, blanks and punctuation."""
    return "".join(character for character in name.lower() if character.isalnum())


_BY_NAME = {
    **{_key(name): name for name in PATHOLOGIES},
    **{_key(name): pathology for name, pathology in CXR14_CLASSES.items()},
    **_ALIASES,
}


def pathology_of(name: str) -> str | None:
    """The pathology that a class name stands for, as effusion for "Pleural Effusion"; None if none."""
    return _BY_NAME.get(_key(name))


def class_pathologies(classes: Sequence[str], mapping: Mapping[str, str], source: str) -> list[str]:
    """The pathology of each class: from the mapping, else by its name.

    Raises:
        InputError: A class is neither mapped nor known by name, or is mapped to no pathology.
    """
    pathologies = []
    for name in classes:
        pathology = mapping.get(name) or pathology_of(name)
        if pathology is None:
            raise InputError(f"{source}: unknown class {name!r}; map it to a pathology, as in {{{name}: opacity}}")
        if pathology not in PATHOLOGIES:
            raise InputError(f"{source}: class {name!r} is mapped to {pathology!r}, which is no pathology")
        pathologies.append(pathology)
    return pathologies


def pathology_states(
    labels: npt.NDArray[np.int8], pathologies: Sequence[str], normal: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int8]:
    """States of the row "unspecified", n x P.

    Args:
        labels: n x C, 1 present, 0 absent, -1 unknown.
        pathologies: The pathology of each of the C classes; of classes that share one, any present wins.
        normal: n, whether the image is labelled to have no finding.

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


def write_image_labels(
    folder: Path,
    images: LabelledImages,
    states: npt.NDArray[np.int8],
    studies: Sequence[str],
    splits: Sequence[str | None],
    left_out: Mapping[str, int],
    notes: tuple[str, ...],
) -> PreparationSummary:
    """Write labelled images as a prepared data set.

    Args:
        folder: The prepared data set's folder.
        images: n images; their own labels are not looked at.
        states: n x P, from pathology_states. One study's images are merged, present before absent.
        studies: n study names; one belongs to one patient.
        splits: n split names; None leaves the image out.
        left_out: For the summary.
        notes: For the summary.

    Raises:
        InputError: A study belongs to two patients, or there is no image.
    """
    members: dict[str, list[int]] = {}
    for index, (study, split) in enumerate(zip(studies, splits, strict=True)):
        if split is not None:
            members.setdefault(study, []).append(index)
    with PreparedWriter(folder, images.name) as writer:
        for study, indices in tqdm(members.items(), desc="labels", unit="study", disable=None):
            patients = {images.patients[index] for index in indices}
            if len(patients) > 1:
                raise InputError(f"{images.name}: study {study} belongs to patients {' and '.join(sorted(patients))}")
            writer.add(
                study,
                patients.pop(),
                _cells(states[indices].max(axis=0)),
                [
                    StudyImage(
                        images.paths[index],
                        str(splits[index]),
                        images.views[index],
                        images.sexes[index],
                        float(images.ages[index]),
                    )
                    for index in indices
                ],
            )
        return writer.finish(left_out, notes)


def join(parts: Sequence[LabelledImages]) -> LabelledImages:
    """Several sets of labelled images of the same classes as one, in order."""
    first = parts[0]
    if any(part.classes != first.classes or part.labels is None for part in parts):
        raise ValueError("only labelled images of the same classes can be joined")
    return LabelledImages(
        name=" and ".join(part.name for part in parts),
        classes=first.classes,
        paths=[path for part in parts for path in part.paths],
        labels=np.concatenate([part.labels for part in parts if part.labels is not None]),
        patients=[patient for part in parts for patient in part.patients],
        views=[view for part in parts for view in part.views],
        sexes=[sex for part in parts for sex in part.sexes],
        ages=np.concatenate([part.ages for part in parts]),
    )


def _cells(states: npt.NDArray[np.int8]) -> Cells:
    row = anatomy_index("unspecified")
    return {(row, int(column)): int(states[column]) for column in np.flatnonzero(states >= ABSENT)}
