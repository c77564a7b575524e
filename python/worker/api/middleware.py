"""Around every request: its id, its key, and a line in the log.

Pure ASGI, so that disconnects pass through.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError
from .logs import request_id

_WELL_FORMED_ID = re.compile(r"[!-~]{1,128}")

logger = logging.getLogger(__name__)


class RequestIdMiddleware:
    """Takes x-request-id from the request, or makes one; returns it and puts it into the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        current = given if _WELL_FORMED_ID.fullmatch(given) else uuid.uuid4().hex
        request_id.set(current)
        started = time.monotonic()
        status = 499

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = current
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            seconds = time.monotonic() - started
            logger.debug(
                "%s %s status=%d seconds=%.4f", scope["method"], scope["path"], status, seconds
            )


class ApiKeyMiddleware:
    """Refuses requests without the key with 401; /health alone needs none."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/health":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("authorization", "").encode("latin-1")
        if hmac.compare_digest(given, self._expected):
            await self._app(scope, receive, send)
            return
        message = "This server needs its API key: send 'Authorization: Bearer KEY'"
        response = ApiError(401, message, code="invalid_api_key").response()
        response.headers["www-authenticate"] = "Bearer"
        await response(scope, receive, send)
