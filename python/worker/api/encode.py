"""POST /encode and /classify: vectors and scores, as SGLang 0.4.3's native API answers them."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from .embedding import EmbeddedText, embed, is_one_text, read_inputs
from .errors import bad_request
from .fields import RequestIds, RequestModel, described, only
from .http_exchange import json_response, read_body, unless_disconnected
from .openapi import takes
from .service import service_of

router = APIRouter()


class EncodeBody(RequestModel):
    """One text, or a list of them; exactly one of `text` and `input_ids`."""

    model: str = ""
    text: Annotated[str | list[str] | None, described("a string or a list of strings")] = None
    input_ids: Annotated[
        list[int] | list[list[int]] | None,
        described("a list of token ids or a list of such lists"),
    ] = None
    rid: RequestIds = None

    sampling_params: Annotated[Any, only(None, {})] = None
    input_embeds: Annotated[Any, only(None)] = None
    image_data: Annotated[Any, only(None)] = None
    modalities: Annotated[Any, only(None)] = None


@router.put("/encode", openapi_extra=takes(EncodeBody))
@router.post("/encode", openapi_extra=takes(EncodeBody))
@router.put("/classify", openapi_extra=takes(EncodeBody))
@router.post("/classify", openapi_extra=takes(EncodeBody))
async def encode(request: Request) -> Response:
    """What the model makes of each text: both routes answer for both kinds of models.

    The scores of a classification are raw: nothing makes probabilities of them.
    """
    service = service_of(request)
    body = await read_body(request, EncodeBody)
    if (body.text is None) == (body.input_ids is None):
        raise bad_request("Give either text or input_ids", "text")
    given: Any = body.input_ids if body.text is None else body.text
    inputs = await read_inputs(service, given, "input_ids" if body.text is None else "text")
    work = embed(service, inputs, _rids(body.rid, len(inputs)))
    answers = [_answer(text) for text in await unless_disconnected(request.receive, work)]
    return json_response(answers[0] if is_one_text(given) else answers)


def _rids(given: str | list[str] | None, count: int) -> list[str]:
    if given is None:
        return [uuid.uuid4().hex for _ in range(count)]
    rids = [given] if isinstance(given, str) else given
    if len(rids) != count:
        raise bad_request(f"rid has {len(rids)} entries for {count} texts", "rid")
    return rids


def _answer(text: EmbeddedText) -> dict[str, Any]:
    meta_info = {
        "id": text.rid,
        "prompt_tokens": text.prompt_tokens,
        "cached_tokens": text.cached_tokens,
        "finish_reason": {"type": "length", "length": 0},
        "e2e_latency": text.seconds,
    }
    return {"embedding": text.values, "meta_info": meta_info}
