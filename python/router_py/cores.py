"""How workers on one machine share its cores."""

from __future__ import annotations

from worker.cores import usable_cores


def threads_per_worker(workers: int) -> int:
    """Computing threads that each of `workers` gets, so that together they use every core once."""
    return max(1, usable_cores() // workers)
