"""Write files completely or not at all, and write JSON that every reader accepts."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error in writing name the file: that of a full disk does not.

    Raises:
        OSError: Any that is raised within, now always with errno, strerror and, as its filename, the path.
    """
    try:
        yield
    except OSError as error:
        # numpy and pydicom give a message only.
        raise OSError(
            error.errno or errno.EIO, error.strerror or " ".join(str(error).split())[:100], str(path)
        ) from error


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write to, FILE.partial, which replaces the file at the end; after an error, the old file stays.

    Args:
        path: The file; its folder is created if necessary. It gets the ordinary permissions of a new file (umask), even
            where the library that writes it is stricter.

    Raises:
        OSError: The file cannot be written; the error names it.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.chmod(0o666 & ~_umask())
            partial.replace(path)
        except BaseException:
            with suppress(OSError):  # nothing can be removed from a read-only disk
                partial.unlink()
            raise


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Give a new folder to fill, which takes the folder's name at the end; after an error, it is removed.

    Args:
        folder: A path where nothing exists, or an empty folder.

    Raises:
        OSError: The folder or a file in it cannot be written; the error names the folder.
    """
    folder = Path(folder)
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
        try:
            partial.chmod(0o777 & ~_umask())
            begun = partial.stat()
            yield partial
            if not os.path.samestat(begun, partial.stat()):
                raise OSError("another process removed its temporary folder")
            partial.replace(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _umask() -> int:
    """The permissions that this process removes from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def fingerprint(paths: Sequence[Path]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the contents of files, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def to_json(data: Any, indent: int | None = None) -> str:
    """Serialise to JSON, after ``plain``."""
    return json.dumps(plain(data), indent=indent, allow_nan=False)


def plain(data: Any) -> Any:
    """Convert numpy numbers and arrays, paths, tuples and sets to JSON's types; NaN and infinities become None."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, np.ndarray | np.generic):
        return plain(data.tolist())
    if isinstance(data, list | tuple | set | frozenset):
        return [plain(value) for value in data]
    if isinstance(data, Path):
        return str(data)
    return None if isinstance(data, float) and not math.isfinite(data) else data
