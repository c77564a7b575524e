"""A scheduler that answers from a script, in the process of the test or in one of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import zmq
import zmq.asyncio

from worker.messages import (
    AbortRequest,
    Embedding,
    Embeddings,
    EmbedRequest,
    FinishReason,
    FlushCache,
    FlushDone,
    GenerateRequest,
    GetState,
    LoadProgress,
    LogprobOptions,
    Ready,
    SchedulerState,
    StartFailed,
    TokenChunk,
    TokenChunks,
    TokenLogprobs,
    ToScheduler,
)

READY = Ready(
    context_length=512,
    max_total_tokens=4096,
    max_running_requests=8,
    vocab_size=300,
    eos_token_ids=(2,),
    dtype="float32",
    device="cpu",
    weights_bytes=1,
    kv_cache_bytes=1,
)

Script = Callable[[GenerateRequest], list[TokenChunk]]
EmbedScript = Callable[[EmbedRequest], list[Embedding]]


def embed_with(values_of: Callable[[EmbedRequest], Sequence[float]]) -> EmbedScript:
    """Answer each text with these numbers."""

    def script(request: EmbedRequest) -> list[Embedding]:
        return [Embedding(request.rid, array("f", values_of(request)).tobytes(), 1)]

    return script


def answer_with(
    token_ids: list[int],
    *,
    chunk_size: int = 1,
    finish: FinishReason | None = FinishReason("stop", matched=2),  # noqa: B008 - it is frozen
    cached_tokens: int = 0,
) -> Script:
    """Send these tokens, `chunk_size` at a time, then end; with `finish` None, never end."""

    def script(request: GenerateRequest) -> list[TokenChunk]:
        ids = token_ids[: request.sampling.max_new_tokens]
        last = finish
        if len(ids) < len(token_ids):
            last = finish and FinishReason("length")
        elif finish is not None and finish.matched is not None:
            ids = [*ids, finish.matched]
        size = chunk_size if request.stream_interval else max(1, len(ids))
        pieces = [ids[start : start + size] for start in range(0, len(ids), size)]
        chunks = [TokenChunk(request.rid, piece, cached_tokens) for piece in pieces]
        if last is not None:
            end = chunks.pop() if chunks else TokenChunk(request.rid, [], cached_tokens)
            chunks.append(msgspec.structs.replace(end, finish=last))
        return chunks

    return script


# ===== what a request may want beside tokens: figures made of places =====


def logprob_of(place: int, token_id: int) -> float:
    """At this place of prompt and answer together."""
    return -float(token_id) - place / 1024


def likeliest_at(place: int, top: int) -> list[tuple[int, float]]:
    return [(40 + rank, -(rank + place / 1024)) for rank in range(top)]


def hidden_row(place: int) -> list[float]:
    """What the token at this place left behind."""
    return [place, place + 0.5, -place]


def with_details(request: GenerateRequest, chunks: list[TokenChunk]) -> list[TokenChunk]:
    """The chunks with what the request asks for, as an engine sends it, unless a script did."""
    prompt = request.input_ids
    options = request.logprobs
    place = len(prompt)
    detailed = []
    for index, chunk in enumerate(chunks):
        ids = chunk.token_ids
        if options is not None and chunk.logprobs is None:
            chunk = msgspec.structs.replace(chunk, logprobs=_logprobs(place, ids, options))
        if index == 0 and options is not None and options.prompt_start is not None:
            start = max(options.prompt_start, 1)
            of_prompt = _logprobs(start, prompt[start:], options)
            chunk = msgspec.structs.replace(chunk, prompt_logprobs=of_prompt)
        if request.return_hidden_states:
            first = 0 if index == 0 else place - 1
            end = max(place + len(ids) - 1, len(prompt))
            rows = np.array([hidden_row(each) for each in range(first, end)], np.float32)
            chunk = msgspec.structs.replace(chunk, hidden_states=rows.tobytes())
        place += len(ids)
        detailed.append(chunk)
    return detailed


def _logprobs(first: int, ids: Sequence[int], options: LogprobOptions) -> TokenLogprobs:
    places = range(first, first + len(ids))
    return TokenLogprobs(
        [logprob_of(place, token_id) for place, token_id in zip(places, ids, strict=True)],
        [likeliest_at(place, options.top) for place in places] if options.top else [],
        [[logprob_of(place, token_id) for token_id in options.token_ids] for place in places]
        if options.token_ids
        else [],
    )


class FakeScheduler:
    """Answers every request by `script`, every text to embed by `embed_script`; what it was asked
    is in `requests`, `texts` and `aborted`.
    """

    def __init__(self, inbox: zmq.asyncio.Socket, outbox: zmq.asyncio.Socket) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._decoder = msgspec.msgpack.Decoder(ToScheduler)
        self.script: Script = answer_with([])
        self.embed_script: EmbedScript = embed_with(lambda request: [0.6, 0.8, 0.0, 0.0])
        self.requests: list[GenerateRequest] = []
        self.texts: list[EmbedRequest] = []
        self.aborted: list[str] = []
        self.flush_succeeds = True
        self.answers_questions = True
        self.waiting_requests = 2

    async def send(self, message: Any) -> None:
        await self._outbox.send(msgspec.msgpack.encode(message))

    async def run(self) -> None:
        while True:
            await self._handle(self._decoder.decode(await self._inbox.recv()))

    async def _handle(self, message: Any) -> None:
        match message:
            case GenerateRequest():
                self.requests.append(message)
                for chunk in with_details(message, self.script(message)):
                    await self.send(TokenChunks([chunk]))
            case EmbedRequest():
                self.texts.append(message)
                if embeddings := self.embed_script(message):
                    await self.send(Embeddings(embeddings))
            case AbortRequest(rid):
                self.aborted.append(rid)
            case FlushCache(rid) if self.answers_questions:
                await self.send(FlushDone(rid, self.flush_succeeds))
            case GetState(rid) if self.answers_questions:
                waiting = self.waiting_requests
                await self.send(
                    SchedulerState(rid, 1, waiting, 100, 50, 30, 20, 25, 8, 2, 9, 0, 12.5, 6)
                )


async def _serve(requests: str, outputs: str, start_error: str | None, answers: int) -> None:
    context = zmq.asyncio.Context()
    inbox, outbox = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    inbox.connect(requests)
    outbox.connect(outputs)
    scheduler = FakeScheduler(inbox, outbox)
    scheduler.waiting_requests = 0

    def script(request: GenerateRequest) -> list[TokenChunk]:
        is_answered = len(scheduler.requests) <= answers
        finish = FinishReason("stop", matched=2) if is_answered else None
        return answer_with(list(range(36, 46)), finish=finish)(request)

    scheduler.script = script
    await scheduler.send(LoadProgress("loading weights", 0.5))
    if start_error is not None:
        await scheduler.send(StartFailed(start_error))
        context.destroy(linger=1000)
        sys.exit(1)
    await scheduler.send(READY)
    await scheduler.run()


def main() -> None:
    """With worker.scheduler's command line. FAKE_SCHEDULER says how to misbehave at the start,
    FAKE_ANSWERS how many requests get a whole answer; others never end.
    """
    parser = argparse.ArgumentParser()
    for flag in ("--args", "--requests", "--outputs"):
        parser.add_argument(flag, required=True)
    parser.add_argument("--parent-fd", type=int, required=True)
    parsed = parser.parse_args()

    def end_with_parent() -> None:
        os.read(parsed.parent_fd, 1)
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    behaviour = os.environ.get("FAKE_SCHEDULER", "")
    if behaviour == "die":
        os._exit(3)
    if behaviour == "hang":
        time.sleep(600)
    start_error = "no weights\nin the folder" if behaviour == "fail" else None
    answers = int(os.environ.get("FAKE_ANSWERS", "0"))
    asyncio.run(_serve(parsed.requests, parsed.outputs, start_error, answers))


if __name__ == "__main__":
    main()
