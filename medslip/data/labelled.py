"""Images with class labels, as an evaluation needs them: whatever the publisher's layout was, this is what a reader gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medslip.data.attributes import Attributes
from medslip.data.images import Header, is_dicom
from medslip.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".dcm", ".dicom"})


@dataclass(frozen=True)
class LabelledImages:
    """n images with the labels of C classes.

    Attributes:
        name: What the data set is called in reports.
        classes: C class names, as the publisher spells them.
        paths: n image files.
        labels: n x C, int8: 1 present, 0 absent, -1 unknown; None where there are no labels.
        patients: n patient names, empty where unknown; images of one patient are resampled together.
        views: n view names, empty where unknown.
        sexes: n, "M", "F" or empty.
        ages: n, years, NaN where unknown.
    """

    name: str
    classes: tuple[str, ...]
    paths: list[Path]
    labels: npt.NDArray[np.int8] | None
    patients: list[str]
    views: list[str]
    sexes: list[str]
    ages: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: npt.NDArray[np.intp]) -> LabelledImages:
        """Some of the images, in the order of the indices."""
        known = self.attributes.at(indices)
        return replace(
            self,
            paths=[self.paths[index] for index in indices],
            labels=None if self.labels is None else self.labels[indices],
            patients=[self.patients[index] for index in indices],
            views=known.views,
            sexes=known.sexes,
            ages=known.ages,
        )

    @property
    def label_array(self) -> npt.NDArray[np.int8]:
        """The labels."""
        assert self.labels is not None
        return self.labels

    @property
    def metadata(self) -> Attributes:
        """Views, sexes and ages."""
        return self.attributes

    @property
    def attributes(self) -> Attributes:
        """Views, sexes and ages."""
        return Attributes(self.views, self.sexes, self.ages)


def read_folder(folder: Path) -> LabelledImages:
    """Every image below a folder, sorted by path, without labels; DICOM files may lack a suffix.

    Raises:
        InputError: The folder does not exist or holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder of images")
    paths = sorted(path for path in _files_below(folder) if _may_be_image(path))
    if not paths:
        raise InputError(f"{folder}: holds no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
    unknown = [""] * len(paths)
    return LabelledImages(
        folder.name, (), paths, None, list(unknown), list(unknown), list(unknown), np.full(len(paths), np.nan)
    )


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file below a folder, linked folders included, but for hidden ones."""
    seen = {os.path.realpath(folder)}
    for path, folders, names in os.walk(folder, followlinks=True):
        # A link to a folder above would be walked for ever.
        folders[:] = [name for name in folders if not name.startswith(".") and not _is_known(Path(path, name), seen)]
        yield from (Path(path, name) for name in names if not name.startswith("."))


def _is_known(folder: Path, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    known = real in seen
    seen.add(real)
    return known


def _may_be_image(path: Path) -> bool:
    """By its suffix; a file without one, as archives of DICOM files have them, by its content."""
    return path.suffix.lower() in IMAGE_SUFFIXES or (not path.suffix and path.stat().st_size > 0 and is_dicom(path))


def one_class(
    name: str, label: str, paths: list[Path], marked: Sequence[bool], patients: list[str], headers: Sequence[Header]
) -> LabelledImages:
    """Images labelled for one class, with view, sex and age as their files say.

    Args:
        name: What the data set is called in reports.
        label: The class.
        paths: n image files.
        marked: n, whether the class is present.
        patients: n patient names.
        headers: n, of the files.
    """
    known = Attributes.of_headers(headers)
    return LabelledImages(
        name=name,
        classes=(label,),
        paths=paths,
        labels=np.array(marked, np.int8)[:, None],
        patients=patients,
        views=known.views,
        sexes=known.sexes,
        ages=known.ages,
    )


def find_images(names: Sequence[str], lines: Sequence[int], folders: Iterable[Path], source: Path) -> list[Path]:
    """The image files of names that a table gives with or without a suffix.

    Args:
        names: n names.
        lines: n, where in the table each stands, for messages.
        folders: Where the files may be, subfolders included.
        source: The table, for messages.

    Raises:
        InputError: A name has no file, or several that could be meant.
    """
    folders = list(folders)
    files: dict[str, Path] = {}
    others: dict[str, Path] = {}
    for folder in folders:
        for path in _files_below(folder):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                for known in (path.name, path.stem):
                    if known in files:
                        others.setdefault(known, path)
                    files.setdefault(known, path)
    for name, line in zip(names, lines, strict=True):
        if name not in files:
            where = " or ".join(str(folder) for folder in folders)
            raise InputError(f"{source}: line {line}: image {name} is not in {where}; download it, or name its folder")
        if name in others:
            both = " or ".join(sorted(map(str, (files[name], others[name]))))
            raise InputError(f"{source}: line {line}: image {name} may be {both}; name the folder of the right one")
    return [files[name] for name in names]
