"""Image files -> arrays: PNG, JPEG and DICOM, to 8-bit grey with bones bright."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from tqdm import tqdm

from medslip.errors import InputError, one_line

if TYPE_CHECKING:
    from pydicom import Dataset

Grey = npt.NDArray[np.uint8]
"""H x W, 0 black to 255 white, bones bright."""

_DICOM_SUFFIXES = frozenset({".dcm", ".dicom"})
_ORIENTATION_TAG = 0x0112
_PIXEL_DATA_TAG = 0x7FE00010
_HEADER_TAGS = ["PatientID", "PatientSex", "PatientAge", "ViewPosition", "Rows", "Columns"]
_LONGEST = 160  # characters of what a decoder says
_TOO_LARGE = "too many pixels for a radiograph; remove it or make it smaller"
_PICTURE_SIGNATURES = (b"\x89PNG\r\n", b"\xff\xd8\xff")


def read_image(path: Path, at_least: int | None = None) -> Grey:
    """Read a radiograph.

    PNG and JPEG: colour is turned to luminance, transparency is ignored, an EXIF orientation is applied. A
    16-bit file does not say how many of its bits are used: the fewest of 8, 10, 12, 14, 16 that hold its
    maximum are scaled to 8.

    DICOM: the first frame, rescaled (modality LUT) and shown through the first VOI LUT or window; without one,
    or where it would leave nothing to see, from the least to the greatest value. MONOCHROME1 is inverted.
    Padding is black. Overlays are not drawn.

    Args:
        path: The file. Its content says what it is; a suffix .dcm or .dicom is believed of what is no picture.
        at_least: A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as both sides keep this many
            pixels. That averages blocks of pixels in the decoder: an approximation, about twice as fast for a
            large radiograph. Ask for twice the side that is needed, and the result differs by a few grey levels
            at most. None reads at full size. Other formats are always read at full size.

    Returns:
        H x W grey values, uint8.

    Raises:
        InputError: The file is missing, empty, cut short, no image, or of a kind that cannot be read.
    """
    path = Path(path)
    return _read_dicom(path) if is_dicom(path) else _read_picture(path, at_least)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its content or, where that begins like no picture, by a suffix .dcm or .dicom.

    Raises:
        InputError: The file is missing or empty.
    """
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise InputError(f"{path}: cannot read the image ({error.strerror}); check the path") from None
    if not head:
        raise InputError(f"{path}: the image file is empty; get it again")
    if head.startswith(_PICTURE_SIGNATURES):
        return False
    return head[128:] == b"DICM" or path.suffix.lower() in _DICOM_SUFFIXES


@dataclass(frozen=True)
class Header:
    """What an image file says beside its pixels; only DICOM files say more than their size.

    Attributes:
        patient: Identifier, empty where unknown.
        sex: "M", "F" or empty.
        age: Years, NaN where unknown.
        view: "PA", "AP" or another code; empty where unknown.
        height: Pixels, as read_image turns the image.
        width: Pixels.
    """

    patient: str
    sex: str
    age: float
    view: str
    height: int
    width: int


def read_headers(paths: Sequence[Path]) -> list[Header]:
    """The headers of many files, with a progress bar; errors as for read_header."""
    return [read_header(path) for path in tqdm(paths, desc="headers", unit="image", leave=False, disable=None)]


def read_header(path: Path) -> Header:
    """Read a file's header, without decoding its pixels.

    Raises:
        InputError: The file is missing, empty, or holds no image.
    """
    path = Path(path)
    if not is_dicom(path):
        return Header("", "", math.nan, "", *_picture_size(path))
    dataset, has_pixels = _open_header(path)
    with _naming_damage(path):
        patient, sex, age, view = (str(dataset.get(name) or "").strip() for name in _HEADER_TAGS[:4])
        height, width = (int(dataset.get(name) or 0) for name in _HEADER_TAGS[4:])
    if not height or not width or not has_pixels:
        missing = "pixel data" if height and width else "rows and columns"
        raise InputError(f"{path}: holds no image (no DICOM {missing}); remove it from the list")
    sex = sex.upper()
    return Header(patient, sex if sex in ("M", "F") else "", years(age), view.upper(), height, width)


def _picture_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            # PIL would decode a whole PNG to look for a tag that is not among its first chunks.
            swapped = "exif" in image.info and image.getexif().get(_ORIENTATION_TAG, 1) > 4
            return (image.width, image.height) if swapped else (image.height, image.width)
    except Image.DecompressionBombError:
        raise InputError(f"{path}: {_TOO_LARGE}") from None
    except (OSError, SyntaxError, ValueError):
        raise InputError(f"{path}: neither PNG, JPEG nor DICOM; convert it, or remove it from the list") from None


