"""Image cache: every image decoded once and stored small, so that training need not wait."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medslip.data.images import Grey, read_image
from medslip.data.pool import mapper
from medslip.data.preprocessing import equalise as equalised
from medslip.data.preprocessing import squash
from medslip.errors import InputError
from medslip.files import written_whole

_OVERSAMPLING = 2
"""How much larger than the cached image a JPEG is decoded; see read_image."""

_PNG = b"\x89PNG\r\n\x1a\n"


def check_cache(size: int | None, workers: int) -> None:
    """Check the arguments of build_cache; a size of None means no cache.

    Raises:
        InputError: The size is less than 1, or the number of workers less than 0.
    """
    if size is not None and size < 1:
        raise InputError(f"cache_size: {size} is not a valid side in pixels; choose one above the training side")
    if workers < 0:
        raise InputError(f"workers: {workers} is less than 0; 0 means this process only")


def build_cache(images: Sequence[Path], folder: Path, size: int, workers: int, equalise: bool = False) -> list[Path]:
    """Store images as small squares.

    They are squashed to size x size as for evaluation, and stored as 8-bit PNG without compression, which takes twice the
    space, but a fifth of the time to read. Choose a size above the training side, as random crops are cut from it. A file's
    name in the cache depends on its source, the source's length and time, and the size, so that an interrupted run
    continues where it was.

    Args:
        images: The images.
        folder: Where the cached images go.
        size: Side of the cached images in pixels.
        workers: Worker processes; 0 works in this one.
        equalise: Whether to equalise each image's histogram first.

    Returns:
        The cached image of each image.

    Raises:
        InputError: An image is missing or cannot be read, or the size or the number of workers is out of range.
    """
    check_cache(size, workers)
    targets = {image: _target(Path(image).resolve(), Path(folder), size, equalise) for image in images}
    jobs = [(source, target, size, equalise) for source, target in targets.items() if not target.exists()]
    _remove_halves(folder)
    try:
        with mapper(workers) as mapped:
            for _ in tqdm(mapped(_store, jobs), total=len(jobs), desc="caching images", unit="image"):
                pass
    finally:
        _remove_halves(folder)
    return [targets[image] for image in images]


def _remove_halves(folder: Path) -> None:
    """Remove what killed processes left."""
    for half in folder.rglob("*.partial"):
        half.unlink()


def _target(source: Path, folder: Path, size: int, equalise: bool) -> Path:
    try:
        stat = source.stat()
    except OSError as error:
        raise InputError(f"{source}: cannot read the image ({error.strerror}); check the path") from None
    about = f"{source}|{stat.st_size}|{stat.st_mtime_ns}{'|equalised' if equalise else ''}"
    key = hashlib.blake2b(about.encode(), digest_size=12).hexdigest()
    # Many thousands of files in one folder are slow on most file systems.
    return folder / str(size) / key[:2] / f"{source.stem}-{key[2:]}.png"


_Job = tuple[Path, Path, int, bool]


def _store(job: _Job) -> None:
    source, target, size, equalise = job
    image = read_image(source, at_least=_OVERSAMPLING * size)
    small = squash(equalised(image) if equalise else image, size)
    with written_whole(target) as partial:
        partial.write_bytes(_stored_png(small[0].numpy()))


def _stored_png(image: Grey) -> bytes:
    """A PNG file without compression or row filters, which Pillow cannot write."""
    height, width = image.shape
    rows = np.pad(image, ((0, 0), (1, 0)))  # each begins with its filter, 0 for none
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0),
        b"IDAT": zlib.compress(rows.tobytes(), level=0),
        b"IEND": b"",
    }
    return _PNG + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    )
