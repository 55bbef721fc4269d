"""Findings marked by hand with boxes, as two publishers give them: in the pixels of a 1024 x 1024 frame."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from medslip.data.labelled import LabelledImages
from medslip.errors import InputError

BOX_FRAME = 1024
"""Side of the square, in pixels, that the boxes are given in."""

_ROUNDING = 1.0  # pixels that a box may reach over the frame's edge: publishers round

Rectangle = tuple[float, float, float, float]
"""x, y, width, height."""


@dataclass(frozen=True)
class Box:
    """One finding marked by hand.

    Attributes:
        image: The publisher's name of the image, such as "00008365_000.png".
        label: The class.
        x: Left edge, pixels of the 1024 x 1024 frame.
        y: Upper edge.
        width: Pixels.
        height: Pixels.
    """

    image: str
    label: str
    x: float
    y: float
    width: float
    height: float

    def scaled(self, height: int, width: int) -> Rectangle:
        """The box in the pixels of the image itself, cut at its edges.

        Args:
            height: Of the image, pixels.
            width: Of the image, pixels.

        Returns:
            x, y, width, height.
        """
        left, right = (min(max(x, 0.0), BOX_FRAME) * width / BOX_FRAME for x in (self.x, self.x + self.width))
        top, bottom = (min(max(y, 0.0), BOX_FRAME) * height / BOX_FRAME for y in (self.y, self.y + self.height))
        return left, top, right - left, bottom - top


@dataclass(frozen=True)
class BoxedImages:
    """n images with the boxes drawn on them.

    Attributes:
        images: The images and their labels.
        boxes: n, the boxes of each image; empty where none was drawn.
    """

    images: LabelledImages
    boxes: tuple[tuple[Box, ...], ...]

    def __len__(self) -> int:
        return len(self.boxes)

    def rectangles(self, index: int, label: str, height: int, width: int) -> list[Rectangle]:
        """An image's boxes of one class, in its own pixels.

        Args:
            index: Of the image.
            label: The class.
            height: Of the image, pixels.
            width: Of the image, pixels.
        """
        return [box.scaled(height, width) for box in self.boxes[index] if box.label == label]


def read_box(image: str, label: str, cells: tuple[str, str, str, str], where: str) -> Box:
    """A box from four texts: x, y, width, height in the 1024 frame.

    Raises:
        InputError: They are not four numbers, or the box is empty or lies outside the frame.
    """
    shown = ", ".join(cells)
    try:
        x, y, width, height = (float(value) for value in cells)
    except ValueError:
        raise InputError(f"{where}: the box {shown} is not four numbers: x, y, width, height") from None
    if not all(isfinite(value) for value in (x, y, width, height)) or min(width, height) <= 0:
        raise InputError(f"{where}: the box {shown} is empty or endless; width and height must be above 0")
    reaches_over = min(x, y) < -_ROUNDING or max(x + width, y + height) > BOX_FRAME + _ROUNDING
    if reaches_over or max(x, y) >= BOX_FRAME or min(x + width, y + height) <= 0:
        raise InputError(
            f"{where}: the box {shown} (x, y, width, height) lies outside the image of {BOX_FRAME} x {BOX_FRAME} pixels; "
            "correct it, or leave the row out"
        )
    return Box(image, label, x, y, width, height)
