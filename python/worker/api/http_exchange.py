"""One HTTP exchange: the body in, the answer or events out, and a client that may leave."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from .errors import ApiError, from_validation_error
from .fields import RequestModel

MAX_BODY_BYTES = 256 * 1024 * 1024
# As long as the router waits for the next piece of a body.
BODY_PAUSE_SECONDS = 60.0
STREAM_END = b"data: [DONE]\n\n"

# When the body of the request being answered had arrived, in seconds of a monotonic clock.
arrival: ContextVar[float | None] = ContextVar("arrival", default=None)

logger = logging.getLogger(__name__)

_Model = TypeVar("_Model", bound=RequestModel)
_Result = TypeVar("_Result")


async def read_body(request: Request, model: type[_Model], *, optional: bool = False) -> _Model:
    """The body, checked; with `optional`, none at all is as good as an empty object.

    The content type does not matter: a curl without a header is understood. Raises ApiError 400 if
    it is wrong, 413 if it is larger than MAX_BODY_BYTES, 408 if it does not come.
    """
    body = await read_bytes(request)
    return checked(body or b"{}" if optional else body, model)


async def read_bytes(request: Request) -> bytearray:
    """The body as it is. Raises ApiError 413 if it is larger than MAX_BODY_BYTES, and 408."""
    body = bytearray()
    async for part in body_parts(request):
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(413, f"The body is larger than {MAX_BODY_BYTES} bytes")
    arrival.set(time.monotonic())
    return body


async def body_parts(request: Request) -> AsyncGenerator[bytes, None]:
    """The body as it arrives. Raises ApiError 408 if the client pauses for BODY_PAUSE_SECONDS."""
    parts = request.stream()
    while True:
        try:
            async with asyncio.timeout(BODY_PAUSE_SECONDS):
                part = await anext(parts)
        except StopAsyncIteration:
            return
        except TimeoutError:
            message = f"Nothing of the body came for {BODY_PAUSE_SECONDS:g} seconds"
            raise ApiError(408, message) from None
        yield part


def checked(body: bytes | bytearray, model: type[_Model]) -> _Model:
    """JSON as `model`. Raises ApiError 400 if it is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise from_validation_error(error) from None


def read_query(request: Request, model: type[_Model]) -> _Model:
    """What stands behind the `?` of the address, checked; a list is written `name[]=value`.

    Raises ApiError 400 if it is wrong.
    """
    lists: dict[str, list[str]] = {}
    for name, value in request.query_params.multi_items():
        lists.setdefault(name, []).append(value)
    given = {
        name.removesuffix("[]"): values if name.endswith("[]") else values[-1]
        for name, values in lists.items()
    }
    try:
        return model.model_validate(given, strict=False)
    except ValidationError as error:
        raise from_validation_error(error) from None


def json_response(content: Any) -> Response:
    """An answer of status 200. Numpy's arrays are written as lists."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


def event(content: Any) -> bytes:
    """One event of a stream. Numpy's arrays are written as lists."""
    return b"data: " + orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n\n"


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of `work`, which is cancelled as soon as the client goes away.

    The body must have been read, so that the next message can only be the disconnect. Raises
    ClientDisconnect after a cancellation.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _error_event(error: ApiError) -> bytes:
    return b"data: " + error.body() + b"\n\n"


class EventStream(Response):
    """Server-sent events as they are made.

    An error before the first of them is an ordinary answer with its status; a later one is the last
    event, which `failure` writes. Unlike Starlette's StreamingResponse this watches for the
    client's leaving in every version of ASGI, and closes the generator at once.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        failure: Callable[[ApiError], bytes] = _error_event,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._failure = failure
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_disconnected(receive, self._send_events(send))
        except ClientDisconnect:
            logger.debug("the client left its stream")
        except ApiError as error:
            await error.response()(scope, receive, send)

    async def _send_events(self, send: Send) -> None:
        async with aclosing(self._events):
            try:
                async for content in self._events:
                    await self._send(send, content)
            except ApiError as error:
                if not self._started:
                    raise
                await self._send(send, self._failure(error))
            except Exception:
                if not self._started:
                    raise
                logger.exception("a stream failed")
                error = ApiError(500, "The worker failed to go on; its log says why")
                await self._send(send, self._failure(error))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, content: bytes) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": content, "more_body": True})
