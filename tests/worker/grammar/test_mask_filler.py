"""Masks are filled once each, and together where they take long."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from worker.grammar import slow_work
from worker.grammar.base import GrammarMatcher
from worker.grammar.mask_filler import MaskFiller


class Matcher(GrammarMatcher):
    def __init__(self, fill) -> None:
        self._fill = fill

    def accept(self, token: int) -> bool:
        raise NotImplementedError

    def fill_mask(self, mask: np.ndarray) -> None:
        self._fill()
        mask += 1

    @property
    def is_complete(self) -> bool:
        raise NotImplementedError

    def forced_text(self) -> bytes:
        raise NotImplementedError

    def rollback(self, count: int) -> None:
        raise NotImplementedError


def long() -> None:
    time.sleep(0.002)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("fill", [lambda: None, long])
@pytest.mark.parametrize("count", [0, 1, 2, 17])
def test_every_mask_is_filled_once(threads, fill, count):
    masks = np.zeros((count, 3), dtype=np.int32)
    MaskFiller(threads).fill([Matcher(fill) for _ in range(count)], masks)
    assert (masks == 1).all()


def test_those_that_keep_a_core_busy_for_long_are_named(monkeypatch):
    monkeypatch.setattr(slow_work, "SLOW_SECONDS", 0.01)

    def busy() -> None:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass

    fills = [long, busy, lambda: time.sleep(0.03), busy, long]
    for threads in (1, 3):
        slow = MaskFiller(threads).fill([Matcher(fill) for fill in fills], np.zeros((5, 1)))
        assert sorted(place for place, _ in slow) == [1, 3]
        assert all(seconds > 0.01 for _, seconds in slow)


def test_masks_that_take_long_are_filled_at_the_same_time():
    both = threading.Barrier(2, timeout=30)  # one thread alone would not come past it
    masks = np.zeros((3, 1), dtype=np.int32)
    MaskFiller(2).fill([Matcher(fill) for fill in (long, both.wait, both.wait)], masks)
    assert (masks == 1).all()


@pytest.mark.parametrize("place", range(4))
def test_what_a_matcher_raises_is_raised(place):
    def fail() -> None:
        raise RuntimeError("no mask")

    matchers = [Matcher(fail if i == place else long) for i in range(4)]
    with pytest.raises(RuntimeError, match="no mask"):
        MaskFiller(3).fill(matchers, np.zeros((4, 1), dtype=np.int32))
