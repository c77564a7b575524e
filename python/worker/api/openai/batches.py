"""/v1/batches: many requests from a file, computed as the engine has room for them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from ..batch.batch_record import COMPLETION_WINDOW
from ..batch.batch_store import NewBatch
from ..errors import bad_request
from ..fields import RequestModel
from ..http_exchange import json_response, read_body, read_query
from ..openapi import queries, takes
from ..service import service_of
from .files import ExpiresAfter
from .lists import list_of

router = APIRouter()

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class BatchBody(RequestModel):
    """The body of POST /v1/batches. `output_expires_after` counts from the making of the files."""

    input_file_id: str
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]
    completion_window: Literal["24h"] = COMPLETION_WINDOW
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


class BatchListQuery(RequestModel):
    """The query of GET /v1/batches."""

    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20


@router.post("/v1/batches", openapi_extra=takes(BatchBody))
async def create_batch(request: Request) -> Response:
    """Begin a batch; its input file is checked afterwards."""
    service = service_of(request)
    body = await read_body(request, BatchBody)
    embeds = service.engine_info.embedding is not None
    if embeds != (body.endpoint == "/v1/embeddings"):
        what = "no text" if embeds else "no embeddings"
        message = f"endpoint: the model {service.model_name} makes {what}"
        raise bad_request(message, "endpoint", "unsupported_model")
    expires_after = body.output_expires_after
    new = NewBatch(
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        model=service.storage.model,
        metadata=body.metadata,
        output_seconds=None if expires_after is None else expires_after.seconds,
    )
    batch = await service.storage.batches.create(new)
    service.storage.tell()
    return json_response(batch.shown())


@router.get("/v1/batches", openapi_extra=queries(BatchListQuery))
async def list_batches(request: Request) -> Response:
    """The latest first."""
    query = read_query(request, BatchListQuery)
    batches, has_more = await service_of(request).storage.batches.listed(
        after=query.after, limit=query.limit
    )
    return json_response(list_of([batch.shown() for batch in batches], has_more))


@router.get("/v1/batches/{batch_id}")
async def retrieve_batch(request: Request, batch_id: str) -> Response:
    """How far a batch is."""
    batch = await service_of(request).storage.batches.get(batch_id)
    return json_response(batch.shown())


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """End a batch; what is finished by then is in its files."""
    storage = service_of(request).storage
    batch = await storage.batches.cancel(batch_id)
    storage.tell()
    return json_response(batch.shown())
