"""How long our scheduler's steps take, and how much of that is waiting for the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from worker.messages import TokenChunk
from worker.runtime.step_result import PendingResult, StepResult
from worker.scheduler.scheduler import Scheduler
from worker.scheduler.step import Step


@dataclass(frozen=True)
class StepTime:
    """One call of `Scheduler.step`: what it launched, and where its seconds went.

    With overlapped scheduling `waited` is for the step that was launched before this one.
    """

    prefill_tokens: int
    decodes: int
    ended: float
    seconds: float
    waited: float

    @property
    def cpu_seconds(self) -> float:
        """Planning, launching and taking tokens; on a CPU the model's computation, too."""
        return self.seconds - self.waited

    @property
    def only_decodes(self) -> bool:
        """No prompt was part of it."""
        return self.decodes > 0 and self.prefill_tokens == 0


class StepClock:
    """Times every step of `scheduler` within a `with` block; `times` has one entry a step."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.times: list[StepTime] = []
        self._scheduler = scheduler
        self._step, self._launch = scheduler.step, scheduler._launch
        self._launched: Step | None = None
        self._waited = 0.0

    def __enter__(self) -> StepClock:
        self._scheduler.step = self._timed_step
        self._scheduler._launch = self._noted_launch
        return self

    def __exit__(self, *error: object) -> None:
        self._scheduler.step, self._scheduler._launch = self._step, self._launch

    def _timed_step(self) -> list[TokenChunk]:
        self._launched, self._waited = None, 0.0
        started = time.perf_counter()
        chunks = self._step()
        ended = time.perf_counter()
        prefills = self._launched.prefills if self._launched else ()
        self.times.append(
            StepTime(
                prefill_tokens=sum(map(len, prefills)),
                decodes=len(self._launched.decodes) if self._launched else 0,
                ended=ended,
                seconds=ended - started,
                waited=self._waited,
            )
        )
        return chunks

    def _noted_launch(self, step: Step) -> PendingResult:
        self._launched = step
        return _TimedWait(self._launch(step), self)

    def wait_for(self, pending: PendingResult) -> StepResult:
        """The result, once it is there; the time until then counts as waiting."""
        started = time.perf_counter()
        result = pending.wait()
        self._waited += time.perf_counter() - started
        return result


@dataclass(frozen=True)
class _TimedWait:
    pending: PendingResult
    clock: StepClock

    def wait(self) -> StepResult:
        return self.clock.wait_for(self.pending)


@dataclass(frozen=True)
class DecodeTimes:
    """Medians over the steps that only decoded, in milliseconds; `period` is from end to end."""

    steps: int
    period: float
    cpu: float

    @classmethod
    def of(cls, times: Sequence[StepTime], at_least: int = 1) -> DecodeTimes | None:
        """Of steps with `at_least` so many requests; None if there were no two in a row."""
        pairs = [
            (last, step)
            for last, step in pairwise(times)
            if last.only_decodes and step.only_decodes and step.decodes >= at_least
        ]
        if not pairs:
            return None
        return cls(
            steps=len(pairs),
            period=1e3 * statistics.median(step.ended - last.ended for last, step in pairs),
            cpu=1e3 * statistics.median(step.cpu_seconds for _, step in pairs),
        )
