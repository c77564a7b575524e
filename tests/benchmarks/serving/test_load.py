"""Requests are sent when they are due, and no more at a time than allowed."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from benchmarks.serving.backends import Answer
from benchmarks.serving.load import arrival_times, run
from benchmarks.serving.workloads import Request


def requests(count: int, seconds: float | None = None) -> list[Request]:
    return [Request(f"{i}", 1, 1, seconds and seconds * i) for i in range(count)]


def test_a_rate_is_a_poisson_process():
    times = arrival_times(requests(5000), 8.0, np.random.default_rng(1))
    gaps = np.diff(times)
    assert times[0] == 0
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1 / 8, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 8, rel=0.05)
    assert times == arrival_times(requests(5000), 8.0, np.random.default_rng(1))


def test_without_a_rate_the_workload_says_when():
    rng = np.random.default_rng(1)
    assert arrival_times(requests(3, seconds=2.0), None, rng) == [0, 2, 4]
    assert arrival_times(requests(3), None, rng) == [0, 0, 0]
    assert arrival_times(requests(3, seconds=2.0), math.inf, rng) == [0, 0, 0]
    assert arrival_times([], 1.0, rng) == []


@pytest.mark.parametrize(("limit", "most"), [(None, 10), (3, 3)])
async def test_so_many_at_a_time(limit, most):
    under_way: set[str] = set()
    seen = []

    async def send(request: Request, due: float, origin: float) -> Answer:
        under_way.add(request.prompt)
        seen.append(len(under_way))
        for _ in range(5):
            await asyncio.sleep(0)
        under_way.remove(request.prompt)
        return Answer(request, due)

    heard = []
    done = await run(send, requests(10), [0.0] * 10, limit, heard.append)
    assert max(seen) == most
    assert {answer.request.prompt for answer in done.answers} == {f"{i}" for i in range(10)}
    assert heard == done.answers


async def test_nothing_is_sent_before_it_is_due():
    sent = []

    async def send(request: Request, due: float, origin: float) -> Answer:
        sent.append((request.prompt, due, asyncio.get_running_loop().time()))
        return Answer(request, due)

    await run(send, requests(3), [0.0, 0.03, 0.05], None)
    assert [name for name, _, _ in sent] == ["0", "1", "2"]
    (_, _, first), *others = sent
    assert all(at - first > 0.9 * due for _, due, at in others)
