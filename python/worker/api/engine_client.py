"""The talk with the scheduler: requests out, tokens or vectors in, sorted by request."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec
import zmq
import zmq.asyncio

from ..messages import (
    AbortRequest,
    ControlAnswer,
    ControlOrder,
    Embedding,
    Embeddings,
    EmbedRequest,
    FinishReason,
    FlushCache,
    FlushDone,
    FromScheduler,
    GenerateRequest,
    GetState,
    LoadProgress,
    OrderDone,
    SchedulerState,
    TokenChunk,
    TokenChunks,
    ToScheduler,
    WeightValues,
)
from .errors import ApiError, bad_request

if TYPE_CHECKING:
    from .metrics import WorkerMetrics

logger = logging.getLogger(__name__)

_QUIET_SECONDS = 1.0

# So many aborted requests are remembered, in case that a client uses their ids again.
_MOST_ABORTED = 10_000

_ABORTED = FinishReason("abort", message="Aborted by /abort_request", status=200)
_REPLACED = FinishReason("abort", message="Replaced within its session", status=200)

_Answer = FlushDone | SchedulerState | ControlAnswer


class EngineClient:
    """Owns both sockets once the engine is ready.

    `requests` is a bound PUSH socket without a high-water mark, so that sending never blocks and
    can be done where nothing may be awaited: in the clean-up of a cancelled request.
    """

    def __init__(self, requests: zmq.Socket, outputs: zmq.asyncio.Socket) -> None:
        self._requests = requests
        self._outputs = outputs
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromScheduler)
        self._streams: dict[str, TokenStream] = {}
        self._embeddings: dict[str, asyncio.Future[Embedding]] = {}
        self._questions: dict[str, asyncio.Future[_Answer]] = {}
        self._question_ids = itertools.count()
        # Ids that were aborted, the latest last; and of those in use again, the question that the
        # scheduler answers behind the last chunk of the aborted request.
        self._aborted: dict[str, None] = {}
        self._stale: dict[str, str] = {}
        self._last_heard = time.monotonic()
        self._failure: str | None = None
        self._metrics: WorkerMetrics | None = None

    def report_to(self, metrics: WorkerMetrics) -> None:
        """Have requests measured from now on."""
        self._metrics = metrics

    async def receive_forever(self) -> None:
        """Hand every message to the request that it is for.

        Runs as one task for the life of the engine.
        """
        while True:
            self._dispatch(self._decoder.decode(await self._outputs.recv()))

    def open(
        self,
        requests: Sequence[GenerateRequest],
        *,
        measured: bool = True,
        timeout_seconds: float | None = None,
    ) -> TokenStream:
        """Start requests whose tokens arrive in one stream, which must be closed.

        What has not ended after `timeout_seconds` is aborted, and the stream ends with a 504. Those
        that are not `measured` are no part of the metrics. Raises ApiError: 400 if a request id is
        in use, 503 if the engine is gone.
        """
        rids = self._new_rids(requests)
        stream = TokenStream(self, rids, timeout_seconds)
        self._streams.update(dict.fromkeys(rids, stream))
        self._start(requests, measured)
        return stream

    async def embed(
        self,
        requests: Sequence[EmbedRequest],
        *,
        measured: bool = True,
        timeout_seconds: float | None = None,
    ) -> list[Embedding]:
        """What the engine makes of these texts, in their order; a cancellation aborts them.

        Raises ApiError as `open` does, 504 after `timeout_seconds`, and when the engine gives one
        of the texts up.
        """
        self._new_rids(requests)
        loop = asyncio.get_running_loop()
        answers = {request.rid: loop.create_future() for request in requests}
        self._embeddings.update(answers)
        try:
            self._start(requests, measured)
            return await asyncio.wait_for(asyncio.gather(*answers.values()), timeout_seconds)
        except TimeoutError as error:
            raise _too_late() from error
        finally:
            self.close_stream(answers.keys())

    @property
    def open_requests(self) -> int:
        """How many are running or wait for the scheduler to take them up."""
        return len(self._streams) + len(self._embeddings)

    @property
    def is_gone(self) -> bool:
        """Whether the engine has ended, or is about to."""
        return self._failure is not None

    def abort(self, prefix: str) -> int:
        """End the requests whose ids begin with `prefix`, and say how many they were.

        Their clients get what there is so far, with "abort" as the reason of its end; of a text to
        embed there is nothing, and they get an error.
        """
        rids = [rid for rid in self._streams if rid.startswith(prefix)]
        self._end(rids, _ABORTED)
        texts = [rid for rid in self._embeddings if rid.startswith(prefix)]
        for rid in texts:
            answer = self._embeddings[rid]
            self.close_stream({rid})
            _settle(answer, Embedding(rid, failure=_ABORTED))
        return len(rids) + len(texts)

    def replace(self, rids: Iterable[str]) -> None:
        """End those of `rids` that are running, as `abort` does: their session replaces them."""
        self._end([rid for rid in rids if rid in self._streams], _REPLACED)

    def _end(self, rids: Iterable[str], reason: FinishReason) -> None:
        for rid in rids:
            stream = self._streams[rid]
            self.close_stream({rid})
            stream.put(TokenChunk(rid, [], 0, reason))

    async def state(self, timeout_seconds: float) -> SchedulerState:
        """Counts of the scheduler. Raises ApiError 503 if it does not answer in time."""
        answer = await self._ask(GetState(self._question_id()), timeout_seconds)
        assert isinstance(answer, SchedulerState)
        return answer

    async def flush_cache(self, timeout_seconds: float) -> bool:
        """False if requests were running.

        Raises ApiError 503 if the scheduler does not answer in time.
        """
        answer = await self._ask(FlushCache(self._question_id()), timeout_seconds)
        assert isinstance(answer, FlushDone)
        return answer.success

    async def control(self, order: ControlOrder) -> ControlAnswer:
        """Have an order carried out, however long that takes; its id is set here.

        Raises ApiError if the engine is or goes down.
        """
        order = msgspec.structs.replace(order, rid=self._question_id())
        answer = await self._ask(order, None)
        assert isinstance(answer, ControlAnswer)
        return answer

    def seconds_since_heard(self) -> float:
        """How long the scheduler has said nothing at all."""
        return time.monotonic() - self._last_heard

    def ask_for_a_sign(self) -> None:
        """Make the scheduler send something, if it has not lately; does not wait for it."""
        self._check_alive()
        if self.seconds_since_heard() > _QUIET_SECONDS:
            self._send(GetState(self._question_id()))

    def fail(self, message: str, status: int = 500) -> None:
        """The engine is gone: end what is open with this error, and refuse what comes."""
        self._failure = message
        error = ApiError(status, message)
        for stream in set(self._streams.values()):
            stream.fail(error)
        for question in (*self._questions.values(), *self._embeddings.values()):
            if not question.done():
                question.set_exception(error)

    def close_stream(self, rids: Iterable[str], *, complete: bool = False) -> None:
        """Forget these requests, and tell the scheduler to, as they have not ended.

        `complete`: their answers are, by a stop string; else nobody wants them.
        """
        for rid in rids:
            if self._streams.pop(rid, None) is None and self._embeddings.pop(rid, None) is None:
                continue
            self._send(AbortRequest(rid))
            self._remember_aborted(rid)
            if self._metrics is not None:
                self._metrics.ended(rid, complete=complete)

    def _remember_aborted(self, rid: str) -> None:
        self._aborted.pop(rid, None)
        self._aborted[rid] = None
        if len(self._aborted) > _MOST_ABORTED:
            del self._aborted[next(iter(self._aborted))]

    def _dispatch(self, message: FromScheduler) -> None:
        self._last_heard = time.monotonic()
        match message:
            case TokenChunks(chunks):
                chunks = [chunk for chunk in chunks if chunk.rid not in self._stale]
                for chunk in chunks:
                    self._hand_over(chunk)
                if self._metrics is not None:
                    self._metrics.received(chunks)
            case Embeddings(embeddings):
                embeddings = [each for each in embeddings if each.rid not in self._stale]
                for embedding in embeddings:
                    answer = self._embeddings.pop(embedding.rid, None)
                    if answer is not None:  # else aborted, and the scheduler did not know yet
                        _settle(answer, embedding)
                if self._metrics is not None:
                    self._metrics.embedded(embeddings)
            case FlushDone(rid) | SchedulerState(rid) | OrderDone(rid) | WeightValues(rid):
                self._stale = {each: last for each, last in self._stale.items() if last != rid}
                question = self._questions.get(rid)
                if question is not None and not question.done():
                    question.set_result(message)
            case LoadProgress():  # of a long order: a sign of life
                pass
            case _:
                logger.warning("unexpected message from the scheduler: %s", type(message).__name__)

    def _hand_over(self, chunk: TokenChunk) -> None:
        stream = self._streams.get(chunk.rid)
        if stream is None:  # aborted, and the scheduler did not know yet
            return
        if chunk.finish is not None:
            del self._streams[chunk.rid]
        stream.put(chunk)

    async def _ask(
        self, question: FlushCache | GetState | ControlOrder, timeout_seconds: float | None
    ) -> _Answer:
        self._check_alive()
        answer = asyncio.get_running_loop().create_future()
        self._questions[question.rid] = answer
        try:
            self._send(question)
            return await asyncio.wait_for(answer, timeout_seconds)
        except TimeoutError as error:
            message = f"The scheduler has not answered in {timeout_seconds:g} seconds"
            raise ApiError(503, message) from error
        finally:
            del self._questions[question.rid]

    def _new_rids(self, requests: Sequence[GenerateRequest] | Sequence[EmbedRequest]) -> set[str]:
        """The ids of requests that may start."""
        self._check_alive()
        rids = {request.rid for request in requests}
        taken = next((rid for rid in rids if rid in self._streams or rid in self._embeddings), None)
        if taken is not None:
            raise bad_request(f"A request with rid {taken!r} is running", "rid")
        if len(rids) < len(requests):
            raise bad_request("Each request of a list needs a rid of its own", "rid")
        return rids

    def _start(
        self, requests: Sequence[GenerateRequest] | Sequence[EmbedRequest], measured: bool
    ) -> None:
        if self._metrics is not None and measured:
            self._metrics.opened(requests)
        reused = [request.rid for request in requests if request.rid in self._aborted]
        if reused:  # chunks of the aborted ones may be on their way
            question = GetState(self._question_id())
            self._stale.update(dict.fromkeys(reused, question.rid))
            self._send(question)
        for request in requests:
            self._send(request)

    def _question_id(self) -> str:
        return f"question-{next(self._question_ids)}"

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise ApiError(503, self._failure)

    def _send(self, message: ToScheduler) -> None:
        if self._failure is None:
            with contextlib.suppress(zmq.Again):  # the scheduler has just died: `fail` is next
                self._requests.send(self._encoder.encode(message), zmq.NOBLOCK)


def given_up(reason: FinishReason) -> ApiError:
    """The error for an answer of which there is no part to give, as somebody aborted it (400) or
    the engine did.
    """
    message = reason.message or "The engine gave the request up"
    if reason.is_failure:
        return ApiError(reason.status, message)
    return ApiError(400, message, code="aborted")


def _settle(answer: asyncio.Future[Embedding], embedding: Embedding) -> None:
    if answer.done():  # cancelled: nobody waits any more
        return
    if embedding.failure is None:
        answer.set_result(embedding)
    else:
        answer.set_exception(given_up(embedding.failure))


def _too_late() -> ApiError:
    return ApiError(504, "The request took longer than this server's --request-timeout")


class TokenStream:
    """Chunks of one or more requests in the order of their arrival.

    A slow reader gets many chunks at once.
    """

    def __init__(self, client: EngineClient, rids: set[str], timeout_seconds: float | None) -> None:
        self._client = client
        self._running = rids
        self._waiting: list[TokenChunk] = []
        self._failure: ApiError | None = None
        self._news = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None
        if timeout_seconds is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(timeout_seconds, self._expire)

    def close(self) -> None:
        """Abort what has not ended."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._client.close_stream(self._running)

    def _expire(self) -> None:
        """The deadline has passed. What has arrived can still be read, before the error."""
        if self._running:
            self.close()
            self.fail(_too_late())

    async def chunks(self) -> list[TokenChunk]:
        """All that has arrived since the last call, at least one; empty when every request has
        ended.

        Raises ApiError if the engine is gone.
        """
        while not self._waiting:
            if self._failure is not None:
                raise self._failure
            if not self._running:
                return []
            self._news.clear()
            await self._news.wait()
        chunks, self._waiting = self._waiting, []
        return chunks

    def abort(self, rid: str) -> None:
        """End one of the requests, whose answer is complete; the others go on."""
        self._client.close_stream({rid} & self._running, complete=True)
        self._running.discard(rid)
        self._waiting = [chunk for chunk in self._waiting if chunk.rid != rid]

    def put(self, chunk: TokenChunk) -> None:
        """For the client: a chunk has arrived."""
        if chunk.finish is not None:
            self._running.discard(chunk.rid)
        self._waiting.append(chunk)
        self._news.set()

    def fail(self, error: ApiError) -> None:
        """For the client: no more will come."""
        self._failure = error
        self._news.set()
