"""The one exception that a user's input can raise."""

from __future__ import annotations


class InputError(Exception):
    """Something that the user gave cannot be used.

    The message is one line: what is wrong, in which file and row or key, and what to do about it. The command
    line prints it as it is and exits with status 2, without a traceback.
    """


def one_line(error: object, longest: int | None = None) -> str:
    """What an exception or a text says, on one line.

    Args:
        error: An exception without words is called by its class.
        longest: Characters; a longer text ends in dots. None keeps it whole.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if longest is None or len(text) <= longest else f"{text[: longest - 3]}..."
