"""Notices work that keeps a core busy for long, and tells it from a machine that is busy."""

from __future__ import annotations

import threading
from time import perf_counter, thread_time

# Work that a step waits for takes long from here on.
SLOW_SECONDS = 0.05
# A thread's own time is read so often at most: that is a system call, and where all cores are busy
# it was seen to take 20 us, 30 times as long as else.
_FRESH_SECONDS = 0.005


class SlowWork(threading.local):
    """CPU time of work that takes long. A thread has its own of what an object says.

    Work that is soon done costs two looks at the wall clock.
    """

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._used = 0.0

    def begin(self) -> float:
        """Work begins; returns what `seconds_since` wants."""
        now = perf_counter()
        if now - self._read_at > _FRESH_SECONDS:
            self._read_at, self._used = now, thread_time()
        return now

    def seconds_since(self, started: float) -> float:
        """What the work that began last has taken, up to 5 ms too much; 0.0 if that is not long."""
        if perf_counter() - started <= SLOW_SECONDS:
            return 0.0
        used = thread_time() - self._used
        return used if used > SLOW_SECONDS else 0.0
