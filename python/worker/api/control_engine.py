"""Routes that reach into the running engine: its weights, its memory, traces of its steps."""

from __future__ import annotations

import os
import time
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field

from ..messages import (
    ControlOrder,
    GetWeight,
    OrderDone,
    ReleaseMemory,
    ResumeMemory,
    StartProfile,
    StopProfile,
    UpdateWeights,
    WeightValues,
)
from .errors import bad_request
from .fields import RequestModel, TokenCount
from .http_exchange import json_response, read_body
from .openapi import takes
from .service import service_of

router = APIRouter()

FilePath = Annotated[str, Field(min_length=1, max_length=4096)]

_UNNUMBERED = ""  # the id of an order, until it is sent


class UpdateWeightsBody(RequestModel):
    """A checkpoint of the same architecture and sizes."""

    model_path: FilePath
    load_format: Literal["auto", "safetensors", "gguf", "dummy"] | None = None
    abort_all_requests: bool = False


@router.post("/update_weights", openapi_extra=takes(UpdateWeightsBody), include_in_schema=False)
@router.post(
    "/update_weights_from_disk",
    openapi_extra=takes(UpdateWeightsBody),
    responses={400: {"description": "Not loaded; has the shape of a success"}},
)
async def update_weights_from_disk(request: Request) -> Response:
    """Serve other weights, when the requests before this one have ended; 400 if that fails.

    A failure has the shape of a success, as in SGLang.
    """
    service = service_of(request)
    body = await read_body(request, UpdateWeightsBody)
    load_format = body.load_format or "auto"
    if body.abort_all_requests:
        service.engine.abort("")
    answer = await service.engine.control(UpdateWeights(_UNNUMBERED, body.model_path, load_format))
    assert isinstance(answer, OrderDone)
    if answer.success:
        service.now_serves(body.model_path, load_format)
    content = {"success": answer.success, "message": answer.message}
    response = json_response(content)
    response.status_code = 200 if answer.success else 400
    return response


class GetWeightBody(RequestModel):
    """A tensor by its name in the checkpoint, and how many of its rows or numbers."""

    name: Annotated[str, Field(max_length=1024)]
    truncate_size: TokenCount = 100


@router.get("/get_weights_by_name", openapi_extra=takes(GetWeightBody))
@router.post("/get_weights_by_name", openapi_extra=takes(GetWeightBody))
async def get_weights_by_name(request: Request) -> Response:
    """The first rows of a tensor, or numbers of a vector, as lists; 400 if there is none."""
    body = await read_body(request, GetWeightBody)
    order = GetWeight(_UNNUMBERED, body.name, body.truncate_size)
    answer = await service_of(request).engine.control(order)
    if not isinstance(answer, WeightValues):
        raise bad_request(answer.message, "name")
    return json_response(np.frombuffer(answer.values, np.float32).reshape(answer.shape))


@router.get("/release_memory_occupation")
@router.post("/release_memory_occupation")
async def release_memory_occupation(request: Request) -> Response:
    """Give back weights and KV cache, when the requests before this one have ended.

    Until they are taken back, requests get 503.
    """
    return json_response(await _carry_out(request, ReleaseMemory(_UNNUMBERED)))


@router.get("/resume_memory_occupation")
@router.post("/resume_memory_occupation")
async def resume_memory_occupation(request: Request) -> Response:
    """Take back what was released; 400 if nothing was, or if the memory is not free."""
    return json_response(await _carry_out(request, ResumeMemory(_UNNUMBERED)))


class StartProfileBody(RequestModel):
    """What to trace, how long, and where to."""

    output_dir: FilePath | None = None
    num_steps: TokenCount | None = None
    activities: Annotated[list[Literal["CPU", "GPU"]], Field(min_length=1)] | None = None
    with_stack: bool | None = False
    record_shapes: bool | None = False


@router.get("/start_profile")
@router.post("/start_profile", openapi_extra=takes(StartProfileBody, optional=True))
async def start_profile(request: Request) -> Response:
    """Trace the engine's steps from now on; 400 if that is being done."""
    body = await read_body(request, StartProfileBody, optional=True)
    order = StartProfile(
        _UNNUMBERED,
        name=f"{time.time():.3f}-{os.getpid()}",  # workers of a host may share the folder
        folder=body.output_dir,
        num_steps=body.num_steps,
        activities=tuple(body.activities or ()),
        with_stack=bool(body.with_stack),
        record_shapes=bool(body.record_shapes),
    )
    return json_response(await _carry_out(request, order))


@router.get("/stop_profile")
@router.post("/stop_profile")
async def stop_profile(request: Request) -> Response:
    """End the trace, and say where its files are, one for each rank; 400 if there is none."""
    return json_response(await _carry_out(request, StopProfile(_UNNUMBERED)))


async def _carry_out(request: Request, order: ControlOrder) -> dict[str, Any]:
    """How it went; 400 if it went wrong."""
    answer = await service_of(request).engine.control(order)
    assert isinstance(answer, OrderDone)
    if not answer.success:
        raise bad_request(answer.message)
    files = {"files": answer.files} if answer.files else {}
    return {"success": True, "message": answer.message, **files}
