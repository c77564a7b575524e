"""A torch-profiler trace of some steps of our scheduler, and a table of what took the time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from worker.messages import TokenChunk
from worker.scheduler.scheduler import Scheduler

from .engines import Radixfleet
from .step_clock import StepClock

_STEPS = 16
_WARM_UP = 2
_ROWS = 20
_SPAN = "scheduler step"
_SPANS = (_SPAN, "ProfilerStep")  # of many operations, not operations themselves
# CUDA calls in which the CPU waits for the device.
_WAITS = ("cudaEventSynchronize", "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpy")


@dataclass
class _Window:
    """Steps [first, first + steps) are recorded; `seconds` is their wall time."""

    first: int
    steps: int
    seconds: float = 0.0

    @classmethod
    def middle(cls, steps: int) -> _Window:
        """Of a run of so many steps."""
        recorded = min(_STEPS, steps)
        return cls((steps - recorded) // 2, recorded)


def trace_middle(engine: Radixfleet, run: Callable[[], Any], path: Path) -> None:
    """Profile some steps from the middle of `run`, write a Chrome trace to `path` (.json.gz) and
    print the kernels that took most time. `run` runs twice, from an empty prefix cache.
    """
    engine.clear_prefix_cache()
    with StepClock(engine.engine.scheduler) as clock:
        run()
    engine.clear_prefix_cache()
    _trace(engine.engine.scheduler, run, path, _Window.middle(len(clock.times)))


def _trace(scheduler: Scheduler, run: Callable[[], Any], path: Path, window: _Window) -> None:
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    warm_up = min(_WARM_UP, window.first)

    def report(profiler: profile) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(path))
        _print_table(profiler, window, path)

    profiler = profile(
        activities=activities,
        schedule=schedule(
            wait=window.first - warm_up, warmup=warm_up, active=window.steps, repeat=1
        ),
        on_trace_ready=report,
        acc_events=True,
    )
    step, numbers = scheduler.step, itertools.count()

    def profiled_step() -> list[TokenChunk]:
        started = time.perf_counter()
        with record_function(_SPAN):
            chunks = step()
        if 0 <= next(numbers) - window.first < window.steps:
            window.seconds += time.perf_counter() - started
        profiler.step()
        return chunks

    scheduler.step = profiled_step
    try:
        with profiler:
            run()
    finally:
        scheduler.step = step


def _print_table(profiler: profile, window: _Window, path: Path) -> None:
    events = profiler.key_averages()
    on_gpu = any(event.device_type == DeviceType.CUDA for event in events)
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    rows = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event)
        for event in events
        if event.device_type == kind and not event.key.startswith(_SPANS)
    ]
    rows.sort(key=lambda row: row[0], reverse=True)
    busy = sum(microseconds for microseconds, _ in rows)
    steps = window.steps
    busy_share = busy / 1e6 / window.seconds
    table = Table(
        "kernel" if on_gpu else "operator",
        "us a step",
        "share",
        "calls a step",
        title=f"{path.name}: {steps} steps of {1e3 * window.seconds / steps:.3f} ms, "
        f"{'device' if on_gpu else 'operators'} busy {busy_share:.0%}",
        title_justify="left",
    )
    for microseconds, event in rows[:_ROWS]:
        table.add_row(
            event.key[:90],
            f"{microseconds / steps:.1f}",
            f"{100 * microseconds / max(busy, 1e-9):.1f} %",
            f"{event.count / steps:.1f}",
        )
    console = Console(width=130)
    console.print(table)
    waits = {event.key: event.count / steps for event in events if event.key in _WAITS}
    shown = ", ".join(f"{name} {count:.1f}" for name, count in waits.items())
    console.print(f"waits for the device, calls a step: {shown or 'none'}")
    console.print(f"trace: {path}")
