"""POST /v1/chat/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

from ...parsers.deltas import CallDelta, parse
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
from .chat_answer import AnswerForm, delta_json, message_json
from .chat_prompt import reasoning_variables, rendered_chat, with_template_stops
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
    rendered = rendered_chat(
        service,
        body.messages,
        reasoning_variables(service, body.reasoning_effort, body.chat_template_kwargs),
        tools=body.tools_to_call,
        continue_final_message=body.continue_final_message,
    )
    form = AnswerForm.of(service, body, rendered)
    (prompt,) = await service.tokenize([rendered], add_special_tokens=False)
    requests = text_requests(
        service,
        with_template_stops(service, body),
        prompt,
        rid=name,
        param="messages",
        form=form,
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
        return EventStream(_events(service, body, form, requests, answer))
    outputs = await unless_disconnected(request.receive, service.run(requests))
    choices = [_choice(service, form, output) for output in outputs]
    usage = usage_of(outputs, body.samples, service.server_args.enable_cache_report)
    return json_response({**answer, "choices": choices, "usage": usage})


def _choice(service: WorkerService, form: AnswerForm, output: TextOutput) -> dict[str, Any]:
    answer = parse(form.new_parser(), output.text)
    return {
        "index": output.index,
        "message": message_json(answer, form),
        "logprobs": _logprobs(service, output, range(output.completion_tokens)),
        "finish_reason": form.finish_reason(output, bool(answer.calls)),
    }


def _logprobs(service: WorkerService, output: TextOutput, places: range) -> dict[str, Any] | None:
    if output.request.logprobs is None or not places:
        return None
    return chat_logprobs(output, places, service.tokenizer.token_bytes)


async def _events(
    service: WorkerService,
    body: ChatBody,
    form: AnswerForm,
    requests: list[TextRequest],
    answer: dict[str, Any],
) -> AsyncGenerator[bytes, None]:
    if body.include_usage:
        answer = {**answer, "usage": None}
    choices = [_StreamedChoice(service, form) for _ in requests]
    with service.generate(requests, stream=True) as generation:
        async for output, text in generation.updates():
            chunks = choices[output.index].chunks(output, text)
            if events := b"".join(event({**answer, "choices": [chunk]}) for chunk in chunks):
                yield events
    if body.include_usage:
        cache_report = service.server_args.enable_cache_report
        usage = usage_of(generation.outputs, body.samples, cache_report)
        yield event({**answer, "choices": [], "usage": usage})
    yield STREAM_END


class _StreamedChoice:
    """One answer as it comes. What its parser holds back keeps its log-probabilities with it."""

    def __init__(self, service: WorkerService, form: AnswerForm) -> None:
        self._service = service
        self._form = form
        self._parser = form.new_parser()
        self._content = "" if form.is_text else None
        self._begun = False
        self._has_calls = False
        self._told = 0  # tokens whose log-probabilities have gone out

    def chunks(self, output: TextOutput, text: str) -> Iterator[dict[str, Any]]:
        """What goes out now that `text` came."""
        if not self._begun:
            self._begun = True
            yield self._chunk(output, {"role": "assistant", "content": self._content}, range(0))
        deltas = self._parser.push(text)
        if output.finish is not None:
            deltas += self._parser.end()
        for delta in deltas:
            self._has_calls |= isinstance(delta, CallDelta)
            yield self._chunk(output, delta_json(delta), self._untold(output))
        if output.finish is not None:
            reason = self._form.finish_reason(output, self._has_calls)
            yield self._chunk(output, {}, self._untold(output), reason)

    def _untold(self, output: TextOutput) -> range:
        places = range(self._told, output.fresh.stop)
        self._told = places.stop
        return places

    def _chunk(
        self,
        output: TextOutput,
        delta: dict[str, Any],
        places: range,
        finish_reason: str | None = None,
    ) -> dict[str, Any]:
        return {
            "index": output.index,
            "delta": delta,
            "logprobs": _logprobs(self._service, output, places),
            "finish_reason": finish_reason,
        }
