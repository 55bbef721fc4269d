"""DICOM radiographs: stored values -> 8-bit grey with bones bright, and header metadata.

The grey-scale pipeline is that of the standard (PS3.3 C.11.1 modality LUT, C.11.2 VOI LUT and window, C.7.6.3.1.5 padding).
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medslip.errors import InputError, one_line

if TYPE_CHECKING:
    from pydicom import Dataset

Grey = npt.NDArray[np.uint8]
"""H x W, 0 black to 255 white, bones bright."""

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
MAX_PIXELS = 100_000_000
"""More than any radiograph has; checked before anything is decoded."""

OLDEST = 120
"""Years. A higher age is a typing error; published tables have some (148, 411)."""

_MAX_INFLATED = 2 * MAX_PIXELS + (64 << 20)  # bytes of a deflated file: 16-bit pixels and a generous header
_PIXEL_DATA_TAG = 0x7FE00010
_HEADER_TAGS = ["PatientID", "PatientSex", "PatientAge", "ViewPosition", "Rows", "Columns"]
_PER_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}
_MESSAGE_LENGTH = 160  # characters of a decoder's message


@dataclass(frozen=True)
class Header:
    """Metadata of an image file. PNG and JPEG files have only a size.

    Attributes:
        patient: Identifier, empty where unknown.
        sex: "M", "F" or empty.
        age: Years, NaN where unknown.
        view: "PA", "AP" or another code; empty where unknown.
        height: Pixels, after any EXIF rotation.
        width: Pixels.
    """

    patient: str
    sex: str
    age: float
    view: str
    height: int
    width: int


def years(age: str) -> float:
    """An age in years, from DICOM's "043Y" or "006M" or from a plain number. NaN for anything else and above OLDEST."""
    number, unit = (age[:-1], age[-1].upper()) if age[-1:].isalpha() else (age, "Y")
    try:
        found = float(number) / _PER_YEAR[unit]
    except (ValueError, KeyError):
        return math.nan
    return found if 0 <= found <= OLDEST else math.nan


def read_dicom_header(path: Path) -> Header:
    """Read a DICOM file's metadata without decoding its pixels; errors are those of ``images.read_header``."""
    from pydicom.filereader import read_partial
    from pydicom.tag import BaseTag, Tag

    pixels: list[BaseTag] = []

    def stop_at_pixels(tag: BaseTag, kind: str | None, length: int) -> bool:
        if tag == _PIXEL_DATA_TAG:
            pixels.append(tag)
        return tag == _PIXEL_DATA_TAG

    _check_inflated_size(path)
    with _naming_damage(path), path.open("rb") as file:
        tags: list[BaseTag | int] = [Tag(name) for name in _HEADER_TAGS]
        dataset = read_partial(file, stop_at_pixels, force=path.suffix.lower() in DICOM_SUFFIXES, specific_tags=tags)
        patient, sex, age, view = (str(dataset.get(name) or "").strip() for name in _HEADER_TAGS[:4])
        height, width = (int(dataset.get(name) or 0) for name in _HEADER_TAGS[4:])
    if not height or not width or not pixels:
        missing = "pixel data" if height and width else "rows and columns"
        raise InputError(f"{path}: contains no image (no DICOM {missing}); remove it from the list")
    sex = sex.upper()
    return Header(patient, sex if sex in ("M", "F") else "", years(age), view.upper(), height, width)


def read_dicom(path: Path) -> Grey:
    """Read the first frame of a DICOM file; behaviour and errors are those of ``images.read_image``."""
    import pydicom

    _check_inflated_size(path)
    with _naming_damage(path):
        dataset = pydicom.dcmread(path, force=path.suffix.lower() in DICOM_SUFFIXES)
        has_pixels = "PixelData" in dataset
        pixels = int(dataset.get("Rows") or 0) * int(dataset.get("Columns") or 0)
    if not has_pixels:
        raise InputError(f"{path}: contains no image (no DICOM pixel data); remove it from the list")
    if pixels > MAX_PIXELS:
        raise InputError(f"{path}: too many pixels for a radiograph; remove it or make it smaller")
    with _naming_damage(path):
        bits = _Bits.of(dataset)
    frame = _first_frame(path, dataset)
    if frame.ndim == 3:
        if frame.dtype != np.uint8 or frame.shape[2] != 3:
            raise InputError(
                f"{path}: has {frame.shape[2]} samples of {frame.dtype} per pixel; only 8-bit RGB is supported"
            )
        return np.array(Image.fromarray(frame).convert("L"))
    try:
        return _show(frame, bits, dataset)
    except Exception as error:
        raise InputError(
            f"{path}: cannot be converted to grey values ({one_line(error, _MESSAGE_LENGTH)}); check its DICOM header"
        ) from None


@contextmanager
def _naming_damage(path: Path) -> Iterator[None]:
    """Turn any parser error into an InputError that names the file."""
    # Imported here because importing pydicom takes longer than reading a PNG.
    from pydicom.errors import InvalidDicomError

    try:
        yield
    except InvalidDicomError:
        raise InputError(f"{path}: not a DICOM file; remove it or correct its suffix") from None
    # A damaged file can make pydicom fail anywhere, with many kinds of exception.
    except Exception as error:
        message = one_line(error, _MESSAGE_LENGTH)
        raise InputError(f"{path}: damaged DICOM file ({message}); get a new copy") from None


