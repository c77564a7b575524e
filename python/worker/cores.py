"""How many cores this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may run on, which a container may have limited."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of_rank(num_threads: int | None, ranks: int) -> int:
    """How many threads each of `ranks` processes has that share `num_threads`, or all cores."""
    return max(1, (num_threads or usable_cores()) // ranks)
