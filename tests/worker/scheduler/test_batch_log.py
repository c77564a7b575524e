"""The log's lines about batches say what the steps were."""

from __future__ import annotations

import logging
import re

import pytest

from worker.scheduler.batch_log import BatchLog

from .fake_engine import FakeEngine

SECONDS_A_STEP = 0.5


class Logged:
    """An engine whose steps take SECONDS_A_STEP, and its log."""

    def __init__(self, interval: int, **options) -> None:
        self.engine = FakeEngine(**options)
        self.now = 100.0
        self.log = BatchLog(self.engine.scheduler, interval, clock=lambda: self.now)

    def run(self) -> None:
        while not self.engine.scheduler.is_idle:
            self.engine.step()
            self.now += SECONDS_A_STEP
            self.log.after_step()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, logger="worker.scheduler.batch_log")
    return lambda kind: [line for line in caplog.messages if line.startswith(f"{kind} batch. ")]


def test_a_decode_line_comes_after_so_many_decode_steps(lines) -> None:
    logged = Logged(interval=4, total_tokens=100)
    for i in range(2):
        logged.engine.add(f"r{i}", [1, 2 + i, 3], max_new_tokens=9)  # eight of them by decode steps
    logged.run()
    first, second = lines("Decode")
    assert re.fullmatch(
        r"Decode batch\. #running-req: 2, #token: \d+, token usage: 0\.\d\d, "
        r"gen throughput \(token/s\): 4\.00, #queue-req: 0",
        first,
    )
    assert "#token: 13, token usage: 0.13" in first  # one of the two prompts' tokens is shared
    assert "gen throughput (token/s): 4.00" in second


def test_a_prefill_line_says_what_is_computed_and_what_was_cached(lines) -> None:
    logged = Logged(interval=40, chunked_prefill_size=8)
    prompt = list(range(20))
    logged.engine.add("a", prompt, max_new_tokens=1)
    logged.run()
    logged.engine.add("b", [*prompt, 42], max_new_tokens=1)
    logged.run()
    new = [
        re.findall(r"#new-seq: (\d+), #new-token: (\d+), #cached-token: (\d+)", line)
        for line in lines("Prefill")
    ]
    assert new == [[("1", "8", "0")], [("1", "8", "0")], [("1", "4", "0")], [("1", "1", "20")]]
    assert "cache hit rate: 48.78%" in lines("Prefill")[-1]  # 20 of 41
    assert not lines("Decode")


def test_idle_time_is_no_part_of_the_throughput(lines) -> None:
    logged = Logged(interval=4)
    for i in range(4):
        logged.engine.add(f"r{i}", [i], max_new_tokens=3)  # two decode steps each
        logged.run()
        assert logged.log.throughput == 0.0
        logged.now += 1000.0
    for line in lines("Decode"):
        assert "gen throughput (token/s): 2.00" in line
    assert len(lines("Decode")) == 2


def test_the_throughput_of_a_busy_scheduler_is_that_of_its_last_line() -> None:
    logged = Logged(interval=2)
    logged.engine.add("r", [1], max_new_tokens=50)
    for _ in range(10):
        logged.engine.step()
        logged.now += SECONDS_A_STEP
        logged.log.after_step()
    assert logged.log.throughput == pytest.approx(2.0)
