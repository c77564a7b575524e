"""Fills the masks of a step, by one thread while that is fast."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np

from ..cores import cores_of_rank
from . import slow_work
from .base import GrammarMatcher

# Most masks take a few microseconds: to hand them over would take longer. Those of bounded strings
# take a hundred times as long.
_ALONE_SECONDS = 0.0002
_MOST_THREADS = 8

Work = tuple[int, GrammarMatcher, np.ndarray]
Slow = list[tuple[int, float]]


class MaskFiller:
    """The thread that asks begins alone; what it has not come to soon is shared with others.

    The backends' libraries let go of Python's lock while they fill a mask.
    """

    def __init__(self, threads: int = 1) -> None:
        self._helpers = threads - 1
        self._pool = ThreadPoolExecutor(max(1, self._helpers), thread_name_prefix="masks")

    @classmethod
    def for_rank(cls, num_threads: int | None, ranks: int) -> MaskFiller:
        """For one of `ranks` processes that share `num_threads`, or all cores."""
        return cls(min(_MOST_THREADS, cores_of_rank(num_threads, ranks)))

    def fill(self, matchers: Sequence[GrammarMatcher], masks: Iterable[np.ndarray]) -> Slow:
        """Have each matcher, all of them distinct, fill its mask.

        Returns the places of those that took long, and how many seconds of CPU time that was.
        """
        left = deque(zip(range(len(matchers)), matchers, masks, strict=True))
        slow = _fill(left, perf_counter() + _ALONE_SECONDS)
        helping = [self._pool.submit(_fill, left) for _ in range(min(self._helpers, len(left) - 1))]
        slow += _fill(left)
        for helper in helping:
            slow += helper.result()
        return slow


def _fill(left: deque[Work], until: float = float("inf")) -> Slow:
    """Take one after the other off `left`, as other threads may do, until that time."""
    slow: Slow = []
    started = slow_work.begin()
    while left and started < until:
        try:
            place, matcher, mask = left.popleft()
        except IndexError:  # another thread was faster
            break
        matcher.fill_mask(mask)
        if seconds := slow_work.slow_seconds():
            slow.append((place, seconds))
        started = slow_work.begin()
    return slow
