"""From attenuation to an image: exposure, grain, borders, markers. Nothing here depends on the findings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFont

from medslip.phantoms.canvas import Canvas, Field, Stroke, curve


def expose(canvas: Canvas, density: Field, view: str, rng: Generator, grain: Generator) -> npt.NDArray[np.uint8]:
    """An 8-bit radiograph of a chest, bones bright; AP images are softer, with leads and the word PORTABLE more often."""
    portable = view == "AP"
    shadow = density + _leads(canvas, rng, 0.4 if portable else 0.1) + _slope(canvas, rng)
    low, high = rng.uniform(0.06, 0.22), rng.uniform(1.12, 1.3) + (0.08 if portable else 0.0)
    light: Field = np.clip((shadow - low) / (high - low), 0, 1)
    # The characteristic curve of film: soft at both ends, its middle moved by the exposure.
    light = light ** np.float32(np.exp(rng.normal(0, 0.16)))
    blend = np.float32(rng.uniform(0.3, 1.0))
    light = blend * light * light * (3 - 2 * light) + (1 - blend) * light
    black, white = rng.uniform(0.0, 0.12), rng.uniform(0.84, 1.0)
    light = black + (white - black) * light
    light += rng.uniform(0.004, 0.013) * grain.standard_normal(light.shape, np.float32)
    _collimate(light, rng)
    image = Image.fromarray((np.clip(light, 0, 1) * 255).astype(np.uint8))
    _mark(image, portable, rng)
    return np.asarray(image)


def _slope(canvas: Canvas, rng: Generator) -> Field:
    """Uneven exposure across the image: rotation of the patient, heel effect of the tube."""
    ramp = np.linspace(-0.5, 0.5, canvas.side, dtype=np.float32)
    across, down = (np.float32(value) for value in rng.normal(0, (0.06, 0.05)))
    return across * ramp[None, :] + down * ramp[:, None] + 0.012 * canvas.noise(rng, 4)


def _leads(canvas: Canvas, rng: Generator, chance: float) -> Field:
    """Electrodes on the skin and their wires, which are not findings."""
    if rng.random() > chance:
        return np.zeros_like(canvas.x)
    strokes: list[Stroke] = []
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.uniform(-0.75, 0.75), rng.uniform(-0.05, 1.2)
        away = 1.3 * np.sign(x)
        wire = curve((x, y), (x + 0.4 * away, y + rng.normal(0, 0.15)), (x + away, y + rng.normal(0, 0.4)))
        strokes += [(wire, 0.01, 0.35), ([(x - 0.012, y), (x + 0.012, y)], 0.06, 0.45)]
    return 0.22 * canvas.strokes(strokes)


def _collimate(light: Field, rng: Generator) -> None:
    """Black or bright bands where the beam was closed."""
    for edge in range(4):
        if rng.random() < 0.22:
            band = round(len(light) * rng.uniform(0.01, 0.06))
            np.rot90(light, edge)[:band] = 0.0 if rng.random() < 0.75 else 0.95


def _mark(image: Image.Image, portable: bool, rng: Generator) -> None:
    """The side marker: an L on the patient's left or an R on the right, sometimes with a note."""
    side = image.width
    letter = "L" if rng.random() < 0.6 else "R"
    x = rng.uniform(0.86, 0.92) if letter == "L" else rng.uniform(0.04, 0.1)
    y = rng.uniform(0.03, 0.2) if rng.random() < 0.85 else rng.uniform(0.5, 0.9)
    pen = ImageDraw.Draw(image)
    tone = int(rng.integers(170, 256))
    font = ImageFont.load_default(side * rng.uniform(0.04, 0.06))
    pen.text((side * x, side * y), letter, fill=tone, font=font)
    if portable and rng.random() < 0.4:
        x, y = rng.uniform(0.05, 0.6), rng.uniform(0.9, 0.95)
        pen.text((side * x, side * y), "PORTABLE", fill=tone, font=ImageFont.load_default(side * 0.03))
