"""A trace through one policy and a simulated fleet: the event loop, and what came out."""

from __future__ import annotations

import heapq
import statistics
from dataclasses import dataclass
from typing import Protocol

from .traces import Request, Trace
from .worker import Clock, Job, SimulatedWorker, WorkerSpec

BYTES_PER_TOKEN = 4
MAINTENANCE_SECONDS = 60.0


class Placement(Protocol):
    """What decides: the router's policies, or an oracle."""

    def assign(self, request: Request, block_tokens: int, now: float) -> tuple[int, object]:
        """The worker for a request, and a ticket for the two calls that follow."""
        ...

    def answered(self, ticket: object, now: float) -> None: ...

    def ended(self, ticket: object, now: float) -> None: ...

    def maintain(self) -> None: ...


@dataclass(frozen=True)
class Outcome:
    """How a policy did."""

    policy: str
    hit_rate: float
    """Prompt tokens from a cache, as a share of what one unbounded cache would have had."""
    load_max_to_mean: float
    """Requests of the busiest worker over the mean."""
    prefill_max_to_mean: float
    """Seconds of prefill of the busiest worker over the mean."""
    ttft_p50: float
    ttft_p99: float
    """Seconds."""


def specs(trace: Trace, workers: int, mixed: bool) -> list[WorkerSpec]:
    """The fleet for a trace; `mixed` has every other worker at half the speed."""
    default = WorkerSpec()
    spec = WorkerSpec(kv_tokens=trace.kv_tokens or default.kv_tokens).faster(trace.speed)
    return [spec.faster(0.5) if mixed and index % 2 else spec for index in range(workers)]


def at_load(trace: Trace, fleet: list[WorkerSpec]) -> Trace:
    """The trace at a pace that keeps the fleet as busy as `trace.load` says, were nothing computed
    twice: bigger fleets get it faster."""
    seconds = sum(
        fleet[0].prefill_seconds(hit, request.input_length) + fleet[0].step_overhead_seconds
        for request, hit in zip(trace.requests, trace.ideal_hits(), strict=True)
    )
    speed = sum(s.prefill_tokens_per_second for s in fleet) / fleet[0].prefill_tokens_per_second
    return trace.in_seconds(seconds / (trace.load * speed))


def replay(name: str, trace: Trace, fleet: list[WorkerSpec], placement: Placement) -> Outcome:
    """Runs all requests to their ends."""
    events: list[tuple[float, int, SimulatedWorker, int]] = []
    number = 0
    ttft: list[float] = []
    hit_tokens = 0

    def wake(when: float, worker: SimulatedWorker, wake_number: int) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (when, number, worker, wake_number))

    def first_token(now: float, _worker: SimulatedWorker, job: Job) -> None:
        nonlocal hit_tokens
        hit_tokens += job.hit_blocks * trace.block_tokens
        ttft.append(now - job.arrived)
        placement.answered(job.ticket, now)

    def ended(now: float, _worker: SimulatedWorker, job: Job) -> None:
        placement.ended(job.ticket, now)

    clock = Clock(wake, first_token, ended)
    workers = [SimulatedWorker(spec, trace.block_tokens, clock) for spec in fleet]
    maintenance = MAINTENANCE_SECONDS
    for request in trace.requests:
        while events and events[0][0] <= request.seconds:
            now, _, worker, wake_number = heapq.heappop(events)
            worker.wake(now, wake_number)
        if request.seconds >= maintenance:
            placement.maintain()
            maintenance = request.seconds + MAINTENANCE_SECONDS
        index, ticket = placement.assign(request, trace.block_tokens, request.seconds)
        workers[index].arrive(request.seconds, Job(request, request.seconds, ticket))
    while events:
        now, _, worker, wake_number = heapq.heappop(events)
        worker.wake(now, wake_number)
    assert len(ttft) == len(trace.requests), "every request is answered"
    percentiles = statistics.quantiles(ttft, n=100, method="inclusive")
    return Outcome(
        policy=name,
        hit_rate=hit_tokens / max(1, sum(trace.ideal_hits())),
        load_max_to_mean=_max_to_mean([worker.requests for worker in workers]),
        prefill_max_to_mean=_max_to_mean([worker.prefill_seconds for worker in workers]),
        ttft_p50=percentiles[49],
        ttft_p99=percentiles[98],
    )


def _max_to_mean(values: list[int] | list[float]) -> float:
    return max(values) / statistics.fmean(values)
