"""Read text and JSON files of any origin, write files completely or not at all, and write JSON that every reader accepts."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import math
import os
import shutil
import tempfile
import zipfile
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from medslip.errors import InputError, one_line

_NOT_TEXT = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save it as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save it as CSV",
    b"BZh": "a bzip2 archive; unpack it",
    b"\xfd7zXZ": "an xz archive; unpack it",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it",
    b"%PDF": "a PDF file",
    b"<!doctype html": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
}
"""How a file begins, in lower case or not -> what it is and what to do about it."""


@contextmanager
def opened_text(path: Path, advice: str = "check the path") -> Iterator[TextIO]:
    """Open a text file, in UTF-8 or in UTF-16 with a byte order mark, packed or not; line ends are kept.

    Args:
        path: The file, which may be packed by gzip or alone in a zip archive.
        advice: What to do if there is no such file, for the message.

    Raises:
        InputError: The file cannot be read, or proves, here or in the body, to be cut short or not to be text.
    """
    try:
        with Path(path).open("rb") as plain_file:
            packing = plain_file.read(2)
            file: Any = gzip.GzipFile(fileobj=plain_file) if packing == b"\x1f\x8b" else plain_file
            if packing == b"PK" and zipfile.is_zipfile(plain_file):
                archive = zipfile.ZipFile(plain_file)
                if len(entries := archive.infolist()) == 1 and not entries[0].flag_bits & 1:  # not encrypted
                    file = archive.open(entries[0])
            plain_file.seek(0)
            start = file.read(512)
            file.seek(0)
            for magic, kind in _NOT_TEXT.items():
                if start.startswith(magic) or start.lstrip().lower().startswith(magic):
                    raise InputError(f"{path}: is {kind}")
            encoding = "utf-16" if start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
            yield TextIOWrapper(file, encoding, newline="")
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {advice}") from None
    except UnicodeError as error:
        raise InputError(
            f"{path}: is not text in UTF-8 ({one_line(error)}); save it as UTF-8 (in Excel: CSV UTF-8), or download it again"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: is damaged ({one_line(error)}); get a new copy") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {advice}") from None


def read_text(path: Path, advice: str = "check the path") -> str:
    """The content of a text file; errors as for ``opened_text``, and for a file with null characters."""
    with opened_text(path, advice) as file:
        text = file.read()
    if "\0" in text:
        raise InputError(f"{path}: is not a text file: it holds null characters; save or download it again")
    return text


def from_json(text: str) -> Any:
    """Decode JSON.

    Raises:
        ValueError: It is not complete, has NaN or an infinity, or is nested or has a number longer than Python can take.
    """
    try:
        return json.loads(text, parse_constant=not_json)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def not_json(word: str) -> None:
    """Raise ValueError for NaN and Infinity, which Python's reader would accept."""
    raise ValueError(f"{word} is not a number in JSON")


def read_json(path: Path, advice: str = "check the path") -> Any:
    """The content of a JSON file; errors as for ``read_text``, and for what ``from_json`` cannot decode."""
    text = read_text(path, advice)
    try:
        return from_json(text)
    except ValueError as error:
        raise InputError(f"{path}: not a complete JSON file ({one_line(error, 120)}); get a new copy") from None


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

    What a process that was killed left of such a folder is removed first.

    Args:
        folder: A path where nothing exists, or an empty folder.

    Raises:
        OSError: The folder or a file in it cannot be written; the error names the folder.
    """
    folder = Path(folder)
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        prefix = f"{folder.name}.partial-"
        for left in folder.parent.glob(f"{escape(prefix)}????????"):
            with suppress(BlockingIOError), _locked(left):  # another process may be filling it
                shutil.rmtree(left, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
        try:
            partial.chmod(0o777 & ~_umask())
            begun = partial.stat()
            with _locked(partial):
                yield partial
            if not os.path.samestat(begun, partial.stat()):
                raise OSError("another process removed its temporary folder")
            partial.replace(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which ends with this process; where folders cannot be locked, go on without."""
    with ExitStack() as stack:
        try:
            import fcntl  # not on Windows

            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except (ImportError, OSError):
            pass
        yield


def _umask() -> int:
    """The permissions that this process removes from new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def fingerprint(paths: Sequence[Path]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the contents of files, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
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
