"""Uvicorn, told to leave signals alone, to say when it listens, and to wait for no slow client."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .errors import ApiError

# Longer than a router keeps its idle connections, so that it is never the worker that closes one.
_KEEP_ALIVE_SECONDS = 600
# From the first byte of a request to the end of its head.
_HEAD_SECONDS = 30.0
_MOST_HEAD_BYTES = 64 * 1024
# How long answers in the making may take to go out at the end.
_GRACE_SECONDS = 0.3


class HttpServer(uvicorn.Server):
    """`on_listening` is called once, when clients can connect."""

    def __init__(
        self, app: ASGIApp, on_listening: Callable[[], None], access_log: bool = False
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Connection,
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=access_log,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,  # pyright: ignore[reportArgumentType]
            )
        )
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the worker's, which has a scheduler to end too."""
        yield

    def stop(self) -> None:
        """Stop accepting, let answers that are complete go out, and end."""
        self.should_exit = True


class _Connection(HttpToolsProtocol):
    """Bounds the time and the size of a request's head, which uvicorn leaves to proxies.

    What cannot be understood is refused in the shape of all errors, and the connection closed.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None  # while a head is incomplete
        self._head_bytes = 0
        self._exchanges: list[RequestResponseCycle] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # A connection may be as idle before its first request as between two.
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                self._refuse(431, f"The request's head is larger than {_MOST_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        message = f"The request's head did not arrive within {_HEAD_SECONDS:g} seconds"
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._refuse, 408, message)
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()
        self._exchanges = [*self._unanswered(), self.cycle]

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        self._tell_that_the_client_is_gone()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "This is no valid HTTP request")

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, message: str) -> None:
        """Say so and close the connection; an answer that is being sent on it ends there."""
        self._end_head()
        if not self._unanswered():
            self.transport.write(ApiError(status, message).as_http())
        self._tell_that_the_client_is_gone()
        self.transport.close()

    def _unanswered(self) -> list[RequestResponseCycle]:
        return [exchange for exchange in self._exchanges if not exchange.response_complete]

    def _tell_that_the_client_is_gone(self) -> None:
        """Tell all exchanges: uvicorn tells the last of several that a client has begun at once."""
        for exchange in self._unanswered():
            exchange.disconnected = True
            exchange.message_event.set()
