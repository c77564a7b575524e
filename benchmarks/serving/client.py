"""Sends requests and notes when what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Self

import httpx
import orjson

from .backends import Answer, Backend, FailedError
from .workloads import Request

# Below the 5 s of uvicorn: a connection that the server is about to close is not used again.
KEEP_ALIVE_SECONDS = 2.0
CONNECT_SECONDS = 30.0


class Client:
    """To be used in an `async with` block. `limit_seconds` is for each whole answer."""

    def __init__(self, url: str, limit_seconds: float, api_key: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._limit_seconds = limit_seconds
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._context = httpx.create_ssl_context()
        # A connection pool goes through all its connections for each request: with thousands of
        # streams that would be what is measured. So every request in flight has a pool of its own.
        self._idle: list[httpx.AsyncClient] = []
        self._all: list[httpx.AsyncClient] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        for http in self._all:
            await http.aclose()

    async def first_model(self) -> str:
        """The name of the first model that is served. Raises FailedError if there is none."""
        try:
            return (await self.ask("GET", "/v1/models")).json()["data"][0]["id"]
        except (ValueError, LookupError, TypeError) as error:
            raise FailedError(f"/v1/models names no model: {error!r}") from error

    async def ask(self, method: str, path: str) -> httpx.Response:
        """A request without a body. Raises FailedError unless it is answered with 200."""
        http = self._take()
        try:
            response = await http.request(method, self._url + path, timeout=self._limit_seconds)
        except httpx.HTTPError as error:
            raise FailedError(_reason(error)) from error
        finally:
            self._idle.append(http)
        if response.status_code != httpx.codes.OK:
            raise FailedError(f"{path}: {_refusal(response.status_code, response.content)}")
        return response

    async def send(
        self, backend: Backend, request: Request, due: float = 0.0, origin: float = 0.0
    ) -> Answer:
        """The answer at its end, or with the reason why there is none.

        `origin` is where its times count from, by `time.perf_counter`.
        """
        content = orjson.dumps(backend.body(request))
        http = self._take()
        answer = Answer(request, due, sent=time.perf_counter() - origin)
        try:
            async with asyncio.timeout(self._limit_seconds):
                await self._stream(http, backend, content, answer, origin)
        except TimeoutError:
            answer.failure = f"no whole answer in {self._limit_seconds:g} s"
        except FailedError as error:
            answer.failure = str(error)
        except httpx.HTTPError as error:
            answer.failure = _reason(error)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            answer.failure = f"an event that {backend.path} does not have: {error!r}"
        finally:
            self._idle.append(http)
        return answer

    async def _stream(
        self,
        http: httpx.AsyncClient,
        backend: Backend,
        content: bytes,
        answer: Answer,
        origin: float,
    ) -> None:
        """Raises FailedError, httpx.HTTPError, and what reading a strange event raises."""
        url = self._url + backend.path
        async with http.stream("POST", url, content=content) as response:
            if response.status_code != httpx.codes.OK:
                raise FailedError(_refusal(response.status_code, await response.aread()))
            async for data, seconds in _events(response):
                if data == b"[DONE]":
                    answer.finished = True
                    continue
                event = orjson.loads(data)
                if event.get("error"):
                    raise FailedError(f"in mid-stream: {_message(event)}")
                backend.read(event, seconds - origin, answer)
        if not answer.finished:
            raise FailedError("the answer broke off before its end")
        if not answer.chunk_times:
            raise FailedError("the answer has no tokens")

    def _take(self) -> httpx.AsyncClient:
        if not self._idle:
            limits = httpx.Limits(keepalive_expiry=KEEP_ALIVE_SECONDS)
            timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
            http = httpx.AsyncClient(
                headers=self._headers,
                limits=limits,
                timeout=timeout,
                trust_env=False,
                verify=self._context,
            )
            self._all.append(http)
            return http
        return self._idle.pop()


async def _events(response: httpx.Response) -> AsyncIterator[tuple[bytes, float]]:
    """The data of server-sent events, and when they were received, by `time.perf_counter`."""
    rest = b""
    async for received in response.aiter_raw():
        seconds = time.perf_counter()
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip(), seconds


def _reason(error: httpx.HTTPError) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _refusal(status: int, body: bytes) -> str:
    try:
        message = _message(orjson.loads(body))
    except (orjson.JSONDecodeError, AttributeError):
        message = body.decode(errors="replace")
    return " ".join(f"HTTP {status}: {message}".split())[:200].rstrip(": ")


def _message(body: dict[str, Any]) -> str:
    """Of an error as OpenAI, SGLang or FastAPI writes it."""
    error = body.get("error", body)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or body
    return str(error)
