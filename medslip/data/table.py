"""The image table: what every data set is read into and every task works on, and the checks on its splits."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medslip.data.masks import Mask, MaskSource, bounding_box, decode_mask
from medslip.errors import InputError
from medslip.labels import ABSENT, PRESENT

METADATA = ("view", "sex", "age")
"""Columns by which scores are broken down."""

_BLANKS: dict[str, Any] = {
    "patient": "", "study": "", "view": "", "sex": "", "age": math.nan, "split": "", "normal": False,
    "height": 0, "width": 0,
}  # fmt: skip

_BOX = ("x", "y", "width", "height")
FINDING_COLUMNS = ("image", "class", *_BOX, "mask")

Rectangle = tuple[float, float, float, float]
"""x, y, width, height in pixels."""


@dataclass(frozen=True)
class Finding:
    """Where an image shows a class.

    Attributes:
        label: The class.
        boxes: x, y, width, height in pixels of the image's frame, clipped at its edges; of a mask without a box, the
            smallest box around it.
        masks: As the data set gives them; empty if it only has boxes.
        text: The sentence that describes it; empty if the data set names the class only.
    """

    label: str
    boxes: tuple[Rectangle, ...]
    masks: tuple[MaskSource, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class ImageTable:
    """n images with whatever is known of them.

    Attributes:
        name: Of the data set, for tables and figures.
        images: One row per image, index 0 to n - 1. Columns: ``path``; ``patient``, ``study``, ``view``, ``split``, empty
            where unknown; ``sex``, "M", "F" or empty; ``age`` in years, NaN where unknown; ``normal``, whether the image is
            labelled as having no finding; ``height`` and ``width``, the frame in pixels that its boxes and masks are given
            in, 0 where it has neither. Missing columns are filled in; data sets may add their own.
        labels: n x C, int8, one column per class: 1 present, 0 absent, -1 unknown. None if the data set has no labels.
        findings: One row per box or mask, columns FINDING_COLUMNS: ``image`` is the row number in ``images``; the box is in
            pixels of the image's frame; ``mask`` is a picture's path or run lengths (see masks.py), None if there is only a
            box. A further column ``text`` may have the sentence that a finding is to be found by; it is filled in if missing.
            None if the data set localises nothing.
        source: The file that lists the images, for messages; the column ``line`` has the line of each, if known.
        left_out: Reason -> number of images (or reports) that were not read.
        notes: Further remarks for the reader, one sentence each.
    """

    name: str
    images: pd.DataFrame
    labels: pd.DataFrame | None = None
    findings: pd.DataFrame | None = None
    source: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        blanks = {column: blank for column, blank in _BLANKS.items() if column not in self.images}
        object.__setattr__(self, "images", self.images.reset_index(drop=True).assign(**blanks))
        if self.findings is not None and "text" not in self.findings:
            object.__setattr__(self, "findings", self.findings.assign(text=""))
        if self.labels is not None:
            object.__setattr__(self, "labels", self.labels.reset_index(drop=True).astype(np.int8))
            if len(self.labels) != len(self.images):
                raise ValueError(f"{len(self.labels)} rows of labels for {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def paths(self) -> list[Path]:
        """The n image files."""
        return [Path(path) for path in self.images["path"]]

    @property
    def patients(self) -> list[str]:
        """The n patient names, empty where unknown."""
        return self.images["patient"].tolist()

    @property
    def metadata(self) -> pd.DataFrame:
        """The columns ``view``, ``sex`` and ``age``."""
        return self.images[list(METADATA)]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the labels."""
        return () if self.labels is None else tuple(self.labels.columns)

    @property
    def finding_classes(self) -> tuple[str, ...]:
        """The classes of the findings, in alphabetical order."""
        return () if self.findings is None else tuple(sorted(set(self.findings["class"])))

    @property
    def label_array(self) -> npt.NDArray[np.int8]:
        """The labels, n x C.

        Raises:
            InputError: The images have no labels.
        """
        if self.labels is None:
            raise InputError(f"{self.name}: has no labels")
        return self.labels.to_numpy(np.int8, copy=True)

    def at(self, indices: Sequence[int] | npt.NDArray[np.intp]) -> ImageTable:
        """The images at these positions, in the order given; each position at most once."""
        taken = np.asarray(indices, np.intp)
        findings = self.findings
        if findings is not None:
            place = np.full(len(self), -1)
            place[taken] = np.arange(len(taken))
            findings = findings.assign(image=place[findings["image"].to_numpy(np.intp)])
            findings = findings[findings["image"] >= 0].sort_values("image", kind="stable").reset_index(drop=True)
        return replace(
            self,
            images=self.images.iloc[taken],
            labels=None if self.labels is None else self.labels.iloc[taken],
            findings=findings,
        )

    @cached_property
    def _rows(self) -> Mapping[Any, Any]:
        """Image -> rows of the findings, in their order."""
        return {} if self.findings is None else self.findings.groupby("image").indices

    def _findings_at(self, index: int) -> pd.DataFrame:
        """The rows of the findings that belong to an image."""
        findings = pd.DataFrame(columns=[*FINDING_COLUMNS, "text"]) if self.findings is None else self.findings
        return findings.iloc[self._rows.get(index, [])]

    def found(self, label: str | None = None) -> npt.NDArray[np.bool_]:
        """Whether each of the n images has a box or mask of a class, or of any."""
        found = np.zeros(len(self), bool)
        if self.findings is not None:
            found[self.findings["image"][(self.findings["class"] == label) | (label is None)].to_numpy(int)] = True
        return found

    def findings_of(self, index: int) -> list[Finding]:
        """What an image shows and where, one entry per class, or per sentence where findings have one.

        Raises:
            InputError: A mask without a box cannot be read.
        """
        height, width = self.frame(index)
        found = []
        for (label, text), rows in self._findings_at(index).groupby(["class", "text"], sort=False):
            boxes: list[Rectangle] = []
            masks: list[MaskSource] = []
            for x, y, w, h, mask in rows[[*_BOX, "mask"]].itertuples(index=False, name=None):
                if mask is not None:
                    masks.append(mask)
                box = bounding_box(decode_mask(mask, height, width)) if math.isnan(x) else (x, y, x + w, y + h)
                left, top, right, bottom = np.clip(box, 0, (width, height, width, height)).tolist()
                boxes.append((left, top, right - left, bottom - top))
            found.append(Finding(str(label), tuple(boxes), tuple(masks), str(text)))
        return found

    def mask(self, index: int, label: str) -> Mask:
        """The union of the masks of one class in one image, height x width of its frame.

        Raises:
            InputError: A mask cannot be read, or does not fit the frame.
        """
        union = np.zeros(self.frame(index), bool)
        rows = self._findings_at(index)
        for mask in rows["mask"][rows["class"] == label]:
            union |= decode_mask(mask, *union.shape)
        return union

    def frame(self, index: int) -> tuple[int, int]:
        """Height and width, in pixels, that an image's boxes and masks are given in."""
        height, width = self.images[["height", "width"]].iloc[index].astype(int).tolist()
        return height, width


