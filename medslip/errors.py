"""The one exception that a user's input can raise."""

from __future__ import annotations


class InputError(Exception):
    """Something that the user gave cannot be used.

    The message is one line: what is wrong, in which file and row or key, and what to do about it. The command
    line prints it as it is and exits with status 2, without a traceback.
    """