def write_dicom(path: Path, pixels: Grey, header: Header, uid: str, quality: int = 0) -> None:
    """Write a radiograph as DICOM, MONOCHROME2; the same bytes at every writing.

    Args:
        path: The file. Its folder must exist.
        pixels: H x W, bones bright.
        header: Patient, sex, age and view; the size is that of the pixels.
        uid: Of the file; see uid_of.
        quality: 1 to 100 compresses pixels as JPEG baseline, as RSNA and SIIM-ACR publish theirs; 0 leaves
            them as they are.
    """
    from pydicom import Dataset, dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEGBaseline8Bit

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if quality else ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID, dataset.Modality = uid, "DX"
    dataset.PatientID, dataset.PatientSex, dataset.ViewPosition = header.patient, header.sex, header.view
    dataset.PatientAge = "" if math.isnan(header.age) else f"{round(header.age):03d}Y"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    if quality:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        dataset.PixelData = encapsulate([file.getvalue()])
        dataset.LossyImageCompression = "01"
    else:
        raw = pixels.tobytes()
        dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB"
    dcmwrite(path, dataset, enforce_file_format=True)


def uid_of(name: str) -> str:
    """A DICOM UID that follows from a name."""
    from pydicom.uid import generate_uid

    return str(generate_uid(entropy_srcs=[name]))


OLDEST = 120
"""Years; a higher age is a typing error, of which published tables have some (148, 411)."""

_PER_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}


def years(age: str) -> float:
    """An age in years: of DICOM's "043Y" or "006M", or of a number of years. NaN for anything else, and above OLDEST."""
    number, unit = (age[:-1], age[-1].upper()) if age[-1:].isalpha() else (age, "Y")
    try:
        found = float(number) / _PER_YEAR[unit]
    except (ValueError, KeyError):
        return math.nan
    return found if 0 <= found <= OLDEST else math.nan


def _read_picture(path: Path, at_least: int | None) -> Grey:
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if at_least is not None:
                image.draft("L", (at_least, at_least))
            image.load()
            upright = ImageOps.exif_transpose(image) if _is_turned(image) else image
            return _to_8_bit(np.array(upright)) if upright.mode[0] == "I" else np.array(upright.convert("L"))
    except Image.UnidentifiedImageError:
        raise InputError(f"{path}: not a PNG, JPEG or DICOM image; remove it or convert it") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: {_TOO_LARGE}") from None
    # Pillow raises these, by format and by where the data break off.
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"{path}: damaged or cut short ({one_line(error, _LONGEST)}); get the file again") from None


def _is_turned(image: Image.Image) -> bool:
    return bool(image.getexif().get(_ORIENTATION_TAG, 1) != 1)


def _to_8_bit(values: npt.NDArray[Any]) -> Grey:
    """Non-negative integers of at most 16 bits -> 8 bits, by the bit depth that their maximum needs."""
    greatest = int(values.max())
    depth = next(bits for bits in (8, 10, 12, 14, 16) if greatest < 1 << bits)
    return (values.astype(np.float32) * np.float32(255 / ((1 << depth) - 1)) + 0.5).astype(np.uint8)


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """A DICOM file that cannot be parsed becomes an InputError with its name."""
    # Here, not above: importing pydicom takes longer than reading a PNG.
    from pydicom.errors import InvalidDicomError

    try:
        yield
    except InvalidDicomError:
        raise InputError(f"{path}: not a DICOM file; remove it or give it its right suffix") from None
    # A damaged file can make pydicom fail anywhere, with many kinds of exception.
    except Exception as error:
        raise InputError(f"{path}: damaged DICOM file ({one_line(error, _LONGEST)}); get the file again") from None


def _open_dicom(path: Path) -> Dataset:
    import pydicom

    with _naming_damage(path):
        return pydicom.dcmread(path, force=path.suffix.lower() in _DICOM_SUFFIXES)


def _open_header(path: Path) -> tuple[Dataset, bool]:
    """What stands before the pixels, and whether any follow."""
    from pydicom.filereader import read_partial
    from pydicom.tag import BaseTag, Tag

    found: list[BaseTag] = []

    def at_pixels(tag: BaseTag, kind: str | None, length: int) -> bool:
        if tag != _PIXEL_DATA_TAG:
            return False
        found.append(tag)
        return True

    with _naming_damage(path), path.open("rb") as file:
        force = path.suffix.lower() in _DICOM_SUFFIXES
        tags: list[BaseTag | int] = [Tag(name) for name in _HEADER_TAGS]
        return read_partial(file, at_pixels, force=force, specific_tags=tags), bool(found)


def _read_dicom(path: Path) -> Grey:
    dataset = _open_dicom(path)
    with _naming_damage(path):
        has_pixels = "PixelData" in dataset
    if not has_pixels:
        raise InputError(f"{path}: holds no image (no DICOM pixel data); remove it from the list")
    frame = _first_frame(path, dataset)
    if frame.ndim == 3:
        return _luminance(path, dataset, frame)
    try:
        return _show(frame, dataset)
    except Exception as error:
        raise InputError(f"{path}: cannot be shown as grey values ({one_line(error, _LONGEST)})") from None


