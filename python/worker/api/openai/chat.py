"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response

from ...tokenization.chat_template import ChatTemplateError
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
from .types import ChatBody
from .usage import usage_of

router = APIRouter()


@router.post("/v1/chat/completions", openapi_extra=takes(ChatBody))
async def chat_completions(request: Request) -> Response:
    """The assistant's next message."""
    service = service_of(request)
    body = await read_body(request, ChatBody)
    text_request = await _text_request(service, body)
    answer = {
        "id": text_request.rid,
        "object": "chat.completion.chunk" if body.stream else "chat.completion",
        "created": int(time.time()),
        "model": body.model or service.model_name,
    }
    if body.stream:
        return EventStream(_events(service, body, text_request, answer))
    outputs = await unless_disconnected(request.receive, service.run([text_request]))
    output = outputs[0]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": output.text, "refusal": None},
        "logprobs": None,
        "finish_reason": output.finish_reason,
    }
    usage = usage_of(outputs, service.server_args.enable_cache_report)
    return json_response({**answer, "choices": [choice], "usage": usage})


async def _text_request(service: WorkerService, body: ChatBody) -> TextRequest:
    rendered = _render(service, body)
    (prompt,) = await service.tokenize([rendered], add_special_tokens=False)
    param = "max_completion_tokens" if body.max_completion_tokens is not None else "max_tokens"
    limit = body.max_completion_tokens or body.max_tokens
    prompt = service.limits.fit_prompt(prompt, limit, "messages")
    if limit is not None:
        service.limits.check_answer_fits(len(prompt), limit, param)
    sampling = body.for_engine(limit or service.limits.room_after(len(prompt)))
    service.limits.check_sampling(sampling)
    return TextRequest(
        rid=f"chatcmpl-{uuid.uuid4().hex}",
        input_ids=prompt,
        sampling=sampling,
        stop_strings=body.stop,
        skip_special_tokens=body.skip_special_tokens,
    )


def _render(service: WorkerService, body: ChatBody) -> str:
    template = service.tokenizer.chat_template
    if template is None:
        raise bad_request(
            "This model has no chat template; start the worker with --chat-template, "
            "or use /v1/completions",
            "messages",
        )
    messages = [message.for_template() for message in body.messages]
    try:
        return template.render(messages, **(body.chat_template_kwargs or {}))
    except ChatTemplateError as error:
        raise bad_request(str(error), "messages") from error


async def _events(
    service: WorkerService, body: ChatBody, text_request: TextRequest, answer: dict[str, Any]
) -> AsyncGenerator[bytes, None]:
    if body.include_usage:
        answer = {**answer, "usage": None}

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return event({**answer, "choices": [choice]})

    head = chunk({"role": "assistant", "content": ""})
    with service.generate([text_request], stream=True) as generation:
        async for output, text in generation.updates():
            content = head
            head = b""
            if text:
                content += chunk({"content": text})
            if output.finish is not None:
                content += chunk({}, output.finish_reason)
            yield content
    if body.include_usage:
        usage = usage_of(generation.outputs, service.server_args.enable_cache_report)
        yield event({**answer, "choices": [], "usage": usage})
    yield STREAM_END
