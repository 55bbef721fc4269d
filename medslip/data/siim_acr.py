"""SIIM-ACR Pneumothorax in the publisher's layout, and the common PNG form.

Layout: train-rle.csv (a row a mask, "-1" for none), dicom-images-train/<study>/<series>/<ImageId>.dcm. PNG form: a CSV
file with a column image_path and, where patients have several images, patient; and a folder of masks of the images' file
names (a DICOM's mask is a PNG), white where the pneumothorax is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from medslip.data.attributes import Attributes
from medslip.data.checks import refuse_duplicates, refuse_repeated_files
from medslip.data.csv_old import read_cells
from medslip.data.images import Header, read_headers
from medslip.data.labelled import LabelledImages, find_images, one_class
from medslip.data.masked import Mask, MaskedImages, MaskFiles, read_mask, refuse_other_size
from medslip.errors import InputError

CLASS = "Pneumothorax"

TABLE_FILE = "train-rle.csv"
IMAGES_FOLDER = "dicom-images-train"
NO_MASK = "-1"

_Runs = npt.NDArray[np.int32]
"""R x 2: how many pixels the run before is away, and how many the run has."""


@dataclass(frozen=True)
class _RunMasks:
    """Masks as run lengths, decoded when they are asked for: twelve thousand decoded ones would fill 12 GB.

    Attributes:
        sizes: n heights and widths.
        runs: n, one array a mask of the image; they may overlap.
    """

    sizes: list[tuple[int, int]]
    runs: list[list[_Runs]]

    def __call__(self, index: int) -> Mask:
        mask = np.zeros(self.sizes[index], bool)
        for runs in self.runs[index]:
            mask |= _paint(runs, *self.sizes[index])
        return mask


def read_labelled(path: Path, images: Path | None = None, masks: Path | None = None) -> LabelledImages:
    """The images, labelled 1 where a pneumothorax was marked; arguments and errors as for read_masks."""
    masked, headers = _read(path, images, masks)
    return one_class(masked.name, CLASS, masked.paths, masked.marked.tolist(), masked.patients, headers)


def read_masks(path: Path, images: Path | None = None, masks: Path | None = None) -> MaskedImages:
    """The images and their masks.

    Args:
        path: The publisher's folder, or the CSV file of the PNG form.
        images: Where the images are: the publisher's are looked up by name in all subfolders, those of the PNG form
            start there. None takes the publisher's folder of images, or the CSV file's own folder.
        masks: PNG form: the folder of masks. None takes a folder "masks" beside the CSV file.

    Returns:
        Images in table order. An image of which neither table nor file names a patient counts as one.

    Raises:
        InputError: A file is missing or not as published, a run length leaves the image, a mask has another size
            than its image, or an image is listed twice; the message names the file and line.
    """
    return _read(path, images, masks)[0]


def decode_rle(text: str, height: int, width: int, where: str = "run lengths") -> Mask:
    """A mask from the publisher's run lengths.

    Pairs of numbers: how many pixels after the end of the run before (at first: after the corner) a run starts, and
    how many pixels it has. Pixels count from the upper left corner down the first column, then down the next.

    Args:
        text: The numbers, separated by blanks; "-1" is an empty mask.
        height: Of the image, pixels.
        width: Of the image, pixels.
        where: Begins an error's message.

    Returns:
        H x W.

    Raises:
        InputError: The text is no run lengths, or they leave the image.
    """
    return _paint(_parse(text, height, width, where), height, width)


def encode_rle(mask: Mask) -> str:
    """The publisher's run lengths of a mask, as few runs as there can be; the inverse of decode_rle.

    Args:
        mask: H x W.
    """
    column_major = mask.T.ravel()
    changes = np.flatnonzero(np.diff(column_major, prepend=False, append=False))
    return " ".join(str(step) for step in np.diff(changes, prepend=0)) or NO_MASK


def _paint(runs: _Runs, height: int, width: int) -> Mask:
    flat = np.zeros(height * width, bool)
    lengths = runs.ravel()
    flat[: lengths.sum()] = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return flat.reshape(width, height).T


def _parse(text: str, height: int, width: int, where: str) -> _Runs:
    words = text.split()
    if not words or (words != [NO_MASK] and (len(words) % 2 or not all(word.isdecimal() for word in words))):
        raise InputError(f"{where}: {text[:20]!r}... is neither {NO_MASK} nor pairs of a start and a length")
    numbers = [] if words == [NO_MASK] else [int(word) for word in words]
    if 0 in numbers[1::2]:
        raise InputError(f"{where}: a run has length 0")
    if sum(numbers) > height * width:
        raise InputError(
            f"{where}: the run lengths end at pixel {sum(numbers)}, outside the image of {height} x {width} pixels; "
            "each start must count from the end of the run before"
        )
    return np.array(numbers, np.int32).reshape(-1, 2)


@dataclass
class _Entry:
    """What the publisher's table says of an image."""

    line: int
    masks: list[tuple[int, str]]


