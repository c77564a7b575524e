"""POST /generate: the native API, with the answers and events of SGLang 0.4.3."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from typing import Any, TypeGuard, cast

from fastapi import APIRouter, Request, Response

from ..tokenization.native_answer import LogprobWish, NativeFieldError, meta_info, one_each
from ..tokenization.text_output import TextOutput, TextRequest
from ..tokenization.token_bytes import TokenBytes
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
    is cut to what the context leaves. Without a tokenizer answers have `token_ids`, and no `text`.
    """
    service = service_of(request)
    body = await read_body(request, GenerateBody)
    try:
        requests = await _requests(service, body)
    except NativeFieldError as error:
        raise bad_request(str(error), error.field) from error
    texts = service.tokenizer.token_bytes if body.return_text_in_logprobs else None
    is_list = isinstance(body.text, list) or _is_list_of_lists(body.input_ids) or len(requests) > 1
    if body.stream:
        return EventStream(_events(service, requests, texts, is_list))
    outputs = await unless_disconnected(request.receive, service.run(requests))
    answers = [_answer(output, texts) for output in outputs]
    return json_response(answers if is_list else answers[0])


def _is_list_of_lists(input_ids: Any) -> TypeGuard[list[list[int]]]:
    return isinstance(input_ids, list) and bool(input_ids) and isinstance(input_ids[0], list)


async def _events(
    service: WorkerService, requests: list[TextRequest], texts: TokenBytes | None, is_list: bool
) -> AsyncGenerator[bytes, None]:
    """Each event holds all of its answer so far."""
    with service.generate(requests, stream=True) as generation:
        async for output, _ in generation.updates():
            answer = _answer(output, texts)
            yield event({**answer, "index": output.index} if is_list else answer)
    yield STREAM_END


def _answer(output: TextOutput, texts: TokenBytes | None) -> dict[str, Any]:
    """`texts` are those of tokens in log-probabilities."""
    known = {"meta_info": meta_info(output, texts)}
    if output.detokenizer is None:
        return {"token_ids": output.output_ids} | known
    return {"text": output.text} | known


async def _requests(service: WorkerService, body: GenerateBody) -> list[TextRequest]:
    prompts = await _prompts(service, body)
    samplings = one_each("sampling_params", body.sampling_params, SamplingFields(), len(prompts))
    rids = one_each("rid", body.rid, None, len(prompts))
    if isinstance(body.rid, str) and len(prompts) > 1:
        raise bad_request("rid must be a list when there are several prompts", "rid")
    wishes = LogprobWish.each(
        body.return_logprob, body.logprob_start_len, body.top_logprobs_num, len(prompts)
    )
    counts = {sampling.n or 1 for sampling in samplings}
    if len(counts) > 1:
        raise bad_request("n must be the same for all prompts", "sampling_params")
    (count,) = counts
    param = "text" if body.input_ids is None else "input_ids"
    requests = []
    for prompt, sampling, rid, wish in zip(prompts, samplings, rids, wishes, strict=True):
        prompt = service.limits.fit_prompt(prompt, sampling.max_new_tokens, param)
        room = service.limits.room_after(len(prompt))
        limit = room if sampling.max_new_tokens is None else min(sampling.max_new_tokens, room)
        params = sampling.for_engine(limit)
        service.limits.check_sampling(params, prefix="sampling_params.", least="min_new_tokens")
        _check_stop_strings(service, sampling)
        request = TextRequest(
            rid=rid or uuid.uuid4().hex,
            input_ids=prompt,
            sampling=params,
            stop_strings=sampling.stop,
            skip_special_tokens=sampling.skip_special_tokens,
            measured=body.log_metrics,
            logprobs=wish and wish.options(len(prompt)),
            return_hidden_states=body.return_hidden_states
            or service.server_args.return_hidden_states,
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


def _check_stop_strings(service: WorkerService, sampling: SamplingFields) -> None:
    if sampling.stop and service.loaded_tokenizer is None:
        raise bad_request(
            "sampling_params.stop: this worker was started with --skip-tokenizer-init, and has no "
            "text to stop at; use stop_token_ids",
            "sampling_params.stop",
        )
