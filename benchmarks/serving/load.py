"""When requests are sent: as they arrive, or as fast as so many at a time allow."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .backends import Answer
from .workloads import Request

Send = Callable[[Request, float, float], Awaitable[Answer]]
"""Sends a request that was due then; its times count from the last argument on."""


@dataclass(frozen=True)
class Run:
    """All answers, and how much of a core this process took for them."""

    answers: list[Answer]
    duration_seconds: float
    client_cpu_seconds: float


def arrival_times(
    requests: Sequence[Request], rate: float | None, rng: np.random.Generator
) -> list[float]:
    """Seconds after the beginning: a Poisson process of `rate` requests a second, the first at 0.

    With an infinite rate all come at once; without one, when the workload says, else at once.
    """
    if rate is None:
        return [request.seconds or 0.0 for request in requests]
    if math.isinf(rate):
        return [0.0] * len(requests)
    gaps = rng.exponential(1 / rate, max(0, len(requests) - 1))
    return [0.0, *np.cumsum(gaps).tolist()][: len(requests)]


async def run(
    send: Send,
    requests: Sequence[Request],
    arrivals: Sequence[float],
    max_concurrency: int | None,
    on_answer: Callable[[Answer], None] = lambda answer: None,
) -> Run:
    """Send each request when it is due, at most `max_concurrency` at a time, until all ended."""
    places = contextlib.nullcontext()
    if max_concurrency is not None:
        places = asyncio.Semaphore(max_concurrency)
    answers: list[Answer] = []
    # The prompts are many objects: without this, a collection would hold up the clock.
    gc.collect()
    gc.freeze()
    cpu_before, origin = time.process_time(), time.perf_counter()

    async def one(request: Request, due: float) -> None:
        async with places:
            answer = await send(request, due, origin)
        answers.append(answer)
        on_answer(answer)

    try:
        async with asyncio.TaskGroup() as tasks:
            for request, due in zip(requests, arrivals, strict=True):
                wait = origin + due - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                tasks.create_task(one(request, due))
    finally:
        gc.unfreeze()
    seconds = time.perf_counter() - origin
    return Run(answers, seconds, time.process_time() - cpu_before)
