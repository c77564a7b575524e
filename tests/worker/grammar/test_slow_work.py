"""Work that keeps a core busy for long is noticed, waiting and short work are not."""

from __future__ import annotations

import threading
import time

import pytest

from worker.grammar import slow_work


@pytest.fixture(autouse=True)
def slow_from_20_ms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_work, "SLOW_SECONDS", 0.02)


def keep_busy(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_a_busy_core_is_told_from_one_that_waits() -> None:
    for work, busy in (
        (lambda: keep_busy(0.03), 0.03),
        (lambda: time.sleep(0.03), 0.0),
        (lambda: None, 0.0),
        (lambda: keep_busy(0.05), 0.05),
    ):
        slow_work.begin()
        work()
        seconds = slow_work.slow_seconds()
        assert seconds >= busy
        assert bool(seconds) == bool(busy)


def test_a_lot_of_short_work_is_not_long() -> None:
    for _ in range(20):
        slow_work.begin()
        keep_busy(0.006)
        assert slow_work.slow_seconds() == 0.0


def test_each_thread_has_its_own_time() -> None:
    found: list[float] = []

    def work() -> None:
        slow_work.begin()
        keep_busy(0.04)
        found.append(slow_work.slow_seconds())

    slow_work.begin()
    keep_busy(0.1)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(0.04 <= seconds < 0.1 for seconds in found)