def _check_inflated_size(path: Path) -> None:
    """Reject a deflated file that would fill the memory: pydicom inflates it whole before reading a tag."""
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return
    with _naming_damage(path):
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        # The group length counts from behind its own element (12 bytes).
        size, inflater = 0, zlib.decompressobj(-zlib.MAX_WBITS)
        with path.open("rb") as file:
            file.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
            while size <= _MAX_INFLATED and (data := inflater.unconsumed_tail or file.read(1 << 16)):
                size += len(inflater.decompress(data, 1 << 24))
    if size > _MAX_INFLATED:
        raise InputError(f"{path}: decompresses to more data than a radiograph can have; remove it")


def _first_frame(path: Path, dataset: Dataset) -> npt.NDArray[Any]:
    """H x W stored values with all allocated bits, or H x W x 3 colours."""
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit

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
        raise InputError(f"{path}: {advice or f'no decoder for {syntax.name} is installed'}")
    if syntax not in (JPEGBaseline8Bit, JPEGExtended12Bit) and dataset.get("SamplesPerPixel") == 1:
        # Otherwise pydicom drops the highest bits itself, but only for some syntaxes, and whatever HighBit says.
        dataset.BitsStored = dataset.get("BitsAllocated")
    try:
        frame: npt.NDArray[Any] = pixel_array(dataset, index=0)
    except Exception as error:
        # An installed decoder may support the syntax, but not this variant of it (12-bit JPEG, for example).
        hint = f"; if the file is complete, {advice}" if advice else "; get the file again"
        message = one_line(error, _MESSAGE_LENGTH)
        raise InputError(f"{path}: pixel data damaged or truncated ({message}){hint}") from None
    if frame.dtype.kind not in "iu" or frame.dtype.itemsize > 2:
        raise InputError(f"{path}: has {frame.dtype} pixels; a radiograph has integers of 8 to 16 bits")
    return frame


