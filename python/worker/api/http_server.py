"""Uvicorn, told to leave signals alone and to say when it listens."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

# Longer than a router keeps its idle connections, so that it is never the worker that closes one.
_KEEP_ALIVE_SECONDS = 600
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
