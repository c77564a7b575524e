"""The workers of `launch_server`: started together, restarted when they die, stopped together."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .child_process import ChildProcess, Listener, StartFailedError, describe_exit
from .display import LineDisplay

DEATHS_BEFORE_GIVING_UP = 5


class FleetError(Exception):
    """The fleet cannot serve; the message is one line for the user."""


@dataclass(frozen=True)
class WorkerCommand:
    """How to start one worker, and where it will listen."""

    name: str
    command: Sequence[str]
    url: str
    environment: dict[str, str] = field(default_factory=dict)


class Fleet:
    """`restart_seconds` is the first pause before a restart; each death in a row doubles it."""

    def __init__(
        self, workers: Sequence[WorkerCommand], display: LineDisplay, restart_seconds: float = 1.0
    ) -> None:
        self._workers = workers
        self._display = display
        self._restart_seconds = restart_seconds
        self._children: dict[str, ChildProcess] = {}

    async def start(self) -> list[dict[str, Any]]:
        """Returns what each worker says of itself, when all are ready.

        Raises FleetError as soon as one fails.
        """
        for worker in self._workers:
            await self._spawn(worker)
        starts = [asyncio.create_task(self._first_start(worker)) for worker in self._workers]
        try:
            return await asyncio.gather(*starts)
        finally:
            for start in starts:
                start.cancel()

    async def keep(self) -> None:
        """Restart workers that die. Never returns; raises FleetError when none is left."""
        await asyncio.gather(*(self._keep(worker) for worker in self._workers))
        raise FleetError("no worker is left: each died too often")

    async def stop(self, grace_seconds: float) -> None:
        """End all workers: SIGTERM, then, after `grace_seconds`, SIGKILL."""
        await asyncio.gather(*(child.stop(grace_seconds) for child in self._children.values()))

    async def _spawn(self, worker: WorkerCommand) -> ChildProcess:
        listener = Listener(
            progress=functools.partial(self._display.progress, worker.name),
            line=functools.partial(self._display.line, worker.name),
        )
        child = await ChildProcess.spawn(worker.command, listener, worker.environment)
        self._children[worker.name] = child
        return child

    async def _first_start(self, worker: WorkerCommand) -> dict[str, Any]:
        try:
            details = await self._children[worker.name].ready()
        except StartFailedError as error:
            raise FleetError(f"{worker.name} could not start: {error}") from error
        self._display.progress(worker.name, "ready", 1.0)
        return details

    async def _keep(self, worker: WorkerCommand) -> None:
        """Returns when the worker has died too often in a row without being ready."""
        deaths = 0
        while True:
            code = await self._children[worker.name].exited()
            deaths += 1
            if deaths > DEATHS_BEFORE_GIVING_UP:
                self._display.note(f"{worker.name} is given up: {deaths} deaths in a row")
                return
            pause = self._restart_seconds * 2 ** (deaths - 1)
            self._display.note(
                f"{worker.name} at {worker.url} {describe_exit(code)}; restarting it in {pause:g} s"
            )
            await asyncio.sleep(pause)
            if await self._restart(worker):
                deaths = 0

    async def _restart(self, worker: WorkerCommand) -> bool:
        """Whether the worker became ready."""
        began = time.monotonic()
        child = await self._spawn(worker)
        try:
            await child.ready()
        except StartFailedError as error:
            self._display.note(f"{worker.name} could not start again: {error}")
            return False
        self._display.note(f"{worker.name} is ready again after {time.monotonic() - began:.1f} s")
        return True
