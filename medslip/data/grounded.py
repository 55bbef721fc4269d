"""Images with findings whose place is known, whatever publisher marked them: what an evaluation of grounding needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medslip.data import cxr14, rsna
from medslip.data.attributes import Attributes
from medslip.data.boxes import BOX_FRAME, Box, BoxedImages, Rectangle
from medslip.data.images import Header, read_headers
from medslip.data.masked import read_mask
from medslip.data.phantom_truth import PhantomFinding, read_findings
from medslip.errors import InputError

Region = npt.NDArray[np.bool_]
"""H x W, True inside."""


@dataclass(frozen=True)
class GroundedFinding:
    """Where an image shows a class.

    Attributes:
        label: The class.
        boxes: One or more, x, y, width, height in pixels of the frame.
        mask: An image of the frame's size, above half grey inside; None where only boxes are known.
    """

    label: str
    boxes: tuple[Rectangle, ...]
    mask: Path | None = None


@dataclass(frozen=True)
class GroundedImages:
    """n images with their findings.

    Attributes:
        name: What the data set is called in reports.
        frame: Height and width, pixels, that boxes and masks are given in: those of the publisher's images.
        paths: n image files.
        patients: n patient names, empty where unknown.
        findings: n, the findings of each image, one of a class.
        attributes: View, sex and age.
    """

    name: str
    frame: tuple[int, int]
    paths: list[Path]
    patients: list[str]
    findings: list[tuple[GroundedFinding, ...]]
    attributes: Attributes

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of all findings, in alphabetical order."""
        return tuple(sorted({finding.label for findings in self.findings for finding in findings}))

    def at(self, indices: Collection[int]) -> GroundedImages:
        """The images at these positions, in the order given."""
        return GroundedImages(
            self.name,
            self.frame,
            [self.paths[index] for index in indices],
            [self.patients[index] for index in indices],
            [self.findings[index] for index in indices],
            self.attributes.at(indices),
        )


def read_region(path: Path, frame: tuple[int, int]) -> Region:
    """The mask of a finding.

    Args:
        path: The file.
        frame: Height and width that it must have.

    Raises:
        InputError: It cannot be read, has another size, or is empty.
    """
    mask = read_mask(path)
    if mask.shape != frame:
        raise InputError(
            f"{path}: the mask has {mask.shape[1]} x {mask.shape[0]} pixels, its image {frame[1]} x {frame[0]}; make them "
            "the same size"
        )
    if not mask.any():
        raise InputError(f"{path}: the mask is empty; draw what the finding covers, or remove the finding")
    return mask


def read_phantoms(corpus: Path, split: str) -> GroundedImages:
    """The images of a phantom corpus that have a finding.

    Args:
        corpus: The corpus' folder.
        split: "train" (without masks), "valid" or "test".

    Raises:
        InputError: The corpus cannot be read, a film is missing, the films differ in size, a mask has another size than its
            film, or a box lies outside it.
    """
    images: dict[Path, list[PhantomFinding]] = {}
    for finding in read_findings(corpus, split):
        images.setdefault(finding.image, []).append(finding)
    headers = read_headers(list(images))
    height, width = headers[0].height, headers[0].width
    for found, header in zip(images.values(), headers, strict=True):
        if (header.height, header.width) != (height, width):
            raise InputError(
                f"{found[0].where}: {found[0].image} has {header.width} x {header.height} pixels, other films {width} x "
                f"{height}; make the corpus again"
            )
        for finding in found:
            _refuse_outside(finding, header)
    masks = [finding for found in images.values() for finding in found if finding.mask]
    for finding, mask in zip(masks, read_headers([finding.mask for finding in masks if finding.mask]), strict=True):
        if (mask.height, mask.width) != (height, width):
            raise InputError(
                f"{finding.where}: the mask {finding.mask} has {mask.width} x {mask.height} pixels, its film {width} x "
                f"{height}; make them the same size"
            )
    return GroundedImages(
        name=f"phantoms ({split})",
        frame=(height, width),
        paths=list(images),
        patients=[found[0].patient for found in images.values()],
        findings=[
            tuple(GroundedFinding(finding.pathology, (finding.box,), finding.mask) for finding in found)
            for found in images.values()
        ],
        attributes=Attributes(
            [found[0].view for found in images.values()],
            [found[0].sex for found in images.values()],
            np.array([found[0].age for found in images.values()], np.float64),
        ),
    )


