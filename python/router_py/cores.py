"""How workers on one machine share its cores."""

from __future__ import annotations

import os


def threads_per_worker(workers: int) -> int:
    """Computing threads that each of `workers` gets, so that together they use every core once."""
    return max(1, usable_cores() // workers)


def usable_cores() -> int:
    """Cores that this process may run on, which a container may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
