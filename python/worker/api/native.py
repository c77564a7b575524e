"""POST /generate: the native API, with the answers and events of SGLang 0.4.3."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from typing import Any, TypeGuard, cast

from fastapi import APIRouter, Request, Response

from ..tokenization.text_output import TextOutput, TextRequest
from .errors import bad_request
from .http_exchange import (
    STREAM_END,
    EventStream,
    event,
    json_response,
    read_body,
    unless_disconnected,
)
from .native_types import GenerateBody, SamplingFields
from .openapi import takes
from .service import WorkerService, service_of

router = APIRouter()


@router.put("/generate", openapi_extra=takes(GenerateBody))
@router.post("/generate", openapi_extra=takes(GenerateBody))
async def generate(request: Request) -> Response:
    """Continue one prompt, or each of a list, once or `n` times.

    Several answers come as a list, those to the same prompt one after the other. `max_new_tokens`
    is cut to what the context leaves.
    """
    service = service_of(request)
    body = await read_body(request, GenerateBody)
    requests = await _requests(service, body)
    is_list = isinstance(body.text, list) or _is_list_of_lists(body.input_ids) or len(requests) > 1
    if body.stream:
        return EventStream(_events(service, requests, is_list))
    outputs = await unless_disconnected(request.receive, service.run(requests))
    answers = [_answer(output) for output in outputs]
    return json_response(answers if is_list else answers[0])


def _is_list_of_lists(input_ids: Any) -> TypeGuard[list[list[int]]]:
    return isinstance(input_ids, list) and bool(input_ids) and isinstance(input_ids[0], list)


async def _events(
    service: WorkerService, requests: list[TextRequest], is_list: bool
) -> AsyncGenerator[bytes, None]:
    """Each event holds the whole text so far."""
    with service.generate(requests, stream=True) as generation:
        async for output, _ in generation.updates():
            answer = _answer(output)
            yield event({**answer, "index": output.index} if is_list else answer)
    yield STREAM_END


def _answer(output: TextOutput) -> dict[str, Any]:
    return {"text": output.text, "meta_info": output.meta_info}


async def _requests(service: WorkerService, body: GenerateBody) -> list[TextRequest]:
    prompts = await _prompts(service, body)
    samplings = _one_each("sampling_params", body.sampling_params, SamplingFields(), len(prompts))
    rids = _one_each("rid", body.rid, None, len(prompts))
    counts = {sampling.n or 1 for sampling in samplings}
    if len(counts) > 1:
        raise bad_request("n must be the same for all prompts", "sampling_params")
    (count,) = counts
    param = "text" if body.input_ids is None else "input_ids"
    requests = []
    for prompt, sampling, rid in zip(prompts, samplings, rids, strict=True):
        prompt = service.limits.fit_prompt(prompt, sampling.max_new_tokens, param)
        room = service.limits.room_after(len(prompt))
        params = sampling.for_engine(min(sampling.max_new_tokens or room, room))
        service.limits.check_sampling(params, prefix="sampling_params.", least="min_new_tokens")
        request = TextRequest(
            rid=rid or uuid.uuid4().hex,
            input_ids=prompt,
            sampling=params,
            stop_strings=sampling.stop,
            skip_special_tokens=sampling.skip_special_tokens,
            measured=body.log_metrics,
        )
        requests += request.samples(count)
    return requests


async def _prompts(service: WorkerService, body: GenerateBody) -> list[list[int]]:
    if (body.text is None) == (body.input_ids is None):
        raise bad_request("Give either text or input_ids", "text")
    if body.text is not None:
        texts = body.text if isinstance(body.text, list) else [body.text]
        prompts = await service.tokenize(texts)
    elif _is_list_of_lists(body.input_ids):
        prompts = body.input_ids
    else:
        prompts = [cast(list[int], body.input_ids)]
    if not prompts:
        raise bad_request("The list of prompts is empty", "text")
    return prompts


def _one_each(name: str, given: Any, default: Any, count: int) -> list[Any]:
    """`given` for each of `count` prompts: a list is one each already."""
    if isinstance(given, list):
        if len(given) != count:
            raise bad_request(f"{name} has {len(given)} entries for {count} prompts", name)
        return given
    if given is None:
        return [default] * count
    if name == "rid" and count > 1:
        raise bad_request("rid must be a list when there are several prompts", name)
    return [given] * count
