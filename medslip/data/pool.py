"""A map over worker processes, which ends with the first error, the death of a worker or that of this process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any


@contextmanager
def mapper(workers: int, start: str | None = None) -> Iterator[Callable[..., Iterator[Any]]]:
    """Give a function like map: results in order, computed by worker processes.

    Args:
        workers: Worker processes; 0 works in this one.
        start: How they are started, such as "spawn"; None takes Python's default.

    Raises:
        BrokenProcessPool: A worker was killed.
    """
    if not workers:
        yield map
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context(start), _begin)
    try:
        yield partial(pool.map, chunksize=8)
    finally:
        # After an error, do not begin what remains.
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all, and the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if torch := sys.modules.get("torch"):  # drawing phantoms does without it
        torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker waits for work for ever, even if the process that would give it has been killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
