"""Torch-profiler traces of the steps that a running engine computes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

logger = logging.getLogger(__name__)

_ACTIVITIES = {"CPU": ProfilerActivity.CPU, "GPU": ProfilerActivity.CUDA}


class ProfilerError(RuntimeError):
    """There is nothing to stop, or nothing can be started; one line for the user."""


class StepProfiler:
    """At most one trace at a time, of all that the thread which starts it does."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._profile: profile | None = None
        # Of the trace that is being made, or that has ended by itself.
        self._path: Path | None = None
        self._steps_left: int | None = None

    def start(
        self,
        path: Path,
        *,
        num_steps: int | None = None,
        activities: Sequence[str] = (),
        with_stack: bool = False,
        record_shapes: bool = False,
    ) -> None:
        """Trace what comes, to be written to `path` by `stop`, or as soon as `num_steps` are over.

        `activities` are "CPU" and "GPU", by default all that the device has. `with_stack` adds
        Python's functions. Raises ProfilerError if a trace is being made, for a GPU that is not
        there, and for a folder that cannot be made.
        """
        if self._profile is not None:
            raise ProfilerError(f"a profile is being made already, for {self._path}")
        on_gpu = self._device.type == "cuda"
        if "GPU" in activities and not on_gpu:
            raise ProfilerError("the activity GPU cannot be traced: the model runs on a CPU")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except (OSError, ValueError) as error:  # ValueError: a name with a null character
            raise ProfilerError(f"the trace cannot be written: {error}") from None
        wanted = activities or (["CPU", "GPU"] if on_gpu else ["CPU"])
        started = profile(
            activities=[_ACTIVITIES[name] for name in wanted],
            with_stack=with_stack,
            record_shapes=record_shapes,
            acc_events=True,
        )
        started.start()
        self._profile, self._path, self._steps_left = started, path, num_steps

    def after_step(self) -> None:
        """A step was launched."""
        if self._profile is None or self._steps_left is None:
            return
        self._steps_left -= 1
        if self._steps_left == 0:
            try:
                self._write()
            except ProfilerError as error:
                logger.error("%s", error)
                self._path = None

    def stop(self) -> Path:
        """End the trace; returns where it was written. Of one that has ended by itself, the same.

        Raises ProfilerError if there is none, or if it cannot be written.
        """
        try:
            if self._profile is not None:
                self._write()
            if self._path is None:
                raise ProfilerError("no profile is being made")
            return self._path
        finally:
            self._path = None

    def _write(self) -> None:
        assert self._profile is not None
        ended, self._profile = self._profile, None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        try:
            ended.stop()
            ended.export_chrome_trace(str(self._path))
        except (OSError, RuntimeError) as error:
            raise ProfilerError(f"the trace cannot be written: {error}") from error
        logger.info("a trace was written to %s", self._path)
