"""What reaches whom: messages of the scheduler, in the order in which it sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import zmq
import zmq.asyncio

from worker.api.engine_client import EngineClient
from worker.api.errors import ApiError
from worker.messages import (
    Embedding,
    Embeddings,
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    GetState,
    SamplingParams,
    SchedulerState,
    TokenChunk,
    TokenChunks,
    ToScheduler,
)


class Scheduler:
    """The other end of the client's sockets: does what the test says."""

    def __init__(self, inbox: zmq.asyncio.Socket, outbox: zmq.asyncio.Socket) -> None:
        self._inbox = inbox
        self._outbox = outbox

    async def receive(self) -> ToScheduler:
        return msgspec.msgpack.decode(await self._inbox.recv(), type=ToScheduler)

    async def until_request(self) -> None:
        """Take messages up to the next request, and answer questions before it."""
        while not isinstance(message := await self.receive(), GenerateRequest | EmbedRequest):
            if isinstance(message, GetState):
                await self.send(SchedulerState(message.rid, *[0] * 11, 0.0))

    async def send(self, message: Any) -> None:
        await self._outbox.send(msgspec.msgpack.encode(message))


@pytest.fixture
async def ends() -> AsyncIterator[tuple[EngineClient, Scheduler]]:
    context = zmq.asyncio.Context()
    plain = zmq.Context(context)
    inbox, outbox = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    requests, outputs = plain.socket(zmq.PUSH), context.socket(zmq.PULL)
    inbox.bind("inproc://requests")
    outputs.bind("inproc://outputs")
    requests.connect("inproc://requests")
    outbox.connect("inproc://outputs")
    client = EngineClient(requests, outputs)
    receiving = asyncio.ensure_future(client.receive_forever())
    yield client, Scheduler(inbox, outbox)
    receiving.cancel()
    for socket in (inbox, outbox, requests, outputs):
        socket.close(linger=0)
    context.term()


def chunk(token_id: int, finish: FinishReason | None = None) -> TokenChunks:
    return TokenChunks([TokenChunk("again", [token_id], 0, finish)])


async def test_a_request_gets_no_tokens_of_an_aborted_one_with_its_id(
    ends: tuple[EngineClient, Scheduler],
) -> None:
    client, scheduler = ends
    request = GenerateRequest("again", [3, 4], SamplingParams(max_new_tokens=8), 1)
    for _ in range(3):
        stream = client.open([request])
        await scheduler.send(chunk(50))  # of the step that ran when it was aborted
        await scheduler.send(chunk(51, FinishReason("length")))
        stream.close()
    stream = client.open([request])
    await scheduler.send(chunk(50))
    await scheduler.send(chunk(51, FinishReason("length")))
    for _ in range(4):
        await scheduler.until_request()
    await scheduler.send(chunk(60))
    await scheduler.send(chunk(61, FinishReason("length")))
    tokens: list[int] = []
    while chunks := await stream.chunks():
        tokens += [token_id for each in chunks for token_id in each.token_ids]
    assert tokens == [60, 61]


async def test_a_text_gets_no_vector_of_an_aborted_one_with_its_id(
    ends: tuple[EngineClient, Scheduler],
) -> None:
    client, scheduler = ends
    embedding = asyncio.ensure_future(client.embed([EmbedRequest("again", [3])]))
    await scheduler.until_request()
    assert client.abort("again") == 1
    await asyncio.wait((embedding,))
    assert embedding.exception() is not None
    embedding = asyncio.ensure_future(client.embed([EmbedRequest("again", [4])]))
    await asyncio.sleep(0)
    await scheduler.send(Embeddings([Embedding("again", b"old!")]))
    await scheduler.until_request()
    await scheduler.send(Embeddings([Embedding("again", b"new!")]))
    (answer,) = await embedding
    assert answer.values == b"new!"


async def test_what_is_asked_of_a_scheduler_that_has_died_fails_with_the_engine() -> None:
    context = zmq.asyncio.Context()
    requests, outputs = zmq.Context(context).socket(zmq.PUSH), context.socket(zmq.PULL)
    requests.bind("inproc://requests")  # and nobody is connected any more
    client = EngineClient(requests, outputs)
    stream = client.open([GenerateRequest("first", [3], SamplingParams(max_new_tokens=8), 1)])
    answer = asyncio.ensure_future(client.embed([EmbedRequest("second", [3])]))
    await asyncio.sleep(0)
    client.fail("The engine is gone")
    with pytest.raises(ApiError, match="The engine is gone"):
        await stream.chunks()
    with pytest.raises(ApiError, match="The engine is gone"):
        await answer
    requests.close(linger=0)
    outputs.close(linger=0)
    context.term()
