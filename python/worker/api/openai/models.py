"""GET /v1/models and /v1/models/{model}."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from ..errors import ApiError
from ..http_exchange import json_response
from ..service import WorkerService, service_of

router = APIRouter()


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """The one model that this worker serves."""
    return json_response({"object": "list", "data": [_card(service_of(request))]})


@router.get("/v1/models/{model:path}")
async def retrieve_model(request: Request, model: str) -> Response:
    """404 for any other name than the served one."""
    service = service_of(request)
    if model != service.model_name:
        message = f"The model {model!r} is not served here; {service.model_name!r} is"
        raise ApiError(404, message, param="model", code="model_not_found")
    return json_response(_card(service))


def _card(service: WorkerService) -> dict[str, Any]:
    return {
        "id": service.model_name,
        "object": "model",
        "created": service.created,
        "owned_by": "radixfleet",
        "root": service.server_args.model_path,
        "max_model_len": service.engine_info.context_length,
    }
