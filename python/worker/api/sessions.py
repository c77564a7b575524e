"""POST /open_session and /close_session; /generate goes on in a session by `session_params`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field

from .fields import RequestModel
from .http_exchange import json_response, read_body
from .openapi import takes
from .service import service_of

router = APIRouter()

SessionId = Annotated[str, Field(min_length=1, max_length=256)]


class OpenBody(RequestModel):
    """The longest prompt, all that it goes on from included, in characters; and a name, if one is
    wanted.
    """

    capacity_of_str_len: Annotated[int, Field(ge=1)]
    session_id: SessionId | None = None


class CloseBody(RequestModel):
    """The name of an open session."""

    session_id: SessionId


@router.post("/open_session", openapi_extra=takes(OpenBody))
async def open_session(request: Request) -> Response:
    """Answers with the session's id, a JSON string."""
    body = await read_body(request, OpenBody)
    sessions = service_of(request).sessions
    return json_response(sessions.open(body.capacity_of_str_len, body.session_id))


@router.post("/close_session", openapi_extra=takes(CloseBody))
async def close_session(request: Request) -> Response:
    """Forget a session. What of it is running goes on."""
    body = await read_body(request, CloseBody)
    service_of(request).sessions.close(body.session_id)
    return Response()
