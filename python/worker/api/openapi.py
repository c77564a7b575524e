"""Descriptions of bodies and queries for /docs; the routes read and check them by themselves."""

from __future__ import annotations

from typing import Any

from .fields import RequestModel


def takes(model: type[RequestModel]) -> dict[str, Any]:
    """What FastAPI's `openapi_extra` needs for a route whose body is this model."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def queries(model: type[RequestModel]) -> dict[str, Any]:
    """What FastAPI's `openapi_extra` needs for a route whose query is this model."""
    fields = model.model_json_schema()["properties"]
    parameters = [{"name": name, "in": "query", "schema": fields[name]} for name in fields]
    return {"parameters": parameters}
