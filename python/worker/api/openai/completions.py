"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
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
    for index, prompt in enumerate(await _prompts(service, body)):
        rid = f"{name}-{index}"
        requests += text_requests(service, body, prompt, rid=rid, param="prompt")
    answer = {
        "id": name,
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model or service.model_name,
    }
    if body.stream:
        return EventStream(_events(service, body, requests, answer))
    outputs = await unless_disconnected(request.receive, service.run(requests))
    choices = [_choice(output.index, output.text, output.finish_reason) for output in outputs]
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


async def _prompts(service: WorkerService, body: CompletionBody) -> list[list[int]]:
    prompt: Any = body.prompt
    if isinstance(prompt, str):
        return await service.tokenize([prompt])
    if not prompt:
        raise bad_request("The list of prompts is empty", "prompt")
    if isinstance(prompt[0], str):
        return await service.tokenize(prompt)
    return [prompt] if isinstance(prompt[0], int) else prompt


async def _events(
    service: WorkerService,
    body: CompletionBody,
    requests: list[TextRequest],
    answer: dict[str, Any],
) -> AsyncGenerator[bytes, None]:
    if body.include_usage:
        answer = {**answer, "usage": None}
    with service.generate(requests, stream=True) as generation:
        async for output, text in generation.updates():
            choice = _choice(output.index, text, output.finish_reason)
            yield event({**answer, "choices": [choice]})
    if body.include_usage:
        cache_report = service.server_args.enable_cache_report
        usage = usage_of(generation.outputs, body.samples, cache_report)
        yield event({**answer, "choices": [], "usage": usage})
    yield STREAM_END
