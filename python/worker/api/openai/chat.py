"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response

from ...tokenization.text_output import TextOutput, TextRequest
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
from .chat_prompt import chat_prompt, with_template_stops
from .logprobs import chat_logprobs
from .requests import text_requests
from .types import ChatBody
from .usage import usage_of

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=takes(ChatBody))
async def chat_completions(request: Request) -> Response:
    """The assistant's next message, or `n` that it could be."""
    service = service_of(request)
    body = await read_body(request, ChatBody)
    name = f"chatcmpl-{uuid.uuid4().hex}"
    prompt = await chat_prompt(
        service,
        body.messages,
        body.chat_template_kwargs,
        continue_final_message=body.continue_final_message,
    )
    requests = text_requests(
        service, with_template_stops(service, body), prompt, rid=name, param="messages"
    )
    answer = {
        "id": name,
        "object": "chat.completion.chunk" if body.stream else "chat.completion",
        "created": int(time.time()),
        "model": body.model or service.model_name,
    }
    if body.service_tier is not None:
        answer["service_tier"] = "default"
    if body.stream:
        return EventStream(_events(service, body, requests, answer))
    outputs = await unless_disconnected(request.receive, service.run(requests))
    choices = [_choice(service, output) for output in outputs]
    usage = usage_of(outputs, body.samples, service.server_args.enable_cache_report)
    return json_response({**answer, "choices": choices, "usage": usage})


def _choice(service: WorkerService, output: TextOutput) -> dict[str, Any]:
    return {
        "index": output.index,
        "message": {"role": "assistant", "content": output.text, "refusal": None},
        "logprobs": _logprobs(service, output, range(output.completion_tokens)),
        "finish_reason": output.finish_reason,
    }


def _logprobs(service: WorkerService, output: TextOutput, places: range) -> dict[str, Any] | None:
    if output.request.logprobs is None:
        return None
    return chat_logprobs(output, places, service.tokenizer.token_bytes)


async def _events(
    service: WorkerService, body: ChatBody, requests: list[TextRequest], answer: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    if body.include_usage:
        answer = {**answer, "usage": None}

    def chunk(
        index: int,
        delta: dict[str, str],
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return event({**answer, "choices": [choice]})

    heads = {i: chunk(i, {"role": "assistant", "content": ""}) for i in range(len(requests))}
    with service.generate(requests, stream=True) as generation:
        async for output, text in generation.updates():
            content = heads.pop(output.index, b"")
            logprobs = _logprobs(service, output, output.fresh) if output.fresh else None
            if text:
                content += chunk(output.index, {"content": text}, logprobs)
                logprobs = None
            if output.finish is not None:
                content += chunk(output.index, {}, logprobs, output.finish_reason)
            yield content
    if body.include_usage:
        cache_report = service.server_args.enable_cache_report
        usage = usage_of(generation.outputs, body.samples, cache_report)
        yield event({**answer, "choices": [], "usage": usage})
    yield STREAM_END
