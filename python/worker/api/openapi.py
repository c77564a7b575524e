"""Descriptions of bodies and queries for /docs; the routes read and check them by themselves."""

from __future__ import annotations

from typing import Any

from .fields import RequestModel


def takes(model: type[RequestModel]) -> dict[str, Any]:
    """What FastAPI's `openapi_extra` needs for a route whose body is this model."""
    return _body("application/json", model.model_json_schema())


def takes_form(model: type[RequestModel]) -> dict[str, Any]:
    """What FastAPI's `openapi_extra` needs for a route that takes a form: this model and a file."""
    schema = model.model_json_schema()
    schema["properties"]["file"] = {"type": "string", "format": "binary"}
    schema["required"] = [*schema.get("required", ()), "file"]
    return _body("multipart/form-data", schema)


def queries(model: type[RequestModel]) -> dict[str, Any]:
    """What FastAPI's `openapi_extra` needs for a route whose query is this model."""
    fields = model.model_json_schema()["properties"]
    parameters = [{"name": name, "in": "query", "schema": fields[name]} for name in fields]
    return {"parameters": parameters}


def _body(media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}
