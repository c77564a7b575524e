"""Fills the masks of a step, by one thread while that is fast."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter, thread_time

import numpy as np

from ..cores import cores_of_rank
from .base import GrammarMatcher

# Most masks take a few microseconds: to hand them over would take longer. Those of bounded strings
# take a hundred times as long.
_ALONE_SECONDS = 0.0002
_MOST_THREADS = 8

# To fill a mask takes long from here on; a step waits for it.
SLOW_SECONDS = 0.05

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
    now, used = perf_counter(), thread_time()
    while left and now < until:
        try:
            place, matcher, mask = left.popleft()
        except IndexError:  # another thread was faster
            break
        matcher.fill_mask(mask)
        before, now = now, perf_counter()
        if now - before > SLOW_SECONDS:  # or else the thread did not run
            used_before, used = used, thread_time()
            if used - used_before > SLOW_SECONDS:
                slow.append((place, used - used_before))
    return slow
