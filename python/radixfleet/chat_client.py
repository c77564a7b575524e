"""A streaming chat client that also tells who answered, what was cached, and how soon it came."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import httpx
import orjson

from worker.config import API_KEY_VARIABLE

Message = dict[str, str]
MAX_TOKENS = 48
# A long prompt on a slow machine may take its time until the first token.
READ_TIMEOUT_SECONDS = 300.0


class ChatFailedError(Exception):
    """The server refused or broke off; the message is one line."""


@dataclass(frozen=True)
class Answer:
    """`worker` is the address that the router chose."""

    text: str
    worker: str
    prompt_tokens: int
    cached_tokens: int
    first_token_seconds: float


class ChatClient:
    """Greedy answers of at most `MAX_TOKENS` tokens. To be used in an `async with` block."""

    def __init__(self, url: str, model: str) -> None:
        self._model = model
        timeout = httpx.Timeout(10.0, read=READ_TIMEOUT_SECONDS)
        key = os.environ.get(API_KEY_VARIABLE)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._http.aclose()

    async def chat(
        self, messages: list[Message], on_text: Callable[[str], None] | None = None
    ) -> Answer:
        """`on_text` gets each piece of text at once. Raises ChatFailedError, httpx.HTTPError."""
        body = {
            "model": self._model,
            "messages": messages,
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began = time.monotonic()
        first_token: float | None = None
        text = ""
        usage: dict[str, Any] = {}
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                raise ChatFailedError(_error_message(await response.aread()))
            async for line in response.aiter_lines():
                event = _event(line)
                usage = event.get("usage") or usage
                for choice in event.get("choices", ()):
                    if piece := choice["delta"].get("content"):
                        first_token = first_token or time.monotonic()
                        text += piece
                        if on_text:
                            on_text(piece)
        if not usage or first_token is None:
            raise ChatFailedError("the answer broke off before its end")
        return Answer(
            text=text,
            worker=response.headers.get("x-radixfleet-worker", "unknown"),
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
            first_token_seconds=first_token - began,
        )


def _event(line: str) -> dict[str, Any]:
    """What a line of a server-sent stream holds; nothing for blank lines and the end mark."""
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or data == "[DONE]":
        return {}
    event = orjson.loads(data)
    if "error" in event:
        raise ChatFailedError(event["error"]["message"])
    return event


def _error_message(body: bytes) -> str:
    try:
        return orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body.decode(errors="replace")[:200]
