"""POST /v1/completions."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response

from ...tokenization.text_output import TextOutput, TextRequest
from ...tokenization.token_bytes import TokenBytes
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
from ..prompt_limits import check_answers
from ..service import WorkerService, service_of
from .logprobs import completion_logprobs
from .requests import text_requests
from .types import CompletionBody
from .usage import by_prompt, usage_of

router = APIRouter()


@router.post("/v1/completions", openapi_extra=takes(CompletionBody))
async def completions(request: Request) -> Response:
    """Continue one prompt, or each of a list, `n` times, or `best_of` times for the `n` likeliest.

    The answers to a prompt stand one after the other: its choices begin at its place times `n`.
    """
    service = service_of(request)
    body = await read_body(request, CompletionBody)
    choices = _Choices(body, service.tokenizer.token_bytes)
    name = f"cmpl-{uuid.uuid4().hex}"
    prompts = await _prompts(service, body)
    check_answers(len(prompts), body.generated, "n" if body.best_of is None else "best_of")
    requests: list[TextRequest] = []
    for index, prompt in enumerate(prompts):
        rid = f"{name}-{index}"
        requests += text_requests(service, body, prompt.token_ids, rid=rid, param="prompt")
        choices.echoes.extend([prompt.echo if body.echo else ""] * body.generated)
    answer = {
        "id": name,
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.model or service.model_name,
    }
    if body.stream:
        return EventStream(_events(service, body, requests, choices, answer))
    outputs = await unless_disconnected(request.receive, service.run(requests))
    made = [
        choices.choice(index, output, output.text, range(output.completion_tokens), is_first=True)
        for index, output in enumerate(_best(outputs, body))
    ]
    usage = usage_of(outputs, body.generated, service.server_args.enable_cache_report)
    return json_response({**answer, "choices": made, "usage": usage})


@dataclass(frozen=True)
class _Choices:
    """Writes the choices of a call; `echoes` are what the text to each request begins with."""

    body: CompletionBody
    token_bytes: TokenBytes
    echoes: list[str] = field(default_factory=list)

    def choice(
        self, index: int, output: TextOutput, text: str, places: range, *, is_first: bool
    ) -> dict[str, Any]:
        """With this piece of the answer, and the log-probabilities of its tokens at `places`."""
        echo = self.echoes[output.index]
        logprobs = None
        if self.body.logprobs is not None:
            logprobs = completion_logprobs(
                output,
                places,
                self.token_bytes,
                echo=echo,
                with_prompt=bool(self.body.echo) and is_first,
            )
        return {
            "index": index,
            "text": echo + text if is_first else text,
            "logprobs": logprobs,
            "finish_reason": output.finish_reason,
        }


def _best(outputs: list[TextOutput], body: CompletionBody) -> list[TextOutput]:
    """Of the answers to each prompt those to be given: where more were made, the likeliest by mean
    log-probability of their tokens, best first.
    """
    if body.generated == body.samples:
        return outputs
    prompts = by_prompt(outputs, body.generated)
    ranked = (sorted(answers, key=_mean_logprob, reverse=True) for answers in prompts)
    return [output for answers in ranked for output in answers[: body.samples]]


def _mean_logprob(output: TextOutput) -> float:
    return sum(output.logprobs.chosen) / max(output.completion_tokens, 1)


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
    choices: _Choices,
    answer: dict[str, Any],
) -> AsyncGenerator[bytes, None]:
    if body.include_usage:
        answer = {**answer, "usage": None}
    unseen = set(range(len(requests)))
    with service.generate(requests, stream=True) as generation:
        async for output, text in generation.updates():
            is_first = output.index in unseen
            unseen.discard(output.index)
            choice = choices.choice(output.index, output, text, output.fresh, is_first=is_first)
            yield event({**answer, "choices": [choice]})
    if body.include_usage:
        cache_report = service.server_args.enable_cache_report
        usage = usage_of(generation.outputs, body.generated, cache_report)
        yield event({**answer, "choices": [], "usage": usage})
    yield STREAM_END
