"""Text files with one entry a line, as publishers and users write lists."""

from __future__ import annotations

from pathlib import Path

from medslip.errors import InputError


def read_lines(path: Path, advice: str = "check the path") -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, without blanks at their ends.

    Args:
        path: A file in UTF-8.
        advice: What to do where there is no such file, for the message.

    Returns:
        (number in the file, from 1; text) of each.

    Raises:
        InputError: The file is missing, is no text, or has no line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: list not found; {advice}") from None
    except OSError as error:
        raise InputError(f"{path}: the list cannot be read ({error.strerror}); {advice}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text file in UTF-8, one entry a line") from None
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{path}: the list is empty")
    return lines