def _refuse_outside(finding: PhantomFinding, film: Header) -> None:
    x, y, width, height = finding.box
    if min(x, y) < 0 or min(width, height) < 1 or x + width > film.width or y + height > film.height:
        raise InputError(
            f"{finding.where}: the box {list(finding.box)} (x, y, width, height) of {finding.pathology} is empty or lies "
            f"outside {finding.image} of {film.width} x {film.height} pixels; correct it, or make the corpus again"
        )


def read_cxr14(root: Path, list_file: Path) -> GroundedImages:
    """The images of a ChestX-ray14 list that have boxes.

    Args:
        root: The publisher's folder.
        list_file: One file name a line, in ``root`` or elsewhere.

    Raises:
        InputError: The folder cannot be read, or no listed image has a box.
    """
    labelled = cxr14.read_labelled(root, list_file)
    boxes: dict[str, list[Box]] = {}
    for box in cxr14.read_boxes(root):
        boxes.setdefault(box.image, []).append(box)
    return _boxed(BoxedImages(labelled, tuple(tuple(boxes.get(path.name, ())) for path in labelled.paths)))


def read_rsna(path: Path, images: Path | None = None) -> GroundedImages:
    """The images of RSNA Pneumonia that have boxes.

    Args:
        path: The publisher's folder, or the authors' CSV file.
        images: Where the images are; None takes the publisher's folder, or the authors' paths.

    Raises:
        InputError: The data cannot be read, or no image has a box.
    """
    return _boxed(rsna.read_boxes(path, images))


def _boxed(boxed: BoxedImages) -> GroundedImages:
    kept = [index for index, boxes in enumerate(boxed.boxes) if boxes]
    if not kept:
        raise InputError(f"{boxed.images.name}: no image has a box")
    return GroundedImages(
        name=boxed.images.name,
        frame=(BOX_FRAME, BOX_FRAME),
        paths=[boxed.images.paths[index] for index in kept],
        patients=[boxed.images.patients[index] for index in kept],
        findings=[
            tuple(
                GroundedFinding(label, tuple(boxed.rectangles(index, label, BOX_FRAME, BOX_FRAME)))
                for label in dict.fromkeys(box.label for box in boxed.boxes[index])
            )
            for index in kept
        ],
        attributes=boxed.images.attributes.at(kept),
    )


def split_patients(images: GroundedImages, share: float, seed: int) -> tuple[GroundedImages, GroundedImages]:
    """Set images aside to tune on, whole patients at a time.

    Args:
        images: What to divide.
        share: Of the patients that are set aside, above 0 and below 1.
        seed: Of the draw.

    Returns:
        Those to tune on, and the rest. An image of an unknown patient is a patient of its own.

    Raises:
        InputError: There are fewer than two patients.
    """
    owners = [patient or f"\0{index}" for index, patient in enumerate(images.patients)]
    distinct = sorted(set(owners))
    if len(distinct) < 2:
        raise InputError(f"{images.name}: has boxes of one patient only; two are needed to set one aside")
    number = min(max(1, round(share * len(distinct))), len(distinct) - 1)
    drawn = np.random.default_rng(seed).permutation(len(distinct))[:number]
    aside = {distinct[index] for index in drawn}
    return (
        images.at([index for index, owner in enumerate(owners) if owner in aside]),
        images.at([index for index, owner in enumerate(owners) if owner not in aside]),
    )
