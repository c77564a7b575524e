"""Routes about the worker itself: health, what it serves, its state, its cache."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from .. import __version__
from ..messages import EmbedRequest, SamplingParams
from ..tokenization.text_output import TextRequest
from .errors import ApiError, bad_request
from .fields import RequestModel
from .http_exchange import json_response, read_body, unless_disconnected
from .openapi import takes
from .service import WorkerService, service_of

router = APIRouter()

# A scheduler heard from so lately is well; a long step may keep it silent for as long.
FRESH_SECONDS = 10.0
ANSWER_SECONDS = 20.0


@router.get("/health", response_class=Response)
async def health(request: Request) -> Response:
    """200 while the scheduler answers, else 503."""
    engine = service_of(request).engine
    if engine.seconds_since_heard() > FRESH_SECONDS:
        await engine.state(ANSWER_SECONDS)
    else:
        engine.ask_for_a_sign()
    return Response()


@router.get("/health_generate", response_class=Response)
async def health_generate(request: Request) -> Response:
    """200 when one token could be generated, or embedded, in time, else 503."""
    work = asyncio.wait_for(_probe(service_of(request)), ANSWER_SECONDS)
    try:
        await unless_disconnected(request.receive, work)
    except TimeoutError as error:
        raise ApiError(503, f"The model did no work in {ANSWER_SECONDS:g} seconds") from error
    return Response()


async def _probe(service: WorkerService) -> None:
    """The smallest request that the model can answer."""
    rid = f"health-{uuid.uuid4().hex}"
    if service.engine_info.embedding is not None:
        await service.engine.embed([EmbedRequest(rid, [0])], measured=False)
    else:
        sampling = SamplingParams(max_new_tokens=1, temperature=0.0, ignore_eos=True)
        await service.run([TextRequest(rid, [0], sampling, measured=False)])


@router.get("/get_model_info")
async def get_model_info(request: Request) -> Response:
    """What the model is."""
    service = service_of(request)
    server_args = service.server_args
    return json_response(
        {
            "model_path": server_args.model_path,
            "tokenizer_path": server_args.tokenizer_path or server_args.model_path,
            "is_generation": service.engine_info.embedding is None,
        }
    )


@router.get("/get_server_info")
async def get_server_info(request: Request) -> Response:
    """Arguments, sizes, and what the scheduler does at this moment."""
    service = service_of(request)
    arguments = dataclasses.asdict(service.server_args)
    if arguments["api_key"] is not None:
        arguments["api_key"] = "***"
    state = msgspec.structs.asdict(await service.engine.state(ANSWER_SECONDS))
    del state["rid"]
    engine = msgspec.structs.asdict(service.engine_info)
    if engine["embedding"] is not None:
        engine["embedding"] = msgspec.structs.asdict(engine["embedding"])
    return json_response(
        {
            **arguments,
            "version": __version__,
            "max_total_num_tokens": service.engine_info.max_total_tokens,
            "engine": engine,
            "state": state,
        }
    )


@router.get("/get_load")
async def get_load(request: Request) -> Response:
    """How many requests are running or waiting, as routers ask it."""
    return json_response({"load": service_of(request).engine.open_requests})


class AbortBody(RequestModel):
    """The id of a request or the beginning of several, or `abort_all`."""

    rid: str = ""
    abort_all: bool = False


@router.post("/abort_request", openapi_extra=takes(AbortBody))
async def abort_request(request: Request) -> Response:
    """End requests now: they are answered with what there is so far."""
    body = await read_body(request, AbortBody)
    if bool(body.rid) == body.abort_all:
        raise bad_request("Give either rid or abort_all", "rid", "invalid_value")
    return json_response({"aborted": service_of(request).engine.abort(body.rid)})


@router.get("/flush_cache", response_class=PlainTextResponse)
@router.post("/flush_cache", response_class=PlainTextResponse)
async def flush_cache(request: Request) -> Response:
    """Empty the prefix cache; 400 while requests are running."""
    service = service_of(request)
    if not await service.engine.flush_cache(ANSWER_SECONDS):
        raise bad_request("The cache was not flushed: requests are running", code="busy")
    return PlainTextResponse("Cache flushed.\n")
