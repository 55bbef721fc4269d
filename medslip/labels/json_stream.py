"""Reads one JSON object that may be larger than memory, entry by entry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from medslip.errors import InputError


def iter_members(path: Path, chunk: int = 1 << 20) -> Iterator[tuple[str, Any]]:
    """The entries of a file that is one JSON object, in memory that does not grow with the file.

    Args:
        path: A UTF-8 JSON file.
        chunk: Characters read at a time.

    Yields:
        Key and decoded value, in file order.

    Raises:
        InputError: The file is missing, cut short, or not a JSON object.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            yield from _Members(file, path, chunk)
    except FileNotFoundError:
        raise InputError(f"{path}: file not found; name the JSON file") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; name the JSON file in it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file ({error.reason}); get it anew") from None


class _Members:
    """Decodes a JSON object member by member, from a buffer that is refilled where a member outgrows it."""

    def __init__(self, file: TextIO, path: Path, chunk: int) -> None:
        self._file, self._path, self._chunk = file, path, chunk
        self._decode = json.JSONDecoder().raw_decode
        self._buffer = ""
        self._at = 0
        self._passed = 0  # characters of the file before the buffer
        self._last = ""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        if self._next_sign() != "{":
            raise self._error("does not begin with a JSON object")
        self._at += 1
        if self._next_sign() == "}":
            self._finish()
            return
        while True:
            if self._next_sign() != '"':
                raise self._error("has no key where one is due; get the file anew")
            key = self._value()
            if self._next_sign() != ":":
                raise self._error(f'has no ":" after key {key}; get the file anew')
            self._at += 1
            self._next_sign()
            value = self._value()
            self._last = key
            yield key, value
            sign = self._next_sign()
            if sign == "}":
                self._finish()
                return
            if sign != ",":
                raise self._error('has neither "," nor "}" after a value; get the file anew')
            self._at += 1

    def _next_sign(self) -> str:
        """The next character that is not blank; the position moves to it."""
        while True:
            while self._at < len(self._buffer):
                if not self._buffer[self._at].isspace():
                    return self._buffer[self._at]
                self._at += 1
            if not self._refill():
                raise self._cut_short()

    def _value(self) -> Any:
        """The JSON value that begins here; the position moves behind it."""
        while True:
            try:
                value, self._at = self._decode(self._buffer, self._at)
                return value
            except RecursionError:
                raise self._error("is nested too deeply; get the file anew") from None
            except json.JSONDecodeError as error:
                # Cut off here: a string is left open, or nothing follows but a part of a word.
                rest = self._buffer[error.pos :]
                cut = error.msg.startswith("Unterminated string") or not set('{}[],:"') & set(rest)
                if not cut:
                    self._at = error.pos
                    raise self._error(f"is not valid JSON ({error.msg}); get the file anew") from None
                if not self._refill():
                    raise self._cut_short() from None

    def _refill(self) -> bool:
        """Drop what is decoded and read on; False at the end of the file."""
        rest = len(self._buffer) - self._at
        more = self._file.read(max(self._chunk, rest))  # at least doubles: a long value is retried few times
        self._passed += self._at
        self._buffer = self._buffer[self._at :] + more
        self._at = 0
        return bool(more)

    def _finish(self) -> None:
        self._at += 1
        while self._at < len(self._buffer) or self._refill():
            if self._buffer[self._at :].strip():
                raise self._error("goes on after its JSON object has ended; get the file anew")
            self._at = len(self._buffer)

    def _where(self) -> str:
        return f"after entry {self._last}" if self._last else "before any entry"

    def _error(self, what: str) -> InputError:
        return InputError(f"{self._path}: at character {self._passed + self._at} ({self._where()}) it {what}")

    def _cut_short(self) -> InputError:
        end = self._passed + len(self._buffer)
        return InputError(
            f"{self._path}: the file is cut short at character {end} ({self._where()}); get the file anew"
        )
