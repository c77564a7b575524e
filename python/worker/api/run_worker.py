"""The life of a worker: start the engine, load the tokenizer meanwhile, serve, and end cleanly."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from ..config import ServerArgs
from ..messages import Ready
from ..tokenization.chat_template import ChatTemplateError
from ..tokenization.template_source import load_chat_template
from ..tokenization.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from .app import build_app
from .batch.runner import BatchRunner
from .daemon_thread import in_daemon_thread
from .engine_client import EngineClient
from .http_address import listen
from .http_server import HttpServer
from .scheduler_process import SchedulerProcess, StartError
from .service import WorkerService
from .start_report import StartReport

logger = logging.getLogger(__name__)

# The scheduler's last words may still be on their way when its end is known already.
_LAST_WORDS_SECONDS = 0.5


@dataclass(frozen=True)
class WorkerStart:
    """All that a worker is made of. `bound` is the socket that HTTP will listen on.

    Without a `tokenizer_path` it serves token ids alone.
    """

    server_args: ServerArgs
    tokenizer_path: Path | None
    scheduler: SchedulerProcess
    bound: socket.socket
    report: StartReport


async def run_worker(start: WorkerStart) -> int:
    """Serve until a signal or the scheduler's death; returns the exit code. Raises StartError."""
    signals = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, signals.set)
    signalled = asyncio.ensure_future(_wait_for(signals))
    death = in_daemon_thread(start.scheduler.wait_until_dead)
    starting = asyncio.ensure_future(_prepare(start))
    await asyncio.wait((starting, signalled, death), return_when=asyncio.FIRST_COMPLETED)
    if signalled.done():
        starting.cancel()
        return 0
    if death.done():
        await asyncio.wait((starting,), timeout=_LAST_WORDS_SECONDS)
        if not starting.done():
            starting.cancel()
            raise StartError(f"{death.result()} (while starting)")
    return await _serve(start, await starting, signalled, death)


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


async def _prepare(start: WorkerStart) -> WorkerService:
    """Wait for the engine and the tokenizer; the first of them that fails ends the start."""
    outputs = start.scheduler.async_outputs()
    engine_info, tokenizer = await asyncio.gather(
        start.scheduler.wait_until_ready(outputs, start.report),
        in_daemon_thread(lambda: _load_tokenizer(start)),
    )
    engine = EngineClient(start.scheduler.requests, outputs)
    return WorkerService(start.server_args, engine_info, tokenizer, engine, int(time.time()))


def _load_tokenizer(start: WorkerStart) -> Tokenizer | None:
    if start.tokenizer_path is None:
        return None
    try:
        template = start.server_args.chat_template
        source = None if template is None else load_chat_template(template)
        return load_tokenizer(start.tokenizer_path, source)
    except (TokenizerError, ChatTemplateError) as error:
        raise StartError(str(error)) from error


async def _serve(
    start: WorkerStart,
    service: WorkerService,
    signalled: asyncio.Future[None],
    death: asyncio.Future[str],
) -> int:
    def on_listening() -> None:
        start.report.ready(start.server_args.url(), _details(service.engine_info))

    receiving = asyncio.ensure_future(service.engine.receive_forever())
    access_log = start.server_args.log_level_http in ("debug", "info")
    app = build_app(service)
    batches = asyncio.ensure_future(BatchRunner(service, app).run())
    server = HttpServer(app, on_listening, access_log)
    listen(start.bound)
    serving = asyncio.ensure_future(server.serve([start.bound]))
    await asyncio.wait((serving, receiving, signalled, death), return_when=asyncio.FIRST_COMPLETED)
    failure = _failure(receiving, signalled, death)
    if failure is None:
        await _end(batches)  # before their requests fail: they are given back as if never begun
        service.engine.fail("The worker is shutting down", status=503)
    else:
        service.engine.fail(f"The engine is gone: {failure}", status=500)
        logger.error("the worker ends: %s", failure)
    server.stop()
    await serving
    await _end(batches)
    receiving.cancel()
    return 0 if failure is None else 1


async def _end(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


def _failure(
    receiving: asyncio.Future[None], signalled: asyncio.Future[None], death: asyncio.Future[str]
) -> str | None:
    """Why the worker ends, unless somebody wants it to."""
    if signalled.done():
        return None
    if death.done():
        return death.result()
    error = receiving.exception() if receiving.done() else None
    return f"its messages cannot be read: {error!r}" if error else "HTTP stopped"


def _details(engine_info: Ready) -> dict[str, object]:
    return {
        "task": "generate" if engine_info.embedding is None else "embed",
        "context_length": engine_info.context_length,
        "max_total_tokens": engine_info.max_total_tokens,
        "max_running_requests": engine_info.max_running_requests,
        "device": engine_info.device,
        "dtype": engine_info.dtype,
    }
