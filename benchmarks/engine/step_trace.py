"""A torch-profiler trace of some steps of our scheduler, and a table of what took the time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from worker.messages import TokenChunk
from worker.scheduler.scheduler import Scheduler

from .engines import Radixfleet
from .step_clock import StepClock, StepTime
from .trace_table import TraceTable
from .workloads import Batch, seconds

_STEPS = 16
_WARM_UP = 1  # steps that the profiler sees and forgets
_SPAN = "scheduler step"


def trace_batch(engine: Radixfleet, batch: Batch, path: Path) -> None:
    """Answer `batch`, from an empty prefix cache, up to the end of some traced steps: write their
    Chrome trace to `path` (.json.gz) and print a table of it.

    They are the first steps after all prompts are computed; where answers have but one token, the
    first steps of all.
    """
    engine.clear_prefix_cache()
    scheduler = engine.engine.scheduler
    decodes = max(batch.output_lengths) > 1

    def is_steady(last: StepTime) -> bool:
        return last.only_decodes and not scheduler.waiting and scheduler.partial is None

    trace = _Trace(scheduler, path, is_steady if decodes else None)
    try:
        with trace:
            seconds(engine, batch)
    except _TracedEnough:
        pass
    if not trace.steps:
        Console().print(f"{path.name}: too short an answer to be traced")
        return
    TraceTable.read(path, trace.steps).show(Console(width=130), path.name)
    print(f"trace: {path}")


class _TracedEnough(Exception):
    """What is left of the run is of no interest."""


class _Trace:
    """Records steps of `scheduler` within a `with` block; `steps` is how many were recorded.

    `begins` is asked after each step whether those from the next one on are wanted; None: all.
    """

    def __init__(
        self, scheduler: Scheduler, path: Path, begins: Callable[[StepTime], bool] | None
    ) -> None:
        self.steps = 0
        self._path = path
        self._begins = begins
        self._scheduler = scheduler
        self._clock = StepClock(scheduler)
        self._records = False
        self._seen = 0  # steps, by the profiler
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(
            activities=activities,
            schedule=schedule(wait=0, warmup=_WARM_UP, active=_STEPS, repeat=1),
            on_trace_ready=self._export,
            acc_events=True,
        )

    def __enter__(self) -> _Trace:
        self._clock.__enter__()
        self._step, self._scheduler.step = self._scheduler.step, self._recorded_step
        if self._begins is None:
            self._start()
            for _ in range(_WARM_UP):  # there is no step to spare
                self._profiler.step()
            self._seen = _WARM_UP
        return self

    def __exit__(self, *error: object) -> None:
        self._clock.__exit__()
        if self._records:
            self._profiler.stop()

    def _recorded_step(self) -> list[TokenChunk]:
        if not self._records:
            chunks = self._step()
            assert self._begins is not None
            if self._begins(self._clock.times[-1]):
                self._start()
            return chunks
        with record_function(_SPAN):
            chunks = self._step()
        self._seen += 1
        if self._seen in (_WARM_UP, _WARM_UP + _STEPS):
            _wait_for_device()  # it is to run what was launched in the recorded steps, and no more
        self._profiler.step()
        if self._seen == _WARM_UP + _STEPS:
            raise _TracedEnough
        return chunks

    def _start(self) -> None:
        self._records = True
        self._profiler.start()

    def _export(self, profiler: profile) -> None:
        self.steps = self._seen - _WARM_UP
        if not self.steps:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self._path))


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
