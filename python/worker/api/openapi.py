"""Descriptions of request bodies for /docs; the routes read and check bodies by themselves."""

from __future__ import annotations

from typing import Any

from .fields import RequestModel


def takes(model: type[RequestModel]) -> dict[str, Any]:
    """What FastAPI's `openapi_extra` needs for a route whose body is this model."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
