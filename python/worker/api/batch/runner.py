"""Runs batches: this worker's share of their lines, and their beginnings and ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp

from ..daemon_thread import in_daemon_thread
from ..errors import ApiError
from ..service import WorkerService
from .batch_record import BatchRecord
from .input_file import check_input
from .lease import RENEW_SECONDS
from .line_client import LineClient
from .line_store import FinishedLine, TakenLine
from .pace import Pace
from .result_files import end_batch, unanswered

logger = logging.getLogger(__name__)

# How soon a worker sees what others do.
_LOOK_SECONDS = 1.0
_RETRY_SECONDS = 5.0
_SWEEP_SECONDS = 3600.0
# More would make the engine hardly faster and other requests slower; each has its body in memory.
_MOST_LINES = 256
_MOST_LINES_ON_CPU = 32
# For giving lines back at the end. Without it they are others' when the lease is over.
_GOODBYE_SECONDS = 0.2


class BatchRunner:
    """Several loops, each with one duty. What they share is on disk; the lines that run are here.

    Lines that run when the worker ends are begun again, by whoever is there.
    """

    def __init__(self, service: WorkerService, app: ASGIApp) -> None:
        self._name = f"worker-{uuid.uuid4().hex}"
        self._storage = service.storage
        self._engine = service.engine
        self._client = LineClient(app, service.server_args.api_key)
        self._pace = Pace(service.engine)
        info = service.engine_info
        most = _MOST_LINES_ON_CPU if info.device == "cpu" else _MOST_LINES
        self._most_lines = min(most, info.max_running_requests)
        self._lines: dict[asyncio.Task[None], TakenLine] = {}
        self._results: list[tuple[FinishedLine, asyncio.Future[None]]] = []
        self._batch: BatchRecord | None = None
        self._has_lines = asyncio.Event()
        self._has_batches = asyncio.Event()
        self._has_results = asyncio.Event()
        self._has_room = asyncio.Event()

    async def run(self) -> None:
        """For the life of the worker: it ends when it is cancelled, and gives its lines back."""
        duties = (
            self._look_around,
            self._begin_and_end_batches,
            self._start_lines,
            self._keep_results,
            self._renew_lease,
            self._sweep,
        )
        try:
            await asyncio.gather(*map(_forever, duties))
        finally:
            await self._give_up()

    # ===== duties: each is done again and again =====

    async def _look_around(self) -> None:
        """See what there is to do, in this worker or by others."""
        if not self._storage.is_used:
            await self._storage.news(_LOOK_SECONDS)
            return
        batches = await self._storage.batches.unended()
        running = [batch for batch in batches if batch.status == "in_progress"]
        self._stop_lines_except({batch.id for batch in running})
        if any(batch.model == self._storage.model for batch in running):
            self._has_lines.set()
        if len(running) < len(batches):
            self._has_batches.set()
        await self._storage.news(_LOOK_SECONDS)

    async def _begin_and_end_batches(self) -> None:
        """Validate a batch, or write its files, while no other worker does."""
        await self._has_batches.wait()
        self._has_batches.clear()
        while (batch := await self._storage.batches.take(self._name)) is not None:
            self._batch = batch
            try:
                await self._go_on_with(batch)
            finally:
                self._batch = None
            self._storage.tell()

    async def _go_on_with(self, batch: BatchRecord) -> None:
        storage = self._storage
        if batch.status == "validating":
            path = storage.files.path(batch.input_file_id)
            checked = await in_daemon_thread(lambda: check_input(path, batch.endpoint))
            await storage.batches.validated(batch, checked)
        else:
            await end_batch(storage.database, storage.files, storage.batches, batch)

    async def _start_lines(self) -> None:
        """As many as the engine takes without making others wait."""
        await self._has_lines.wait()
        while len(self._lines) >= self._most_lines:
            self._has_room.clear()
            await self._has_room.wait()
        burst = min(await self._pace.next_burst(), self._most_lines - len(self._lines))
        lines = await self._storage.lines.take(self._name, burst)
        if not lines:
            self._has_lines.clear()
        for line in lines:
            task = asyncio.ensure_future(self._run_line(line))
            self._lines[task] = line
            task.add_done_callback(self._line_is_over)
            await asyncio.sleep(0)  # streams of others go on between them

    async def _keep_results(self) -> None:
        """All that have come while the last were written, in one transaction."""
        while not self._results:
            self._has_results.clear()
            await self._has_results.wait()
        results = list(self._results)
        is_last = await self._storage.lines.finish([finished for finished, _ in results])
        del self._results[: len(results)]
        for _, kept in results:
            if not kept.done():
                kept.set_result(None)
        if is_last:
            self._storage.tell()

    async def _renew_lease(self) -> None:
        """As long as there is something to keep from others."""
        await asyncio.sleep(RENEW_SECONDS)
        if self._lines or self._batch is not None:
            await self._storage.lines.renew(self._name)

    async def _sweep(self) -> None:
        with contextlib.suppress(ApiError):  # the storage's log says why; it can wait
            if self._storage.is_used:
                await self._storage.sweep()
        await asyncio.sleep(_SWEEP_SECONDS)

    # ===== lines =====

    async def _run_line(self, line: TakenLine) -> None:
        """Returns when its result is kept."""
        try:
            finished = await self._client.finish(line)
        except Exception:
            logger.exception("%s: line %d failed", line.batch, line.number)
            message = "The worker failed to compute this request; its log says why"
            result = unanswered(line.custom_id, "internal_error", message)
            finished = FinishedLine(line, False, result)
        if self._engine.is_gone and not finished.succeeded:
            return  # which is no failure of the line, unless it happens again and again
        kept = asyncio.get_running_loop().create_future()
        self._results.append((finished, kept))
        self._has_results.set()
        await kept

    def _stop_lines_except(self, batches: set[str]) -> None:
        """Give up what is of no batch that runs."""
        for task, line in self._lines.items():
            if line.batch not in batches:
                task.cancel()

    def _line_is_over(self, task: asyncio.Task[None]) -> None:
        del self._lines[task]
        self._has_room.set()

    async def _give_up(self) -> None:
        """Others may go on with what runs here. If the engine has died of it, that counts."""
        lines = [] if self._engine.is_gone else list(self._lines.values())
        for task in self._lines:
            task.cancel()
        if self._storage.is_used:
            goodbye = asyncio.ensure_future(self._storage.lines.give_up(self._name, lines))
            await asyncio.wait((goodbye,), timeout=_GOODBYE_SECONDS)


async def _forever(duty: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await duty()
        except ApiError:  # the storage's log says why
            await asyncio.sleep(_RETRY_SECONDS)
        except Exception:
            logger.exception("batches do not go on for %g seconds", _RETRY_SECONDS)
            await asyncio.sleep(_RETRY_SECONDS)
