"""Errors that clients see: one exception, one JSON shape (OpenAI's), for every route."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

# What an error's code is where there is nothing more special to say.
_CODES = {
    400: "invalid_value",
    404: "unknown_url",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    431: "request_too_large",
    500: "internal_error",
    503: "unavailable",
    504: "timeout",
}
_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    503: "service_unavailable_error",
    504: "timeout_error",
}
_HEADERS = {408: {"connection": "close"}, 503: {"retry-after": "1"}}

# To describe more than these takes longer than to check the body.
_MOST_MISTAKES = 1000


class ApiError(Exception):
    """An answer that is an error. `param` names the field at fault, `code` is for programs."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code or _CODES.get(status)

    def body(self) -> bytes:
        """The JSON of the answer, and of an error event within a stream."""
        default = "invalid_request_error" if self.status < 500 else "server_error"
        return orjson.dumps(
            {
                "error": {
                    "message": self.message,
                    "type": _TYPES.get(self.status, default),
                    "param": self.param,
                    "code": self.code,
                }
            }
        )

    def response(self) -> Response:
        """The whole answer. One that may be better soon says when to try again; after one to a
        request that has not come to its end, nothing more can be read.
        """
        headers = _HEADERS.get(self.status)
        return Response(self.body(), self.status, headers, media_type="application/json")

    def as_http(self) -> bytes:
        """The whole answer as it goes over a connection that is closed with it."""
        body = self.body()
        return (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n\r\n"
        ).encode() + body


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The client's fault, and not to be tried again unchanged."""
    return ApiError(400, message, param=param, code=code)


def from_validation_error(error: ValidationError) -> ApiError:
    """What pydantic found first, as one sentence with the field, the reason and the value."""
    if error.error_count() > _MOST_MISTAKES:
        return bad_request(f"The body has {error.error_count()} unknown fields or wrong values")
    found = error.errors(include_url=False)
    first = found[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error")
        return bad_request(f"The body is not valid JSON: {reason}", code="invalid_json")
    unknown = next((each for each in found if each["type"] == "extra_forbidden"), None)
    if unknown is not None:
        name = _path(unknown["loc"])
        return bad_request(f"Unknown field: {name!r}", name, "unknown_parameter")
    name = _path(first["loc"])
    if first["type"] == "missing":
        return bad_request(f"{name}: this field is required", name, "missing_required_parameter")
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "too_long":
        reason = f"must have at most {first.get('ctx', {})['max_length']} items"
    if first["type"] != "unsupported":  # which begins with the value, and says it all
        reason = f"{reason[:1].lower()}{reason[1:]}, not {shown(first['input'])}"
    where = f"{name}: " if name else ""
    return bad_request(f"{where}{reason}", name or None, "invalid_value")


def _path(location: Sequence[int | str]) -> str:
    """`("messages", 0, "content")` as `messages[0].content`; names in <> are left out."""
    path = ""
    for part in location:
        if isinstance(part, str) and part.startswith("<"):
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def shown(value: Any) -> str:
    """The value as JSON, as the client wrote it, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}..."


def install_error_handlers(app: FastAPI) -> None:
    """Give every error of the application the one shape."""
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_bug)


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: f"There is no {request.url.path}",
        405: f"{request.url.path} does not take {request.method}",
    }.get(error.status_code, str(error.detail))
    response = ApiError(error.status_code, message).response()
    response.headers.update(error.headers or {})
    return response


async def _answer_nobody(request: Request, error: Exception) -> Response:
    """The client is gone; the status is for the log alone."""
    return Response(status_code=499)


async def _answer_bug(request: Request, error: Exception) -> Response:
    """The server's log has the traceback."""
    return ApiError(500, "The worker failed to answer; its log says why").response()