def _first_frame(path: Path, dataset: Dataset) -> npt.NDArray[Any]:
    """H x W stored values, or H x W x 3 colours."""
    from pydicom.pixels import get_decoder, pixel_array

    meta = dataset.file_meta
    if "TransferSyntaxUID" not in meta:
        meta.TransferSyntaxUID = _guessed_syntax(dataset)
    syntax = meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise InputError(f"{path}: pixel data in {syntax.name}, which pydicom cannot decode") from None
    plugins = sorted(set(re.findall(r"pylibjpeg-\w+", " ".join(decoder.missing_dependencies))))
    advice = f"{syntax.name} needs another decoder: pip install pylibjpeg {plugins[0]}" if plugins else ""
    if not decoder.is_available:
        raise InputError(f"{path}: {advice or f'{syntax.name} has no decoder here'}")
    try:
        frame: npt.NDArray[Any] = pixel_array(dataset, index=0)
    except Exception as error:
        # The installed decoders read the syntax, but not this kind of it (12-bit JPEG, say).
        hint = f"; if the file is whole, {advice}" if advice else "; get the file again"
        raise InputError(f"{path}: pixel data damaged or cut short ({one_line(error, _LONGEST)}){hint}") from None
    if frame.dtype.kind not in "iu" or frame.dtype.itemsize > 2:
        raise InputError(f"{path}: has {frame.dtype} pixels; a radiograph has integers of 8 to 16 bits")
    return frame


def _guessed_syntax(dataset: Dataset) -> Any:
    """What a file without a meta header was read as."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _luminance(path: Path, dataset: Dataset, frame: npt.NDArray[Any]) -> Grey:
    if frame.dtype != np.uint8 or frame.shape[2] != 3:
        raise InputError(f"{path}: has {frame.shape[2]} x {frame.dtype} a pixel; only 8-bit RGB colour is read")
    return np.array(Image.fromarray(frame).convert("L"))


def _show(frame: npt.NDArray[Any], dataset: Dataset) -> Grey:
    """Stored values -> grey, by a table over all values between the least and the greatest."""
    photometric = dataset.get("PhotometricInterpretation", "MONOCHROME2")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"photometric interpretation {photometric}")
    padding = _padding(frame, dataset)
    shown = frame[~padding] if padding is not None and not padding.all() else frame
    low, high = int(shown.min()), int(shown.max())
    table = _grey_table(np.arange(low, high + 1), dataset)
    if photometric == "MONOCHROME1":
        table = 255 - table
    grey = table[np.clip(frame, low, high).astype(np.int64) - low]
    if padding is not None:
        grey[padding] = 0
    return grey


def _padding(frame: npt.NDArray[Any], dataset: Dataset) -> npt.NDArray[np.bool_] | None:
    """Pixels outside the exposed field, as far as the file declares them."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return None
    low, high = sorted((int(value), int(dataset.get("PixelPaddingRangeLimit", value))))
    mask: npt.NDArray[np.bool_] = (frame >= low) & (frame <= high)
    return mask if mask.any() else None


def _grey_table(values: npt.NDArray[np.int64], dataset: Dataset) -> Grey:
    """Grey value of each stored value (ascending), before any inversion."""
    from pydicom.pixels import apply_modality_lut

    rescaled = apply_modality_lut(values, dataset)
    windowed, low, high = _windowed(rescaled, dataset)
    if windowed is None or windowed.min() == windowed.max():
        windowed, low, high = rescaled, float(rescaled.min()), float(rescaled.max())
    scale = 255 / (high - low) if high > low else 0.0
    return ((np.asarray(windowed, np.float64) - low) * scale + 0.5).astype(np.uint8)


def _windowed(
    values: npt.NDArray[Any], dataset: Dataset
) -> tuple[npt.NDArray[Any], float, float] | tuple[None, float, float]:
    """Values through the first VOI LUT or window, and the bounds of its output; None without a usable one."""
    from pydicom.pixels import apply_voi, apply_windowing

    try:
        if dataset.get("VOILUTSequence"):
            item = dataset.VOILUTSequence[0]
            entries, first, _ = item.LUTDescriptor
            # pydicom indexes a table with the type of its entries: 8-bit ones would wrap beyond 256.
            item.LUTDescriptor = [entries, first, 16]
            inputs = np.arange(first, first + (entries or 1 << 16))
            table = apply_voi(inputs, dataset)
            inside = np.clip(np.rint(values).astype(np.int64), inputs[0], inputs[-1])
            return apply_voi(inside, dataset), float(table.min()), float(table.max())
        if dataset.get("WindowCenter") is None or dataset.get("WindowWidth") is None:
            return None, 0.0, 0.0
        with np.errstate(over="ignore"):
            return apply_windowing(values, _window_to_8_bit(dataset)), 0.0, 255.0
    except ValueError:  # an impossible window, of width 0 say
        return None, 0.0, 0.0


def _window_to_8_bit(dataset: Dataset) -> Dataset:
    """The window alone: with a negative rescale slope beside it, pydicom would turn its output round."""
    from pydicom import Dataset

    window = Dataset()
    for name in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
        if name in dataset:
            window[name] = dataset[name]
    window.PhotometricInterpretation, window.BitsStored, window.PixelRepresentation = "MONOCHROME2", 8, 0
    return window
