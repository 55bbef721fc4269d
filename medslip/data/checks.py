"""What a list of images for training or testing must not contain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medslip.data.labelled import LabelledImages
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT


def refuse_duplicates(names: Sequence[str], lines: Sequence[int], source: Path) -> None:
    """Refuse a list that names an image twice, or not at all.

    Args:
        names: n image names.
        lines: n, where in the list each stands.
        source: The list, for messages.

    Raises:
        InputError: Naming the image and both lines.
    """
    seen: dict[str, int] = {}
    for name, line in zip(names, lines, strict=True):
        if not name:
            raise InputError(f"{source}: line {line}: names no image")
        if name in seen:
            raise InputError(f"{source}: line {line}: image {name} is listed twice, also in line {seen[name]}")
        seen[name] = line


def refuse_shared(splits: Mapping[str, LabelledImages]) -> None:
    """Refuse splits that share an image or a patient: the test would be on what was trained on.

    Args:
        splits: Split name -> its images. Unknown patients share nothing.

    Raises:
        InputError: Naming what is shared and by which two splits.
    """
    owners: dict[tuple[str, str], str] = {}
    for split, images in splits.items():
        named = [("image", str(path)) for path in images.paths]
        named += [("patient", patient) for patient in images.patients if patient]
        for what in named:
            owner = owners.setdefault(what, split)
            if owner != split:
                raise InputError(
                    f"{images.name}: {' '.join(what)} is in {owner} and in {split}; keep it in one of them"
                )


def refuse_empty_classes(images: LabelledImages) -> None:
    """Refuse a class that cannot be learnt or scored: no image that has it, or none that has not.

    Raises:
        InputError: Naming the class.
    """
    if images.labels is None:
        raise InputError(f"{images.name}: has no labels")
    for column, name in enumerate(images.classes):
        for code, what in ((PRESENT, "present"), (ABSENT, "absent")):
            if not (images.labels[:, column] == code).any():
                raise InputError(
                    f"{images.name}: class {name} is {what} in none of the {len(images)} images; leave it out"
                )
