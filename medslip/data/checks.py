"""What a list of images for training or testing must not contain."""

from __future__ import annotations

import os
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


def refuse_repeated_files(paths: Sequence[Path], lines: Sequence[int], source: Path) -> None:
    """Refuse a list that names an image file twice, in whatever spelling.

    Args:
        paths: n image files.
        lines: n, where in the list each stands.
        source: The list, for messages.

    Raises:
        InputError: Naming the file and both lines.
    """
    refuse_duplicates([os.path.normpath(path) for path in paths], lines, source)


def refuse_shared(splits: Mapping[str, LabelledImages]) -> None:
    """Refuse splits that share an image or a patient: the test would be on what was trained on.

    Args:
        splits: Split name -> its images. Unknown patients share nothing.

    Raises:
        InputError: Naming what is shared, and an image of it in each of the two splits.
    """
    owners: dict[tuple[str, str], tuple[str, Path]] = {}
    for split, images in splits.items():
        for path, patient in zip(images.paths, images.patients, strict=True):
            for what in (("image", os.path.normpath(path)), ("patient", patient)):
                if not what[1]:
                    continue
                owner, first = owners.setdefault(what, (split, path))
                if owner != split:
                    where = f" ({first.name} and {path.name})" if what[0] == "patient" else ""
                    raise InputError(
                        f"{images.name}: {' '.join(what)} is in {owner} and in {split}{where}; keep it in one of them"
                    )


def refuse_without_scores(images: LabelledImages) -> None:
    """Refuse images that no score can be computed on, as each class is empty; single empty classes are left to the scores.

    Raises:
        InputError: Naming the first class.
    """
    empty = _empty_classes(images)
    if len(empty) == len(images.classes):
        name, missing = next(iter(empty.items()))
        others = f", and {len(empty) - 1} more classes are no better" if len(empty) > 1 else ""
        raise InputError(
            f"{images.name}: class {name} is {missing} in none of the {len(images)} images{others}; nothing can be learnt or "
            "scored, take more images"
        )


def _empty_classes(images: LabelledImages) -> dict[str, str]:
    """Class -> what it never is, for classes that are not both present and absent somewhere."""
    if images.labels is None:
        raise InputError(f"{images.name}: has no labels")
    codes = ((PRESENT, "present"), (ABSENT, "absent"))
    return {
        name: what
        for column, name in enumerate(images.classes)
        for code, what in reversed(codes)
        if not (images.labels[:, column] == code).any()
    }
