"""POST /generate: the native API, with the answers and events of SGLang 0.4.3."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Request, Response

from ..tokenization.native_answer import NativeAnswer, NativeFieldError
from ..tokenization.text_output import TextOutput, TextRequest
from ..tokenization.token_bytes import TokenBytes
from .errors import bad_request
from .http_exchange import STREAM_END, EventStream, event, json_response, unless_disconnected
from .native_prompts import GenerateCall, read_call
from .native_requests import text_requests
from .native_types import GenerateBody
from .openapi import takes
from .service import WorkerService, service_of
from .session_store import recorded
from .text_generation import TextGeneration

router = APIRouter()


@router.put("/generate", openapi_extra=takes(GenerateBody))
@router.post("/generate", openapi_extra=takes(GenerateBody))
async def generate(request: Request) -> Response:
    """Continue one prompt, or each of a list, once or `n` times.

    Several answers come as a list, those to the same prompt one after the other. `max_new_tokens`
    is cut to what the context leaves. Without a tokenizer answers have `token_ids`, and no `text`.
    """
    service = service_of(request)
    call = await read_call(service, request)
    try:
        requests = text_requests(service, call)
    except NativeFieldError as error:
        raise bad_request(str(error), error.field) from error
    texts = service.tokenizer.token_bytes if call.body.return_text_in_logprobs else None
    is_list = call.is_list or len(requests) > 1
    if call.body.stream:
        return EventStream(_events(service, call, requests, texts, is_list))
    outputs = await unless_disconnected(request.receive, _run(service, call, requests))
    answers = [_shown(NativeAnswer(output, texts)) for output in outputs]
    return json_response(answers if is_list else answers[0])


@contextmanager
def _generation(
    service: WorkerService, call: GenerateCall, requests: Sequence[TextRequest]
) -> Iterator[TextGeneration]:
    """The requests while they run, each a part of its session, if it has one."""
    samples = len(requests) // len(call.prompts)
    starts = [prompt.start for prompt in call.prompts for _ in range(samples)]
    with (
        service.generate(requests, call.body.stream) as generation,
        recorded(starts, generation.outputs, service.engine.replace),
    ):
        yield generation


async def _run(
    service: WorkerService, call: GenerateCall, requests: Sequence[TextRequest]
) -> list[TextOutput]:
    with _generation(service, call, requests) as generation:
        return await generation.run()


async def _events(
    service: WorkerService,
    call: GenerateCall,
    requests: Sequence[TextRequest],
    texts: TokenBytes | None,
    is_list: bool,
) -> AsyncGenerator[bytes, None]:
    """Each event holds all of its answer so far."""
    with _generation(service, call, requests) as generation:
        answers = [NativeAnswer(output, texts) for output in generation.outputs]
        async for output, _ in generation.updates():
            shown = _shown(answers[output.index])
            yield event({**shown, "index": output.index} if is_list else shown)
    yield STREAM_END


def _shown(answer: NativeAnswer) -> dict[str, Any]:
    output = answer.output
    if output.detokenizer is None:
        return {"token_ids": output.output_ids, "meta_info": answer.meta_info()}
    return {"text": output.text, "meta_info": answer.meta_info()}