def one_class(name: str, marked: Sequence[bool] | npt.NDArray[np.bool_] | pd.Series) -> pd.DataFrame:
    """Labels of a data set with a single class, present where marked and absent elsewhere."""
    return pd.DataFrame({name: np.asarray(marked, np.int8)})


def check_shared(splits: Mapping[str, ImageTable]) -> None:
    """Check that no image and no patient is in two splits: the test would be on what was trained on.

    Args:
        splits: Split name -> its images. Unknown patients share nothing.

    Raises:
        InputError: Naming an image that is shared, or one of the shared patient in each of the two splits.
    """
    owners: dict[tuple[str, str], tuple[str, Path]] = {}
    for split, table in splits.items():
        for path, patient in zip(table.paths, table.patients, strict=True):
            for what, key in (("image", os.path.abspath(path)), ("patient", patient)):
                if not key:
                    continue
                owner, first = owners.setdefault((what, key), (split, path))
                if owner != split:
                    shown = f"image {path}" if what == "image" else "one patient"
                    where = "" if what == "image" else f" ({first.name} and {path.name})"
                    raise InputError(
                        f"{table.name}: {shown} is in {owner} and in {split}{where}; keep it in one of them"
                    )


def check_classes(table: ImageTable, classes: Sequence[str], which: str) -> None:
    """Check that a table has labels of the given classes.

    Args:
        table: The images.
        classes: The classes needed.
        which: What the images are, for the message: "test".

    Raises:
        InputError: It has no labels, or those of other classes.
    """
    if table.labels is None:
        raise InputError(f"{table.name}: the {which} images have no labels")
    if table.classes != classes:
        has, needed = ", ".join(table.classes), ", ".join(classes)
        raise InputError(f"{table.name}: the {which} images have the classes {has} instead of {needed}")


def check_scorable(table: ImageTable) -> None:
    """Check that at least one class is both present and absent somewhere; the scores skip single classes that are not.

    Raises:
        InputError: Naming the first class.
    """
    labels = table.label_array
    missing = {
        name: "absent" if (labels[:, column] == PRESENT).any() else "present"
        for column, name in enumerate(table.classes)
        if not {PRESENT, ABSENT} <= set(labels[:, column].tolist())
    }
    if len(missing) == len(table.classes):
        name, what = next(iter(missing.items()))
        others = f", and {len(missing) - 1} more classes have the same problem" if len(missing) > 1 else ""
        raise InputError(
            f"{table.name}: class {name} is {what} in none of the {len(table)} images{others}; nothing can be learnt or "
            "scored; use more images"
        )