def _guessed_syntax(dataset: Dataset) -> Any:
    """The encoding that pydicom used for a file without a meta header."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


@dataclass(frozen=True)
class _Bits:
    """How a pixel's bits are laid out."""

    allocated: int
    stored: int
    high: int
    signed: bool

    @staticmethod
    def of(dataset: Dataset) -> _Bits:
        allocated = int(dataset.get("BitsAllocated") or 16)
        stored = min(int(dataset.get("BitsStored") or allocated), allocated)
        high = dataset.get("HighBit")
        high = stored - 1 if high is None else int(high)
        return _Bits(allocated, stored, high, bool(dataset.get("PixelRepresentation")))

    def values(self, frame: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
        """The pixel values without bits that are not part of them, such as overlays."""
        raw = frame.astype(np.int32)
        shift = self.high + 1 - self.stored
        # Compressed pixels of the right depth have already been moved to the lowest bits.
        if shift > 0 and raw.size and (raw.max() >= 1 << self.stored or raw.min() < 0):
            raw >>= shift
        return _wrapped(raw, self.stored, self.signed)


def _wrapped(values: Any, bits: int, signed: bool) -> Any:
    """Integers reduced to so many bits, two's complement where signed."""
    values = values & ((1 << bits) - 1)
    return values - ((values >> (bits - 1)) << bits) if signed else values


def _show(frame: npt.NDArray[Any], bits: _Bits, dataset: Dataset) -> Grey:
    """Stored values -> grey. Each value that occurs is converted once, and then looked up."""
    codes = frame.view(f"u{frame.dtype.itemsize}")
    occurring = np.flatnonzero(count_values(codes))
    table = np.zeros(1 << 8 * codes.dtype.itemsize, np.uint8)
    table[occurring] = _greys(occurring.astype(codes.dtype).view(frame.dtype), bits, dataset)
    return look_up(codes, table)


def count_values(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How often each value occurs, from 0; values are H x W, uint8 or uint16."""
    if values.dtype == np.uint8:  # Pillow takes half the time
        return np.asarray(Image.fromarray(values).histogram(), np.int64)
    return np.bincount(values.reshape(-1))


def look_up(values: npt.NDArray[Any], table: Grey) -> Grey:
    """The table's entry for each value, of the values' shape."""
    if values.dtype == np.uint8:  # a fifth of the time that indexing takes
        found = bytearray(np.ascontiguousarray(values)).translate(table.tobytes())
        return np.frombuffer(found, np.uint8).reshape(values.shape)
    return np.take(table, values)


def _greys(frame: npt.NDArray[Any], bits: _Bits, dataset: Dataset) -> Grey:
    """Grey of stored values, all that an image has, through a table over all between the least and the greatest."""
    photometric = dataset.get("PhotometricInterpretation") or "MONOCHROME2"
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"photometric interpretation {photometric}")
    values = bits.values(frame)
    padding = _padding(frame, values, bits, dataset)
    shown = values if padding is None or padding.all() else values[~padding]
    low, high = int(shown.min()), int(shown.max())
    table = _grey_table(np.arange(low, high + 1), dataset)
    if photometric == "MONOCHROME1":
        table = 255 - table
    grey = table[np.clip(values, low, high) - low]
    if padding is not None:
        grey[padding] = 0
    return grey


def _padding(
    frame: npt.NDArray[Any], values: npt.NDArray[np.int32], bits: _Bits, dataset: Dataset
) -> npt.NDArray[np.bool_] | None:
    """Pixels outside the exposed field, where the file declares them."""
    value = dataset.get("PixelPaddingValue")
    if value in (None, ""):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    # Either may be written with the other sign (63536 for -2000), and may use bits beyond those of the pixel values.
    ends = [int(end) for end in (value, value if limit in (None, "") else limit)]
    low, high = sorted(int(_wrapped(end, bits.allocated, bits.signed)) for end in ends)
    raw = _wrapped(frame.astype(np.int32), bits.allocated, bits.signed)
    mask: npt.NDArray[np.bool_] = ((raw >= low) & (raw <= high)) | ((values >= low) & (values <= high))
    return mask if mask.any() else None


def _grey_table(values: npt.NDArray[np.int64], dataset: Dataset) -> Grey:
    """Grey value of each stored value (ascending), before any inversion."""
    rescaled = _modality(values, dataset)
    for transform in (_voi_lut, _window):
        shown, low, high = transform(rescaled, dataset)
        if shown is not None:
            break
    if shown is None or shown.min() == shown.max():  # a transform that would show nothing is ignored
        shown, low, high = rescaled, float(rescaled.min()), float(rescaled.max())
    scale = 255 / (high - low) if high > low else 0.0
    return ((shown - low) * scale + 0.5).astype(np.uint8)


_Shown = tuple[npt.NDArray[np.float64] | None, float, float]
"""Output values, and the least and greatest value that the output can have; None where the header has no such transform."""


def _modality(values: npt.NDArray[np.int64], dataset: Dataset) -> npt.NDArray[np.float64]:
    if (lut := _lut(dataset, "ModalityLUTSequence")) is not None:
        return _look_up(values, *lut)
    slope, intercept = _first_number(dataset, "RescaleSlope"), _first_number(dataset, "RescaleIntercept")
    return np.asarray(values * (1.0 if slope is None else slope) + (intercept or 0.0), np.float64)


def _voi_lut(values: npt.NDArray[np.float64], dataset: Dataset) -> _Shown:
    if (lut := _lut(dataset, "VOILUTSequence")) is None:
        return None, 0.0, 0.0
    first, entries = lut
    return _look_up(values, first, entries), float(entries.min()), float(entries.max())


def _lut(dataset: Dataset, sequence: str) -> tuple[int, npt.NDArray[np.float64]] | None:
    """First input value and entries of a sequence's look-up table; None without a table that has entries."""
    items = dataset.get(sequence) or []
    if not items or not items[0].get("LUTDescriptor") or not items[0].get("LUTData"):
        return None
    count, first, depth = (int(part) for part in items[0].LUTDescriptor)
    data, count = items[0].LUTData, count or 1 << 16
    if isinstance(data, bytes):
        # 8-bit entries may be packed in bytes; fewer entries than declared end the table early.
        narrow = depth <= 8 and len(data) < 2 * count
        data = np.frombuffer(data[: len(data) // 2 * 2], "u1" if narrow else "<u2")
    entries = _wrapped(np.atleast_1d(np.asarray(data, np.int64)), 16, False)[:count]
    if first > 1 << 15 and dataset.get("PixelRepresentation"):
        first -= 1 << 16  # written with the other sign
    return first, entries.astype(np.float64)


def _look_up(values: npt.NDArray[Any], first: int, entries: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return entries[np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)]


def _window(values: npt.NDArray[np.float64], dataset: Dataset) -> _Shown:
    centre, width = _first_number(dataset, "WindowCenter"), _first_number(dataset, "WindowWidth")
    function = str(dataset.get("VOILUTFunction") or "").strip().upper()
    linear = function not in ("LINEAR_EXACT", "SIGMOID")  # the standard's default, also for an empty value
    if centre is None or width is None or width <= 0 or (linear and width < 1):
        return None, 0.0, 0.0
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return np.asarray(255 / (1 + np.exp(-4 * (values - centre) / width)), np.float64), 0.0, 255.0
    if linear:
        centre, width = centre - 0.5, width - 1
    if width == 0:
        return np.where(values <= centre, 0.0, 255.0), 0.0, 255.0
    return np.clip(((values - centre) / width + 0.5) * 255, 0, 255), 0.0, 255.0


def _first_number(dataset: Dataset, name: str) -> float | None:
    """The first value of an element; None where it is missing or empty."""
    value = dataset.get(name)
    values = [value] if isinstance(value, str | int | float) else list(value or [])
    return float(values[0]) if values and str(values[0]).strip() else None
