"""Notices work that keeps a core busy for long, and tells it from a machine that is busy.

Work that is soon done costs two looks at the wall clock.
"""

from __future__ import annotations

import threading
from time import perf_counter, thread_time

# Work that a step waits for takes long from here on.
SLOW_SECONDS = 0.05
# A thread's own time is read so often at most: that is a system call, and where all cores are busy
# it was seen to take 20 us, 30 times as long as else.
_FRESH_SECONDS = 0.005


class _Clock(threading.local):
    """Of one thread: when its work began, and when its own time was read last."""

    began = read_at = float("-inf")
    used = 0.0


_clock = _Clock()


def begin() -> float:
    """Work of this thread begins; returns the time as `perf_counter` gives it."""
    now = _clock.began = perf_counter()
    if now - _clock.read_at > _FRESH_SECONDS:
        _clock.read_at, _clock.used = now, thread_time()
    return now


def slow_seconds() -> float:
    """CPU time of this thread's work, up to 5 ms too much; 0.0 if that is not long."""
    if perf_counter() - _clock.began <= SLOW_SECONDS:
        return 0.0
    used = thread_time() - _clock.used
    return used if used > SLOW_SECONDS else 0.0
