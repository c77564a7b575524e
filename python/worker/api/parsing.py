"""POST /function_call and /separate_reasoning: what a model wrote, taken apart, as SGLang does."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field

from ..parsers.deltas import Answer, Parser, parse
from ..parsers.reasoning_parser import ReasoningParser
from ..parsers.registry import REASONING_FORMATS, TOOL_CALL_PARSERS
from .errors import bad_request
from .fields import RequestModel
from .http_exchange import json_response, read_body
from .openai.tool_types import Tools, schemas
from .openapi import takes
from .service import run_apart, service_of

router = APIRouter()

# More than any context holds.
_Text = Annotated[str, Field(max_length=2**22)]


class FunctionCallBody(RequestModel):
    """An answer, and the tools that it may call; by default in the worker's own format."""

    text: _Text
    tools: Annotated[Tools, Field(min_length=1)]
    tool_call_parser: str | None = None


class SeparateReasoningBody(RequestModel):
    """An answer; by default in the worker's own format."""

    text: _Text
    reasoning_parser: str | None = None


@router.post("/function_call", openapi_extra=takes(FunctionCallBody))
async def function_call(request: Request) -> Response:
    """The calls in a text, and the rest of it. `tool_index` is the place of a tool in `tools`."""
    body = await read_body(request, FunctionCallBody)
    default = service_of(request).server_args.tool_call_parser
    name = _chosen("tool_call_parser", body.tool_call_parser or default, TOOL_CALL_PARSERS)
    tools = schemas(body.tools)
    answer = await _parse(TOOL_CALL_PARSERS[name]()(tools), body.text)
    places = {name: place for place, name in enumerate(tools)}
    calls = [
        {"tool_index": places[call.name], "name": call.name, "parameters": call.arguments}
        for call in answer.calls
    ]
    return json_response({"normal_text": answer.text, "calls": calls})


@router.post("/separate_reasoning", openapi_extra=takes(SeparateReasoningBody))
async def separate_reasoning(request: Request) -> Response:
    """The reasoning in a text, and the rest of it."""
    body = await read_body(request, SeparateReasoningBody)
    default = service_of(request).server_args.reasoning_parser
    name = _chosen("reasoning_parser", body.reasoning_parser or default, REASONING_FORMATS)
    form = REASONING_FORMATS[name]
    answer = await _parse(ReasoningParser(form, form.begins_open), body.text)
    return json_response({"reasoning_text": answer.reasoning, "text": answer.text})


async def _parse(parser: Parser, text: str) -> Answer:
    return await run_apart(lambda: parse(parser, text), len(text))


def _chosen(field: str, name: str | None, known: Collection[str]) -> str:
    if name is None or name not in known:
        raise bad_request(f"{field}: must be one of {', '.join(known)}, not {name!r}", field)
    return name
