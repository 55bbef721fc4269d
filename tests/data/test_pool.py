"""The map over worker processes never waits for ever."""

import os
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from medslip.data.pool import mapper


def test_a_killed_worker_ends_the_map():
    """multiprocessing.Pool would wait for its result for ever."""
    with pytest.raises(BrokenProcessPool), mapper(2) as mapped:
        list(mapped(os._exit, [1, 1]))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_end_with_the_process_that_started_them(start):
    """A run that is killed for want of memory would leave workers that hold theirs."""
    code = f"""
import os
from medslip.data.pool import mapper
with mapper(2, {start!r}) as mapped:
    print(*mapped(eval, 20 * ["__import__('os').getpid()"]), flush=True)
    os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60, check=False)
    workers, until = set(map(int, done.stdout.split())), time.monotonic() + 20
    assert workers
    while any(os.path.exists(f"/proc/{worker}") for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.05)
