"""Lines of batches as requests to this worker's own application, past the network."""

from __future__ import annotations

import asyncio
import uuid

import httpx
import msgspec
from starlette.types import ASGIApp

from ..errors import bad_request
from .line_store import FinishedLine, TakenLine, Usage
from .result_files import answered, unanswered

# A line that was being computed when its worker died may be what it died of.
_MOST_ATTEMPTS = 3
_RETRY_SECONDS = 1.0


class _Body(msgspec.Struct):
    stream: bool | None = False


class _CachedTokens(msgspec.Struct):
    cached_tokens: int = 0


class _AnswerUsage(msgspec.Struct):
    """By the names of completions and embeddings, and by those of responses."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _CachedTokens | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _CachedTokens | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    code: str | None = None


class _Answer(msgspec.Struct):
    """`status` is that of a response."""

    usage: _AnswerUsage | None = None
    choices: list[_Choice] = []
    status: str | None = None
    error: _Error | None = None

    @property
    def is_aborted(self) -> bool:
        """Whether it was cut by /abort_request or for new weights."""
        if self.error is not None:
            return self.error.code == "aborted"
        reasons = (choice.finish_reason for choice in self.choices)
        return "abort" in reasons or self.status == "cancelled"


_answer_decoder = msgspec.json.Decoder(_Answer)


class LineClient:
    """What it asks is answered as if it had come over HTTP, with the key."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        key = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        headers = httpx.Headers(key, encoding="utf-8")
        self._http = httpx.AsyncClient(
            transport=transport, base_url="http://batch", headers=headers, timeout=None
        )

    async def finish(self, line: TakenLine) -> FinishedLine:
        """Compute it, again where the engine had no room for it or somebody aborted it."""
        if line.attempts > _MOST_ATTEMPTS:
            message = f"The worker ended {_MOST_ATTEMPTS} times while it computed this request"
            return FinishedLine(line, False, unanswered(line.custom_id, "worker_died", message))
        if _is_stream(line.body):
            error = bad_request("stream: must not be true in a batch", "stream", "invalid_value")
            result = answered(line.custom_id, error.status, uuid.uuid4().hex, error.body())
            return FinishedLine(line, False, result)
        while True:
            response = await self._http.post(line.endpoint, content=line.body)
            answer = _answer_decoder.decode(response.content)
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE and not answer.is_aborted:
                break
            await asyncio.sleep(_RETRY_SECONDS)
        request_id = response.headers["x-request-id"]
        result = answered(line.custom_id, response.status_code, request_id, response.content)
        return FinishedLine(line, response.is_success, result, _usage_of(answer))


def _is_stream(body: bytes) -> bool:
    try:
        return bool(msgspec.json.decode(body, type=_Body).stream)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # the route says what is wrong


def _usage_of(answer: _Answer) -> Usage:
    usage = answer.usage or _AnswerUsage()
    details = usage.prompt_tokens_details or usage.input_tokens_details or _CachedTokens()
    return Usage(
        usage.prompt_tokens + usage.input_tokens,
        details.cached_tokens,
        usage.completion_tokens + usage.output_tokens,
    )
