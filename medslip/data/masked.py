"""Images with masks of one finding, as a segmentation needs them: whatever the publisher's layout was."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from medslip.data.table import read_cells
from medslip.errors import InputError

Mask = npt.NDArray[np.bool_]
"""H x W, True inside the finding."""


@dataclass(frozen=True)
class MaskedImages:
    """n images, each with one mask.

    Attributes:
        name: What the data set is called in reports.
        finding: What is marked.
        paths: n image files.
        read_mask: Position -> H x W bool, the size of the image, all False where nothing is marked. Worker processes
            call it, so it can be pickled.
        marked: n, bool: whether anything is marked, known without reading the mask.
        patients: n patient names, empty where unknown.
    """

    name: str
    finding: str
    paths: list[Path]
    read_mask: Callable[[int], Mask]
    marked: npt.NDArray[np.bool_]
    patients: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    def mask(self, index: int) -> Mask:
        """The mask of the index-th image, H x W bool.

        Raises:
            InputError: It cannot be read.
        """
        return self.read_mask(index)

    def take(self, indices: npt.NDArray[np.intp]) -> MaskedImages:
        """Some of the images, in the order of the indices."""
        return replace(
            self,
            paths=[self.paths[index] for index in indices],
            read_mask=_Taken(self.read_mask, indices),
            marked=self.marked[indices],
            patients=[self.patients[index] for index in indices],
        )


@dataclass(frozen=True)
class _Taken:
    read_mask: Callable[[int], Mask]
    indices: npt.NDArray[np.intp]

    def __call__(self, index: int) -> Mask:
        return self.read_mask(int(self.indices[index]))


@dataclass(frozen=True)
class MaskFiles:
    """Masks as pictures, any number an image: what is above 0 in any of them is inside.

    Attributes:
        images: n image files, for messages and for the size where there is no mask.
        masks: n lists of mask files.
    """

    images: Sequence[Path]
    masks: Sequence[Sequence[Path]]

    def __call__(self, index: int) -> Mask:
        """The union of the index-th image's masks."""
        size = _size(self.images[index])
        union = np.zeros(size, bool)
        for path in self.masks[index]:
            mask = _read_picture(path)
            if mask.shape != size:
                raise InputError(
                    f"{path}: a mask of {mask.shape[1]} x {mask.shape[0]} pixels for the image {self.images[index]} of "
                    f"{size[1]} x {size[0]}"
                )
            union |= mask
        return union


def read_phantom_masks(corpus: Path, pathology: str) -> MaskedImages:
    """The phantoms that pre-training did not learn from (validation and test studies), with the masks of one pathology.

    Args:
        corpus: A folder that make_phantom wrote.
        pathology: Vocabulary name of a finding that phantoms have.

    Raises:
        InputError: The folder is no corpus, or no phantom in it has that finding marked.
    """
    corpus = Path(corpus)
    table = read_cells(corpus / "findings.csv")
    table = table[table["split"].isin(("valid", "test"))]
    names = table["image"].tolist()
    kept = set(names)
    masks: dict[str, list[Path]] = {}
    for finding in _findings(corpus / "findings.jsonl"):
        if finding["pathology"] == pathology and finding["image"] in kept:
            masks.setdefault(finding["image"], []).append(corpus / finding["mask"])
    if not masks:
        raise InputError(f"{corpus}/findings.jsonl: no phantom has a mask of {pathology!r}")
    paths = [corpus / name for name in names]
    of_image = [masks.get(name, []) for name in names]
    return MaskedImages(
        name=f"phantoms ({corpus.name})",
        finding=pathology,
        paths=paths,
        read_mask=MaskFiles(paths, of_image),
        marked=np.array([bool(files) for files in of_image]),
        patients=table["patient"].tolist(),
    )


def _findings(path: Path) -> list[dict[str, str]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); draw a corpus with make_phantom.py") from None
    except ValueError as error:
        raise InputError(f"{path}: not one JSON object a line ({error})") from None


def _size(path: Path) -> tuple[int, int]:
    """Height and width, from the header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, UnidentifiedImageError):
        raise InputError(f"{path}: cannot be read as an image") from None


def _read_picture(path: Path) -> Mask:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L")) > 0
    except (OSError, UnidentifiedImageError):
        raise InputError(f"{path}: the mask cannot be read as an image") from None
