"""A worker's HTTP server in the loop of the test, with a scripted scheduler behind it."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
import zmq
import zmq.asyncio

from worker.api.app import build_app
from worker.api.batch.runner import BatchRunner
from worker.api.engine_client import EngineClient
from worker.api.http_address import bind, listen
from worker.api.http_server import HttpServer
from worker.api.service import WorkerService
from worker.config import ServerArgs
from worker.messages import EmbeddingInfo
from worker.tokenization.tokenizer import Tokenizer, load_tokenizer

from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from ..tokenization.wordpiece_tokenizer import write_wordpiece_tokenizer
from .embedding_models import EMBEDS, animals
from .fake_scheduler import READY, FakeScheduler, embed_with


@dataclasses.dataclass(frozen=True)
class RunningWorker:
    """What a test needs to talk to the worker, and to be its scheduler."""

    url: str
    http: httpx.AsyncClient
    scheduler: FakeScheduler
    service: WorkerService
    batches: asyncio.Future[None]

    def openai(self, api_key: str = "none") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0)

    def ids(self, text: str) -> list[int]:
        return self.service.tokenizer.encode(text)


StartWorker = Callable[..., Any]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
async def start_worker(tokenizer: Tokenizer, tmp_path: Path) -> AsyncIterator[StartWorker]:
    """Call it with server arguments, `ready=` for other limits, `tokenizer=` for another one."""
    async with AsyncExitStack() as stack:

        async def start(*, ready: dict[str, Any] | None = None, **arguments: Any) -> RunningWorker:
            chosen = arguments.pop("tokenizer", tokenizer)
            arguments = {"file_storage_path": str(tmp_path / "storage"), **arguments}
            server_args = ServerArgs(model_path="tiny", host="127.0.0.1", **arguments)
            engine_info = msgspec.structs.replace(READY, **(ready or {}))
            return await stack.enter_async_context(_running(server_args, engine_info, chosen))

        yield start


@pytest.fixture
async def worker(start_worker: StartWorker) -> RunningWorker:
    """One with default arguments."""
    return await start_worker()


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_wordpiece_tokenizer(tmp_path_factory.mktemp("wordpiece")))


@pytest.fixture
def start_embedding(start_worker: StartWorker, wordpiece: Tokenizer) -> StartWorker:
    """Call it with what the model answers with, `ready=` and server arguments."""

    async def start(info: EmbeddingInfo = EMBEDS, **arguments: Any) -> RunningWorker:
        ready = {"embedding": info, **arguments.pop("ready", {})}
        return await start_worker(ready=ready, tokenizer=wordpiece, **arguments)

    return start


@pytest.fixture
async def embeds(start_embedding: StartWorker) -> RunningWorker:
    """One whose model makes the points of `animals`."""
    worker = await start_embedding()
    worker.scheduler.embed_script = embed_with(animals)
    return worker


@asynccontextmanager
async def _running(
    server_args: ServerArgs, engine_info: Any, tokenizer: Tokenizer
) -> AsyncIterator[RunningWorker]:
    context = zmq.asyncio.Context()
    sockets = {}
    for name, kind, role in (
        ("requests", zmq.PUSH, "bind"),
        ("outputs", zmq.PULL, "bind"),
        ("inbox", zmq.PULL, "connect"),
        ("outbox", zmq.PUSH, "connect"),
    ):
        sockets[name] = context.socket(kind)
        sockets[name].set_hwm(0)
        channel = "requests" if name in ("requests", "inbox") else "outputs"
        getattr(sockets[name], role)(f"inproc://{channel}")
    engine = EngineClient(zmq.Socket.shadow(sockets["requests"]), sockets["outputs"])
    scheduler = FakeScheduler(sockets["inbox"], sockets["outbox"])
    service = WorkerService(server_args, engine_info, tokenizer, engine, created=1_700_000_000)
    listening = asyncio.Event()
    app = build_app(service)
    server = HttpServer(app, listening.set)
    bound: socket.socket = bind("127.0.0.1", 0)
    listen(bound)
    tasks = [
        asyncio.ensure_future(engine.receive_forever()),
        asyncio.ensure_future(scheduler.run()),
    ]
    batches = asyncio.ensure_future(BatchRunner(service, app).run())
    serving = asyncio.ensure_future(server.serve([bound]))
    await listening.wait()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
            yield RunningWorker(url, http, scheduler, service, batches)
    finally:
        batches.cancel()
        await asyncio.wait((batches,))
        engine.fail("The test is over", status=503)
        server.stop()
        await serving
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        context.destroy(linger=0)


async def refuses(
    worker: RunningWorker, asked: Awaitable[object], message: str, param: str | None
) -> None:
    """What is `asked` is a 400 with these words for this parameter, before the engine sees it."""
    with pytest.raises(openai.BadRequestError) as caught:
        await asked
    assert message in caught.value.message
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert worker.scheduler.requests == []


async def eventually(condition: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Wait for `condition`; the limit is only there to fail instead of hanging."""
    for _ in range(3000):
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"did not happen: {what}")


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    return write_tiny_tokenizer(tmp_path / "tiny")
