"""Notices a scheduler that hangs, and says where."""

from __future__ import annotations

import faulthandler
import logging
import sys
import threading
import time
from collections.abc import Callable

from .scheduler import Scheduler

logger = logging.getLogger(__name__)

# The scheduler is looked at so often within the timeout.
_LOOKS = 20


class Watchdog:
    """A thread that calls `on_hang` with the reason, once the stacks of all threads are on stderr,
    if the scheduler has requests, and launches no step for `timeout_seconds`. To wait for grammars
    is not to hang: each has its own time limit.

    It counts looks, not time, so that a process which was stopped for a while has not hung. Where
    the thread that hangs keeps the interpreter's lock, so that this one cannot look, Python's own
    timer prints the stacks and ends the process after twice the timeout.
    """

    def __init__(
        self, scheduler: Scheduler, timeout_seconds: float, on_hang: Callable[[str], object]
    ) -> None:
        self._scheduler = scheduler
        self._timeout_seconds = timeout_seconds
        self._on_hang = on_hang

    def start(self) -> None:
        """Watch from now on."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        steps, looks = -1, 0
        while looks < _LOOKS:
            faulthandler.dump_traceback_later(2 * self._timeout_seconds, exit=True)
            time.sleep(self._timeout_seconds / _LOOKS)
            scheduler = self._scheduler
            has_nothing_to_do = scheduler.is_idle or scheduler.waits_for_grammars
            if has_nothing_to_do or steps != scheduler.counters.steps:
                steps, looks = scheduler.counters.steps, 0
            else:
                looks += 1
        faulthandler.cancel_dump_traceback_later()
        reason = f"no step for {self._timeout_seconds:g} seconds, {self._situation()}"
        logger.critical("the scheduler hangs: %s; where its threads are:", reason)
        faulthandler.dump_traceback(sys.stderr)
        self._on_hang(reason)

    def _situation(self) -> str:
        scheduler, step = self._scheduler, self._scheduler.launched
        last = "no step followed the last one"
        if step is not None:
            last = (
                f"the last one decodes {len(step.decodes)} requests and prefills "
                f"{sum(map(len, step.prefills))} tokens of {len(step.prefills)} prompts"
            )
        return (
            f"with {scheduler.running_requests} requests running and {len(scheduler.waiting)} "
            f"waiting; {last}"
        )
