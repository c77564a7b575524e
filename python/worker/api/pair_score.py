"""POST /v1/score on an embedding model or a cross-encoder: how well pairs of texts fit, as vLLM."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from .embedding import usage_of
from .errors import bad_request
from .fields import RequestModel, described, refused
from .http_exchange import json_response, read_body, unless_disconnected
from .openapi import takes
from .prompt_limits import check_count
from .relevance import NamedText, relevance
from .service import service_of

router = APIRouter()

_Texts = Annotated[str | list[str], described("a string or a list of strings")]
_OfLabels = Annotated[
    Any, refused("is for models that generate text; this one scores pairs: give text_1 and text_2")
]


class PairScoreBody(RequestModel):
    """One text and another, one and each of a list, or two lists of the same length."""

    query: _OfLabels = None
    items: _OfLabels = None
    label_token_ids: _OfLabels = None
    apply_softmax: _OfLabels = None
    item_first: _OfLabels = None

    model: str = ""
    text_1: _Texts
    text_2: _Texts


@router.post("/v1/score", openapi_extra=takes(PairScoreBody))
@router.post("/score", openapi_extra=takes(PairScoreBody), include_in_schema=False)
async def score_pairs(request: Request) -> Response:
    """A score for each pair, in the order of `text_2`."""
    service = service_of(request)
    body = await read_body(request, PairScoreBody)
    pairs = _pairs(_named(body.text_1, "text_1"), _named(body.text_2, "text_2"))
    work = relevance(service, pairs, "score")
    scores, answers = await unless_disconnected(request.receive, work)
    data = [{"index": i, "object": "score", "score": each} for i, each in enumerate(scores)]
    return json_response(
        {
            "id": answers[0].rid.removesuffix("-0"),
            "object": "list",
            "created": int(time.time()),
            "model": body.model or service.model_name,
            "data": data,
            "usage": usage_of(answers, service.server_args.enable_cache_report),
        }
    )


def _named(given: str | list[str], field: str) -> list[NamedText]:
    if isinstance(given, str):
        return [NamedText(given, field)]
    check_count(len(given), field)
    return [NamedText(text, f"{field}[{index}]") for index, text in enumerate(given)]


def _pairs(first: list[NamedText], second: list[NamedText]) -> list[tuple[NamedText, NamedText]]:
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        raise bad_request(
            f"text_1 has {len(first)} entries and text_2 {len(second)}: text_1 must have one, or "
            "as many",
            "text_1",
            "invalid_value",
        )
    return list(zip(first, second, strict=True))
