"""The OpenAPI document of /openapi.json and /docs; the routes read and check bodies themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from .fields import RequestModel

_REFERENCE = "#/components/schemas/{model}"

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
        }
    },
    "required": ["error"],
    "additionalProperties": False,
}

# All that bodies refer to, by name.
_schemas: dict[str, Any] = {"Error": _ERROR}


def takes(model: type[RequestModel], *, optional: bool = False) -> dict[str, Any]:
    """What FastAPI's `openapi_extra` needs for a route whose body is this model."""
    schema = _schema(model)
    assert _schemas.setdefault(model.__name__, schema) == schema, f"two kinds of {model.__name__}"
    return _body("application/json", {"$ref": _reference(model.__name__)}, optional)


def takes_form(model: type[RequestModel]) -> dict[str, Any]:
    """What FastAPI's `openapi_extra` needs for a route that takes a form: this model and a file."""
    schema = _schema(model)
    schema["properties"]["file"] = {"type": "string", "format": "binary"}
    schema["required"] = [*schema.get("required", ()), "file"]
    return _body("multipart/form-data", schema)


def queries(model: type[RequestModel]) -> dict[str, Any]:
    """What FastAPI's `openapi_extra` needs for a route whose query is this model."""
    fields = _schema(model)["properties"]
    parameters = [{"name": name, "in": "query", "schema": fields[name]} for name in fields]
    return {"parameters": parameters}


def _schema(model: type[RequestModel]) -> dict[str, Any]:
    """The model's own; those of the models that it refers to are kept for the document."""
    schema = model.model_json_schema(ref_template=_REFERENCE)
    for name, definition in schema.pop("$defs", {}).items():
        assert _schemas.setdefault(name, definition) == definition, f"two kinds of {name}"
    return schema


def _body(media_type: str, schema: dict[str, Any], optional: bool = False) -> dict[str, Any]:
    content = {media_type: {"schema": schema}}
    return {"requestBody": {"required": not optional, "content": content}}


def _reference(name: str) -> str:
    return _REFERENCE.format(model=name)


def complete_document(app: FastAPI) -> None:
    """Add to FastAPI's document what bodies refer to, streams, and the one shape of all errors."""
    by_fastapi = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = by_fastapi()
            made["components"] = {"schemas": _schemas}
            for operations in made["paths"].values():
                for operation in operations.values():
                    _complete(operation)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = document


def _complete(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)  # FastAPI's own; no route answers with it
    error = {"application/json": {"schema": {"$ref": _reference("Error")}}}
    responses["default"] = {"description": "Error", "content": error}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    name = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
    if "stream" in _schemas.get(name, {}).get("properties", {}):
        responses["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
