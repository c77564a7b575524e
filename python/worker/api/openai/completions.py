"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from ...tokenization.text_output import TextRequest
from ..errors import bad_request
from ..http_exchange import (
    STREAM_END,
    EventStream,
    event,
    json_response,
    read_body,
    unless_disconnected,
)
from ..openapi import takes
from ..service import WorkerService, service_of
from .requests import text_requests
from .types import CompletionBody
from .usage import usage_of

router = APIRouter()


@router.post("/v1/completions", openapi_extra=takes(CompletionBody))
async def completions(request: Request) -> Response:
    """Continue one prompt, or each of a list, `n` times.

    The answers to a prompt stand one after the other: its choices begin at its place times `n`.
    """
    service = service_of(request)
    body = await read_body(request, CompletionBody)
    _check_best_of(body)
    name = f"cmpl-{uuid.uuid4().hex}"
    requests: list[TextRequest] = []
    echoes: list[str] = []
    for index, prompt in enumerate(await _prompts(service, body)):
        rid = f"{name}-{index}"
        requests += text_requests(service, body, prompt.token_ids, rid=rid, param="prompt")
        echoes += [prompt.echo if body.echo else ""] * body.samples
    answer = {
        "id": name,
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model or service.model_name,
    }
    if body.stream:
        return EventStream(_events(service, body, requests, echoes, answer))
    outputs = await unless_disconnected(request.receive, service.run(requests))
    choices = [
        _choice(output.index, echo + output.text, output.finish_reason)
        for output, echo in zip(outputs, echoes, strict=True)
    ]
    usage = usage_of(outputs, body.samples, service.server_args.enable_cache_report)
    return json_response({**answer, "choices": choices, "usage": usage})


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _check_best_of(body: CompletionBody) -> None:
    if body.best_of not in (None, body.samples):
        raise bad_request(
            f"best_of: {body.best_of} is not supported with n {body.samples}, only the same number "
            "or none: choosing among samples needs log-probabilities, which this version does not "
            "compute",
            "best_of",
            "invalid_value",
        )


@dataclass(frozen=True)
class _Prompt:
    """`echo` is the text as it was given, or that of the token ids."""

    token_ids: list[int]
    echo: str


async def _prompts(service: WorkerService, body: CompletionBody) -> list[_Prompt]:
    given: Any = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not given:
        raise bad_request("The list of prompts is empty", "prompt")
    if isinstance(given[0], str):
        return [_Prompt(*each) for each in zip(await service.tokenize(given), given, strict=True)]
    prompts: list[list[int]] = [given] if isinstance(given[0], int) else given
    if not body.echo:
        return [_Prompt(token_ids, "") for token_ids in prompts]
    for token_ids in prompts:
        service.limits.check_token_ids(token_ids, "prompt")
    texts = await service.detokenize(prompts, body.skip_special_tokens)
    return [_Prompt(*each) for each in zip(prompts, texts, strict=True)]


async def _events(
    service: WorkerService,
    body: CompletionBody,
    requests: list[TextRequest],
    echoes: list[str],
    answer: dict[str, Any],
) -> AsyncGenerator[bytes, None]:
    if body.include_usage:
        answer = {**answer, "usage": None}
    heads = dict(enumerate(echoes))
    with service.generate(requests, stream=True) as generation:
        async for output, text in generation.updates():
            echo = heads.pop(output.index, "")
            choice = _choice(output.index, echo + text, output.finish_reason)
            yield event({**answer, "choices": [choice]})
    if body.include_usage:
        cache_report = service.server_args.enable_cache_report
        usage = usage_of(generation.outputs, body.samples, cache_report)
        yield event({**answer, "choices": [], "usage": usage})
    yield STREAM_END