_Read = tuple[MaskedImages, list[Header]]


def _read(path: Path, images: Path | None, masks: Path | None) -> _Read:
    path = Path(path)
    if path.is_dir():
        return _read_published(path, images)
    return _read_pictures(path, images or path.parent, masks or path.parent / "masks")


def _read_published(root: Path, images: Path | None) -> _Read:
    source = root / TABLE_FILE
    entries = _read_rows(source)
    lines = [entry.line for entry in entries.values()]
    paths = find_images(list(entries), lines, [images or root / IMAGES_FOLDER], source)
    refuse_repeated_files(paths, lines, source)
    headers = read_headers(paths)
    sizes = [(header.height, header.width) for header in headers]
    runs = [
        [_parse(text, *size, f"{source}: line {line}") for line, text in entry.masks]
        for entry, size in zip(entries.values(), sizes, strict=True)
    ]
    masked = MaskedImages(
        name=f"SIIM-ACR ({source.name})",
        finding=CLASS,
        paths=paths,
        read_mask=_RunMasks(sizes, runs),
        marked=np.array([bool(entry.masks) for entry in entries.values()]),
        patients=[header.patient or name for header, name in zip(headers, entries, strict=True)],
        attributes=Attributes.of_headers(headers),
    )
    return masked, headers


def _read_rows(source: Path) -> dict[str, _Entry]:
    """ImageId -> its masks' lines and texts."""
    table = read_cells(source)
    # The publisher's header has a blank before EncodedPixels.
    table.columns = table.columns.str.strip()
    for name in ("ImageId", "EncodedPixels"):
        if name not in table.columns:
            raise InputError(f"{source}: has no column {name!r}; it must have ImageId and EncodedPixels")
    entries: dict[str, _Entry] = {}
    for line, (name, text) in enumerate(zip(table["ImageId"], table["EncodedPixels"], strict=True), start=2):
        known = entries.get(name)
        text = text.strip()
        if known and (text == NO_MASK or not known.masks or text in (other for _, other in known.masks)):
            raise InputError(f"{source}: line {line}: {name} stands in line {known.line} too, and not as another mask")
        entry = entries.setdefault(name, _Entry(line, []))
        if text != NO_MASK:
            entry.masks.append((line, text))
    return entries


def _read_pictures(source: Path, images: Path, masks: Path) -> _Read:
    table = read_cells(source)
    if "image_path" not in table.columns:
        raise InputError(f"{source}: has no column 'image_path'")
    names = table["image_path"].tolist()
    patients = table["patient"].str.strip().tolist() if "patient" in table.columns else [""] * len(names)
    lines = range(2, len(names) + 2)
    refuse_duplicates(names, lines, source)
    paths = [images / name for name in names]
    refuse_repeated_files(paths, lines, source)
    files = [_mask_of(path, masks) for path in paths]
    for what, wanted in (("image", paths), ("mask", files)):
        for line, file in zip(lines, wanted, strict=True):
            if not file.is_file():
                raise InputError(f"{source}: line {line}: {what} {file} not found; name the folder of the {what}s")
    headers, marked = read_headers(paths), []
    bar = tqdm(files, desc="masks", unit="image", leave=False, disable=None)
    for file, path, header in zip(bar, paths, headers, strict=True):
        mask = read_mask(file)
        refuse_other_size(file, mask.shape, path, header)
        marked.append(bool(mask.any()))
    masked = MaskedImages(
        name=f"SIIM-ACR ({source.name})",
        finding=CLASS,
        paths=paths,
        read_mask=MaskFiles(paths, [[file] for file in files]),
        marked=np.array(marked),
        patients=[said or header.patient or name for said, header, name in zip(patients, headers, names, strict=True)],
        attributes=Attributes.of_headers(headers),
    )
    return masked, headers


def _mask_of(image: Path, masks: Path) -> Path:
    """The mask of the image's own name, or, as DICOM images have masks that are pictures, of its stem."""
    return masks / (f"{image.stem}.png" if image.suffix.lower() in (".dcm", ".dicom") else image.name)
