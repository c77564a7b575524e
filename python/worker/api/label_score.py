"""POST /v1/score on a model that generates: how likely each label is to come next, as SGLang."""

from __future__ import annotations

import math
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from ..messages import GenerateRequest, LogprobOptions, SamplingParams
from .engine_client import given_up
from .errors import bad_request
from .fields import RequestModel, TokenId, described, refused
from .http_exchange import json_response, read_body, unless_disconnected
from .openapi import takes
from .prompt_limits import check_count
from .service import WorkerService, service_of

router = APIRouter()

_MOST_LABELS = 1024
_OfPairs = Annotated[
    Any,
    refused(
        "is for embedding models and cross-encoders; this one generates text: give query, items "
        "and label_token_ids"
    ),
]


class LabelScoreBody(RequestModel):
    """`query` before each of `items`, or after it: both texts, or both token ids."""

    text_1: _OfPairs = None
    text_2: _OfPairs = None

    model: str = ""
    query: Annotated[str | list[int], described("a string or a list of token ids")]
    items: Annotated[
        str | list[str] | list[list[int]],
        described("a string, a list of strings or a list of lists of token ids"),
    ]
    label_token_ids: Annotated[list[TokenId], Field(min_length=1, max_length=_MOST_LABELS)]
    apply_softmax: bool = False
    item_first: bool = False


@router.post("/v1/score", openapi_extra=takes(LabelScoreBody))
@router.post("/score", openapi_extra=takes(LabelScoreBody), include_in_schema=False)
async def score_labels(request: Request) -> Response:
    """For each item the probability of each label as the next token, of all the vocabulary's.

    With `apply_softmax` the labels' own probabilities make up 1.
    """
    service = service_of(request)
    body = await read_body(request, LabelScoreBody)
    service.limits.check_token_ids(body.label_token_ids, "label_token_ids")
    prompts = await _prompts(service, body)
    work = _logprobs(service, prompts, tuple(body.label_token_ids))
    scores = [
        _softmax(row) if body.apply_softmax else [math.exp(each) for each in row]
        for row in await unless_disconnected(request.receive, work)
    ]
    tokens = sum(map(len, prompts))
    return json_response(
        {
            "object": "scoring",
            "model": body.model or service.model_name,
            "scores": scores,
            "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
        }
    )


async def _prompts(service: WorkerService, body: LabelScoreBody) -> list[list[int]]:
    query: Any = body.query
    items: Any = [body.items] if isinstance(body.items, str) else body.items
    check_count(len(items), "items")
    if isinstance(query, str) != isinstance(items[0], str):
        raise bad_request("query and items must both be texts or both token ids", "items")
    joined: Any = [item + query if body.item_first else query + item for item in items]
    if isinstance(query, str):
        joined = await service.tokenize(joined)
    return [
        service.limits.fit_prompt(prompt, 1, f"items[{index}]")
        for index, prompt in enumerate(joined)
    ]


async def _logprobs(
    service: WorkerService, prompts: list[list[int]], labels: tuple[int, ...]
) -> list[list[float]]:
    """Of `labels` after each prompt. The one token that is generated for this is not looked at."""
    name = f"score-{uuid.uuid4().hex}"
    sampling = SamplingParams(max_new_tokens=1, temperature=0.0, ignore_eos=True)
    options = LogprobOptions(token_ids=labels)
    requests = [
        GenerateRequest(f"{name}-{index}", prompt, sampling, logprobs=options)
        for index, prompt in enumerate(prompts)
    ]
    found: dict[str, list[float]] = {}
    stream = service.engine.open(requests, timeout_seconds=service.seconds_left())
    try:
        while chunks := await stream.chunks():
            for chunk in chunks:
                if chunk.finish is not None and chunk.finish.kind == "abort":
                    raise given_up(chunk.finish)
                if chunk.logprobs is not None:
                    (found[chunk.rid],) = chunk.logprobs.wanted
    finally:
        stream.close()
    return [found[request.rid] for request in requests]


def _softmax(logprobs: list[float]) -> list[float]:
    peak = max(logprobs)
    weights = [math.exp(each - peak) for each in logprobs]
    total = sum(weights)
    return [weight / total for weight in weights]
