"""Boxes in the publishers' frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medslip.data.boxes import BOX_FRAME, Box, read_box
from medslip.errors import InputError


def test_a_box_scales_with_each_axis() -> None:
    """Boxes would lie elsewhere on images that are not square."""
    assert Box("a", "Mass", 256, 512, 128, 64).scaled(height=512, width=256) == (64, 256, 32, 32)


@given(st.floats(-1, 1000), st.floats(-1, 1000), st.floats(2, 25), st.integers(1, 3000), st.integers(1, 3000))
def test_a_scaled_box_lies_in_the_image(x: float, y: float, side: float, height: int, width: int) -> None:
    """A box that its publisher rounded over the edge would be refused later, or index outside the image."""
    left, top, w, h = Box("a", "Mass", x, y, side, side).scaled(height, width)
    assert left >= 0
    assert top >= 0
    assert w > 0
    assert h > 0
    assert left + w <= width * (1 + 1e-9)
    assert top + h <= height * (1 + 1e-9)


BESIDE = [("1024", "5", "1", "9"), ("-1", "5", "1", "9"), ("5", "1024", "9", "0.5")]
"""Within what publishers round, but without a pixel in the image."""


@pytest.mark.parametrize("cells", [("0", "0", "1026", "4"), ("-2", "0", "9", "9"), ("1020", "5", "9", "9"), *BESIDE])
def test_a_box_outside_the_frame_is_refused(cells: tuple[str, str, str, str]) -> None:
    with pytest.raises(InputError, match=f"^here: .*outside the image of {BOX_FRAME}"):
        read_box("a", "Mass", cells, "here")
