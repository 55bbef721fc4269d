"""Images -> arrays: PNG, JPEG and DICOM, Pillow's images and arrays, to 8-bit grey with bones bright."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, PngImagePlugin
from tqdm import tqdm

from medslip.data.dicom import DICOM_SUFFIXES, MAX_PIXELS, Grey, Header, read_dicom, read_dicom_header, years
from medslip.errors import InputError, one_line

__all__ = ["Grey", "Header", "ImageInput", "is_dicom", "name_of", "read_header", "read_headers", "read_image", "years"]

ImageInput = str | os.PathLike[str] | BinaryIO | Image.Image | npt.NDArray[Any]
"""A file's path, an open file, an image of Pillow, or an array (see ``read_image``)."""

_ORIENTATION_TAG = 0x0112
_MESSAGE_LENGTH = 160  # characters of a decoder's message
_PNG, _JPEG = b"\x89PNG\r\n", b"\xff\xd8\xff"

# Scanners and viewers write long texts into PNG files, and Pillow would take them for an attack.
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, 16 << 20)


def read_image(image: ImageInput, at_least: int | None = None) -> Grey:
    """Read a radiograph.

    PNG and JPEG: colour is converted to luminance, transparency is ignored, an EXIF orientation is applied. A
    16-bit file does not say how many of its bits are used: the fewest of 8, 10, 12, 14, 16 that hold its
    maximum are scaled to 8.

    DICOM: the first frame, through the modality LUT or rescale, then the first VOI LUT or window. Without either,
    or where the result would be blank, the range from the least to the greatest value is shown. MONOCHROME1 is
    inverted. Padding is black. Bits that are not part of the pixel values, such as overlays, are dropped.

    Images of Pillow are read like PNG. Arrays: H x W, or H x W x 3 or 4 channels, of integers from 0 (scaled by bits, as for
    PNG), or of floating-point numbers within 0..1; bones bright.

    Args:
        image: A path, an open binary file, an image of Pillow or an array. A file's content decides the format; a suffix
            .dcm, .dicom or .ima is only consulted where the content does not say.
        at_least: A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, about twice as fast, as long as both sides keep this
            many pixels. With twice the side that you need, the result differs by a few grey levels at most. None, and
            formats other than JPEG: full size.

    Returns:
        H x W grey values, uint8.

    Raises:
        InputError: The file is missing, empty, cut short, larger than a radiograph, not an image, or of an unsupported kind;
            an array has another shape or range.
    """
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        return read_dicom(path) if is_dicom(path) else _read_picture(path, at_least)
    if isinstance(image, Image.Image):
        return _grey_picture(image)
    if isinstance(image, np.ndarray):
        return _grey_array(image)
    if not hasattr(image, "read"):
        raise InputError(f"an image is a path, an open file, a Pillow image or an array, not a {type(image).__name__}")
    with tempfile.TemporaryDirectory() as folder:  # the decoders need a file
        copy = Path(folder, "image")
        try:
            with copy.open("wb") as file:
                shutil.copyfileobj(image, file)
        except (TypeError, ValueError) as error:
            raise InputError(f"{name_of(image)}: not a file that is open for reading bytes ({error})") from None
        try:
            return read_image(copy, at_least)
        except InputError as error:
            raise InputError(str(error).replace(str(copy), name_of(image))) from None


