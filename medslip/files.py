"""Files that are written whole or not at all, and JSON that every reader accepts."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write to, FILE.partial, which takes the file's place at the end; after an error it is gone instead.

    Args:
        path: The file. Its folder is made where there is none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    partial.replace(path)


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """Give a new folder beside to fill, which takes the folder's place at the end; after an error it is gone instead.

    Args:
        folder: Where there is nothing yet, or an empty folder.

    Raises:
        OSError: It cannot be made.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        partial.chmod(0o777 & ~_umask())
        yield partial
        partial.replace(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _umask() -> int:
    """What this process takes away from the permissions of new files; mkdtemp takes away all of others'."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def fingerprint(paths: Sequence[Path]) -> str:
    """16 hexadecimal digits of the SHA-256 of some files' contents, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def to_json(data: Any, indent: int | None = None) -> str:
    """As JSON, after ``plain``."""
    return json.dumps(plain(data), indent=indent, allow_nan=False)


def plain(data: Any) -> Any:
    """What JSON has for it: numpy numbers and arrays, paths and tuples too; NaN and infinities become None."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, np.ndarray | np.generic):
        return plain(data.tolist())
    if isinstance(data, list | tuple | set | frozenset):
        return [plain(value) for value in data]
    if isinstance(data, Path):
        return str(data)
    return None if isinstance(data, float) and not math.isfinite(data) else data
