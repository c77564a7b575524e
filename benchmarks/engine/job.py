"""One engine in a process of its own: starts it, measures workloads, writes what it found as JSON.

    python -m benchmarks.engine.job JOB RESULT

JOB is a `Job` as JSON, RESULT the file to write.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .engines import ENGINES, OfflineEngine, Radixfleet
from .models import vocab_size
from .workloads import WORKLOADS, Sizes, Workload


@dataclass(frozen=True)
class Job:
    """`started` is the monotonic clock when the process was started; `workloads` all want the
    prefix cache on, or all off; `arguments` are the engine's own; `trace` is a folder.
    """

    engine: str
    model: str
    arguments: dict[str, Any]
    warmups: int
    repeats: int
    seed: int
    shrink: int
    trace: str | None
    workloads: list[str] = field(default_factory=list)
    prefix_cache: bool = False
    started: float = 0.0

    def to_json(self) -> str:
        """For the command line of the process."""
        return json.dumps(asdict(self))


@dataclass
class Measured:
    """One workload: a speed for each repetition, and what else is known of our own engine."""

    runs: list[float] = field(default_factory=list)
    details: dict[str, float] = field(default_factory=dict)


@dataclass
class JobResult:
    """Seconds count from the start of the process; `stages` says what the start consisted of."""

    version: str
    ready_seconds: float
    first_token_seconds: float
    stages: dict[str, float]
    measured: dict[str, Measured]

    @classmethod
    def from_json(cls, text: str) -> JobResult:
        """The reverse of what `main` writes."""
        content = json.loads(text)
        content["measured"] = {
            name: Measured(**measured) for name, measured in content["measured"].items()
        }
        return cls(**content)


def run_job(job: Job) -> JobResult:
    """Start the engine, answer one token, then measure each workload."""
    stages = StageTimes(job.started)
    arguments = dict(job.arguments)
    if job.engine == Radixfleet.name:
        arguments["progress"] = stages.progress
    engine = ENGINES[job.engine](job.model, job.prefix_cache, **arguments)
    try:
        ready = stages.end()
        engine.generate([[1, 2, 3]], [1], 0.0)
        first_token = time.monotonic() - job.started
        measured = {name: measure(engine, WORKLOADS[name], name, job) for name in job.workloads}
    finally:
        engine.close()
    return JobResult(engine.version, ready, first_token, stages.seconds, measured)


class StageTimes:
    """Seconds of each stage of a start, as its progress reports them."""

    def __init__(self, started: float) -> None:
        self.seconds: dict[str, float] = {}
        self._started = self._since = started
        self._stage = "importing"

    def progress(self, stage: str, fraction: float) -> None:
        """For the engine: `stage` is going on."""
        if stage != self._stage:
            self._close()
            self._stage = stage

    def end(self) -> float:
        """The start is over; returns the seconds of all of it."""
        self._close()
        return self._since - self._started

    def _close(self) -> None:
        now = time.monotonic()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._since = now


def measure(engine: OfflineEngine, workload: Workload, name: str, job: Job) -> Measured:
    """Warm up, repeat, and trace if that is wanted; every time with other prompts."""
    sizes = Sizes(np.random.default_rng(job.seed), vocab_size(job.model), job.shrink)
    measured = Measured()

    def once() -> float:
        batch = workload.make(sizes)
        engine.clear_prefix_cache()
        return workload.speed(engine, batch)

    for _ in range(job.warmups):
        once()
    if not isinstance(engine, Radixfleet):
        measured.runs = [once() for _ in range(job.repeats)]
        return measured
    from .step_clock import DecodeTimes, StepClock

    with StepClock(engine.engine.scheduler) as clock:
        measured.runs = [once() for _ in range(job.repeats)]
    if (decodes := DecodeTimes.of(clock.times)) is not None:
        measured.details = {"decode_step_ms": decodes.period, "decode_step_cpu_ms": decodes.cpu}
    if job.trace is not None:
        from .step_trace import trace_batch

        path = Path(job.trace) / f"{Path(job.model).name}-{name}.json.gz"
        trace_batch(engine, workload.make(sizes), path)
    return measured


def main(arguments: list[str]) -> None:
    job, result = arguments
    Path(result).write_text(json.dumps(asdict(run_job(Job(**json.loads(job))))))


if __name__ == "__main__":
    main(sys.argv[1:])
