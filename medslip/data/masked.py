"""Images with masks of one finding, as a segmentation needs them: whatever the publisher's layout was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from medslip.data.attributes import Attributes
from medslip.data.checks import refuse_duplicates
from medslip.data.csv_old import read_cells
from medslip.data.images import Header, read_header, read_image
from medslip.data.phantom_truth import read_findings, table_attributes
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
        attributes: View, sex and age.
    """

    name: str
    finding: str
    paths: list[Path]
    read_mask: Callable[[int], Mask]
    marked: npt.NDArray[np.bool_]
    patients: list[str]
    attributes: Attributes

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
            attributes=self.attributes.at(indices),
        )


@dataclass(frozen=True)
class _Taken:
    read_mask: Callable[[int], Mask]
    indices: npt.NDArray[np.intp]

    def __call__(self, index: int) -> Mask:
        return self.read_mask(int(self.indices[index]))


def read_mask(path: Path) -> Mask:
    """A mask that is a picture: what is brighter than half of its brightest pixel is inside, nothing where all is black.

    Masks of 0 and 1 and of 0 and 255 mean the same, and the noise that JPEG leaves beside an edge is outside.

    Raises:
        InputError: It cannot be read.
    """
    grey = read_image(path)
    mask: Mask = grey > grey.max() / 2
    return mask


@dataclass(frozen=True)
class MaskFiles:
    """Masks as pictures, any number an image: what is inside any of them is inside.

    Attributes:
        images: n image files, for messages and for the size where there is no mask.
        masks: n lists of mask files.
    """

    images: Sequence[Path]
    masks: Sequence[Sequence[Path]]

    def __call__(self, index: int) -> Mask:
        """The union of the index-th image's masks."""
        header = read_header(self.images[index])
        union = np.zeros((header.height, header.width), bool)
        for path in self.masks[index]:
            mask = read_mask(path)
            refuse_other_size(path, mask.shape, self.images[index], header)
            union |= mask
        return union


def refuse_other_size(mask: Path, size: tuple[int, ...], image: Path, header: Header) -> None:
    """Refuse a mask that has not the size of its image.

    Args:
        mask: The file, for the message.
        size: Its height and width.
        image: The file, for the message.
        header: Of the image.

    Raises:
        InputError: Naming both files and sizes.
    """
    if size != (header.height, header.width):
        raise InputError(
            f"{mask}: the mask has {size[1]} x {size[0]} pixels, its image {image} {header.width} x {header.height}; make "
            "them the same size"
        )


def read_phantom_masks(corpus: Path, pathology: str) -> MaskedImages:
    """The phantoms that pre-training did not learn from (validation and test studies), with the masks of one pathology.

    Args:
        corpus: A folder that make_phantom wrote.
        pathology: Vocabulary name of a finding that phantoms have.

    Raises:
        InputError: The folder is no corpus, no phantom in it has that finding marked, or a mask has another size than its
            image.
    """
    corpus = Path(corpus)
    table = read_cells(corpus / "findings.csv")
    table = table[table["split"].isin(("valid", "test"))]
    names = table["image"].tolist()
    masks: dict[Path, list[Path]] = {}
    for finding in read_findings(corpus, "valid", "test"):
        if finding.pathology == pathology and finding.mask is not None:
            masks.setdefault(finding.image, []).append(finding.mask)
    if not masks:
        raise InputError(
            f"{corpus}/findings.jsonl: no validation or test phantom has a mask of {pathology!r}; take another finding, or "
            "draw more phantoms"
        )
    paths = [corpus / name for name in names]
    of_image = [masks.get(path, []) for path in paths]
    refuse_duplicates(names, [int(row) + 2 for row in table.index], corpus / "findings.csv")
    for path, files in tqdm(
        zip(paths, of_image, strict=True), "masks", len(paths), unit="image", leave=False, disable=None
    ):
        header = read_header(path)
        for file in files:
            mask = read_header(file)
            refuse_other_size(file, (mask.height, mask.width), path, header)
    return MaskedImages(
        name=f"phantoms ({corpus.name})",
        finding=pathology,
        paths=paths,
        read_mask=MaskFiles(paths, of_image),
        marked=np.array([bool(files) for files in of_image]),
        patients=table["patient"].tolist(),
        attributes=table_attributes(table),
    )
