"""Rows on workers that fail: what clients see, and when a worker is used again; at defaults."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress

from .load import run_load
from .routers import RunningRouter
from .row import Bench, Contestant, Figures, Measure, Reach, row

# Clients ask at this rate, and give up after this.
RATE = 100
PATIENCE_SECONDS = 5

# How long clients go on asking for a worker to be used again.
WAIT_SECONDS = 75


class _Seen(Exception):
    """The load has served its purpose."""


def _open_loop(router: RunningRouter, seconds: float) -> list[str]:
    target = ["--target", router.address, "--rate", str(RATE), "--seconds", str(seconds)]
    return ["open", *target, "--patience-seconds", str(PATIENCE_SECONDS)]


def _hang(bench: Bench, contestant: Contestant, mode: str) -> Figures:
    """One of four workers hangs from the first second on, to the end."""
    hanging_seconds = bench.seconds(10)
    hung_ns = 0

    def on_event(event: str, _at_ns: int) -> None:
        nonlocal hung_ns
        if event == "measuring":
            time.sleep(1)
            bench.workers.mode(0, mode)
            hung_ns = time.monotonic_ns()

    with bench.router(contestant, "round_robin") as router:
        load = _open_loop(router, 1 + hanging_seconds)
        result = run_load(load, bench.cores.load, on_event)
    # A request that was with the worker when it hung began a little earlier.
    failed = [began for began in result["failed_ns"] if began > hung_ns - 1e8]
    return {
        "failed": 100 * len(failed) / (RATE * hanging_seconds),
        "failing for": (max(failed) - hung_ns) / 1e9 if failed else 0.0,
    }


@row(
    "hang",
    "a worker accepts and never answers, 10 s",
    Measure("failed", "%"),
    Measure("failing for", "s", Reach(2)),
    slow=True,
)
def hang(bench: Bench, contestant: Contestant) -> Figures:
    return _hang(bench, contestant, "hang")


@row(
    "hang-generation",
    "the same, but /health answers",
    Measure("failed", "%"),
    Measure("failing for", "s", Reach(2)),
    slow=True,
)
def hang_generation(bench: Bench, contestant: Contestant) -> Figures:
    return _hang(bench, contestant, "hang_generation")


def _wait_until_used(bench: Bench, since_ns: int) -> float:
    """Seconds until the first worker got a request; infinite if it got none for too long."""
    limit = bench.seconds(WAIT_SECONDS)
    while True:
        used_ns = bench.workers.stats()[0]["first_request_ns"]
        if used_ns:
            return max(used_ns - since_ns, 0) / 1e9
        if time.monotonic_ns() - since_ns > limit * 1e9:
            return math.inf
        time.sleep(0.02)


def _used_after(
    bench: Bench, router: RunningRouter, bring_up: Callable[[], int], warm_up_seconds: float
) -> Figures:
    """Under load: `bring_up` brings the first worker up and says when."""
    used_after = math.inf

    def on_event(_event: str, _at_ns: int) -> None:
        nonlocal used_after
        used_after = _wait_until_used(bench, bring_up())
        raise _Seen

    load = _open_loop(router, WAIT_SECONDS + 30)
    with suppress(_Seen):
        run_load([*load, "--warm-up-seconds", str(warm_up_seconds)], bench.cores.load, on_event)
    return {"used after": used_after}


@row(
    "back",
    "a worker is down for 2 s: used again after it is up",
    Measure("used after", "s", Reach(1)),
    slow=True,
)
def back(bench: Bench, contestant: Contestant) -> Figures:
    def bring_up() -> int:
        bench.workers.mode(0, "down")
        time.sleep(2)
        bench.workers.mode(0, "serve")
        return time.monotonic_ns()

    with bench.router(contestant, "round_robin") as router:
        return _used_after(bench, router, bring_up, warm_up_seconds=1)


@row(
    "late",
    "a worker comes up 3 s after the router: used after it is up",
    Measure("used after", "s", Reach(0.5)),
    slow=True,
)
def late(bench: Bench, contestant: Contestant) -> Figures:
    bench.workers.mode(0, "down")
    with bench.starting(contestant, "round_robin") as router:

        def bring_up() -> int:
            time.sleep(max(0.0, router.started + 3 - time.monotonic()))
            bench.workers.mode(0, "serve")
            return time.monotonic_ns()

        return _used_after(bench, router, bring_up, warm_up_seconds=0)
