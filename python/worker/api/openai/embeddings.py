"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field

from ...messages import EmbeddingInfo
from ..embedding import Numbers, embed, info_of, new_rids, read_inputs, usage_of
from ..errors import bad_request
from ..fields import RequestModel, described
from ..http_exchange import json_response, read_body, unless_disconnected
from ..openapi import takes
from ..service import service_of

router = APIRouter()

_Text = Annotated[str, Field(min_length=1)]


class EmbeddingBody(RequestModel):
    """The body of POST /v1/embeddings."""

    model: str = ""
    input: Annotated[
        _Text | list[_Text] | list[int] | list[list[int]],
        described(
            "a text, a list of texts, a list of token ids or a list of such lists, none empty"
        ),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None  # a note of the client's own, which changes no answer


@router.post("/v1/embeddings", openapi_extra=takes(EmbeddingBody))
async def embeddings(request: Request) -> Response:
    """The vector of each text. Its first `dimensions` numbers make a vector of their own."""
    service = service_of(request)
    body = await read_body(request, EmbeddingBody)
    info = info_of(service)
    _check_dimensions(body.dimensions, info)
    inputs = await read_inputs(service, body.input, "input")
    work = embed(service, inputs, new_rids("embd", len(inputs)))
    texts = await unless_disconnected(request.receive, work)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _encoded(_cut(text.values, body.dimensions, info), body.encoding_format),
        }
        for index, text in enumerate(texts)
    ]
    usage = usage_of(texts, service.server_args.enable_cache_report)
    model = body.model or service.model_name
    return json_response({"object": "list", "data": data, "model": model, "usage": usage})


def _check_dimensions(dimensions: int | None, info: EmbeddingInfo) -> None:
    if dimensions is None:
        return
    if info.kind == "classification":
        message = "dimensions: this is a classification model, whose scores cannot be cut"
        raise bad_request(message, "dimensions", "invalid_value")
    if dimensions > info.size:
        message = f"dimensions: this model's embeddings have {info.size}, not {dimensions}"
        raise bad_request(message, "dimensions", "invalid_value")


def _cut(values: Numbers, dimensions: int | None, info: EmbeddingInfo) -> Numbers:
    """The beginning of a vector, of length 1 again if the vector is."""
    if dimensions is None or dimensions == info.size:
        return values
    cut = values[:dimensions]
    length = float(np.linalg.norm(cut))
    return cut / length if info.normalized and length > 0 else cut


def _encoded(values: Numbers, encoding: str | None) -> Any:
    """A list, or in base64 the bytes of float32, little end first."""
    return (
        base64.b64encode(values.astype("<f4").tobytes()).decode()
        if encoding == "base64"
        else values
    )