def name_of(image: ImageInput) -> str:
    """The path of a file, or of an image or open file that knows it; else the kind of object."""
    if isinstance(image, str | os.PathLike):
        return str(image)
    name = getattr(image, "filename", "") or getattr(image, "name", "")
    return name if isinstance(name, str) and name else type(image).__name__


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its content or, where that is undecided, by its suffix.

    Raises:
        InputError: The file is missing or empty.
    """
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise InputError(f"{path}: cannot read the image ({error.strerror}); check the path") from None
    if not head:
        raise InputError(f"{path}: the image file is empty; replace it")
    if head.startswith((_PNG, _JPEG)):
        return False
    return head[128:] == b"DICM" or path.suffix.lower() in DICOM_SUFFIXES


def read_headers(paths: Sequence[Path]) -> list[Header]:
    """The headers of many files, with a progress bar; errors as for ``read_header``."""
    return [read_header(path) for path in tqdm(paths, desc="headers", unit="image", leave=False, disable=None)]


def read_header(path: Path) -> Header:
    """Read a file's metadata without decoding its pixels.

    Raises:
        InputError: The file is missing, empty, larger than a radiograph, or not an image.
    """
    path = Path(path)
    if is_dicom(path):
        return read_dicom_header(path)
    with _picture(path, "neither PNG, JPEG nor DICOM; convert it, or remove it from the list") as image:
        # Pillow would decode a whole PNG to look for a tag that is not among its first chunks.
        turned = "exif" in image.info and _orientation(image) > 4
        height, width = (image.width, image.height) if turned else (image.height, image.width)
    return Header("", "", math.nan, "", height, width)


@contextmanager
def _picture(path: Path, fault: str = "") -> Iterator[Image.Image]:
    """An open PNG or JPEG, small enough to decode; whatever goes wrong becomes an InputError."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except Image.UnidentifiedImageError:
        raise InputError(f"{path}: {fault or 'not a PNG, JPEG or DICOM image; remove it or convert it'}") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: too many pixels for a radiograph; remove it or make it smaller") from None
    # Pillow and libpng raise these, by format and by where the data break off.
    except (OSError, SyntaxError, ValueError, EOFError, RuntimeError) as error:
        damage = f"damaged or truncated ({one_line(error, _MESSAGE_LENGTH)}); get a new copy"
        raise InputError(f"{path}: {fault or damage}") from None


def _read_picture(path: Path, at_least: int | None) -> Grey:
    with _picture(path) as image:
        if at_least is not None:
            image.draft("L", (at_least, at_least))
        image.load()
        if image.mode in ("RGB", "RGBA", "LA") and _png_depth(path) == 16:
            return _read_16_bit_colour(path)
        return _grey_picture(image)


def _grey_picture(image: Image.Image) -> Grey:
    upright = ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
    try:
        return _to_8_bit(np.array(upright)) if upright.mode[0] == "I" else np.array(upright.convert("L"))
    except ValueError as error:  # no way from the colours of LAB and HSV to grey
        raise InputError(f"{name_of(image)}: {error}; convert it to RGB or grey") from None


def _grey_array(values: npt.NDArray[Any]) -> Grey:
    if not values.size or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))):
        raise InputError(f"array of shape {values.shape}: an image is H x W, H x W x 3 or H x W x 4")
    least, greatest, real = values.min(), values.max(), values.dtype.kind == "f"
    if not (real or values.dtype.kind in "iu") or not 0 <= least <= greatest <= (1 if real else 65535):
        raise InputError(
            f"array of {values.dtype}, {least} to {greatest}: give whole numbers within 0..65535, or real ones within 0..1"
        )
    grey = np.rint(values * 255).astype(np.uint8) if real else _to_8_bit(values)
    return grey if grey.ndim == 2 else np.array(Image.fromarray(grey[..., :3]).convert("L"))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) where it is missing or not a number of these."""
    value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _png_depth(path: Path) -> int:
    """Bits per sample of a PNG; 0 for other files."""
    with path.open("rb") as file:
        head = file.read(25)
    return head[24] if head.startswith(_PNG) else 0


def _read_16_bit_colour(path: Path) -> Grey:
    """A PNG with several 16-bit samples per pixel; Pillow decodes their upper or their lower bytes, as its raw mode says."""

    def decoded(order: str) -> npt.NDArray[np.uint16]:
        with Image.open(path) as image:
            codec, box, offset, raw = image.tile[0]
            # Grey with transparency has four bytes per pixel, which are all read at once.
            image.tile = [(codec, box, offset, "RGBA" if raw == "LA;16B" else f"{image.mode};16{order}")]  # type: ignore[list-item]
            pixels = np.array(ImageOps.exif_transpose(image) if _orientation(image) != 1 else image, np.uint16)
        return pixels[..., "BL".index(order)] if raw == "LA;16B" else pixels[..., :3]

    return _grey_array(decoded("B") << 8 | decoded("L"))


def _to_8_bit(values: npt.NDArray[Any]) -> Grey:
    """Non-negative integers of at most 16 bits -> 8 bits, by the bit depth that the greatest value needs."""
    greatest = int(values.max())
    depth = next(bits for bits in (8, 10, 12, 14, 16) if greatest < 1 << bits)
    return (values.astype(np.float32) * np.float32(255 / ((1 << depth) - 1)) + 0.5).astype(np.uint8)
