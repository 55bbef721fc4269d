"""The exceptions that the command line turns into one line."""

from __future__ import annotations

import signal


class InputError(Exception):
    """Invalid input: a file, a value or a config key that the user can correct.

    The message is one line: what is wrong, in which file and row or key, and what to do about it. The command line prints
    it and exits with status 2, without a traceback.
    """


STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""By which schedulers announce the end of a job, and a terminal that it closes; Windows has the first only."""


class Stopped(Exception):
    """A signal stopped a training run after its state was saved; the command line exits with status 75."""


class NotFinite(Exception):
    """A loss, gradient or weight of a training run is not finite, and was not saved; the command line exits with status 1."""


def check_at_least(config: object, section: str = "", **least: int) -> None:
    """Check that numbers of a config are not too small.

    Args:
        config: A config dataclass.
        section: The keys above, as in "train.".
        least: Key -> the smallest number allowed.

    Raises:
        InputError: A number is too small; the message names its key.
    """
    for name, smallest in least.items():
        if getattr(config, name) < smallest:
            raise InputError(f"{section}{name}: {getattr(config, name)} is less than {smallest}")


def one_line(error: object, longest: int | None = None) -> str:
    """The message of an exception, or a text, on one line.

    Args:
        error: An exception without a message gives the name of its class.
        longest: Maximum number of characters; a longer text is cut and ends in dots. None keeps all of it.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if longest is None or len(text) <= longest else f"{text[: longest - 3]}..."
