"""/v1/files: what clients upload, and the results of batches."""

from __future__ import annotations

import contextlib
import time
from typing import Annotated, Any, BinaryIO, Literal
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from pydantic import Field, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from ..batch.file_store import StoredFile
from ..batch.upload import receive_upload
from ..daemon_thread import in_daemon_thread
from ..errors import bad_request, from_validation_error
from ..fields import RequestModel
from ..http_exchange import json_response, read_query, unless_disconnected
from ..openapi import queries, takes_form
from ..service import service_of
from .lists import list_of

router = APIRouter()

# Files for batches are not needed for ever; this is OpenAI's default, too.
_BATCH_FILE_SECONDS = 30 * 24 * 3600
_READ_BYTES = 1024 * 1024


class ExpiresAfter(RequestModel):
    """From one hour to thirty days after the file is made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2592000)]


class UploadFields(RequestModel):
    """The fields of an upload beside the file; `expires_after` comes as two."""

    purpose: Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
    expires_after: ExpiresAfter | None = None


class FileListQuery(RequestModel):
    """The query of GET /v1/files."""

    purpose: str | None = None
    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=10000)] = 10000
    order: Literal["asc", "desc"] = "desc"


@router.post("/v1/files", openapi_extra=takes_form(UploadFields))
async def upload_file(request: Request) -> Response:
    """Keep a file of at most 512 MiB."""
    files = service_of(request).storage.files
    with files.new_content() as (file_id, path):
        upload = await receive_upload(request, path)
        fields = _fields(upload.fields)
        now = int(time.time())
        seconds = _BATCH_FILE_SECONDS if fields.purpose == "batch" else None
        if fields.expires_after is not None:
            seconds = fields.expires_after.seconds
        expires_at = None if seconds is None else now + seconds
        name = upload.filename
        file = StoredFile(file_id, name, fields.purpose, upload.bytes, now, expires_at)
        await files.add(file)
    return json_response(file.shown())


def _fields(given: dict[str, str]) -> UploadFields:
    """Raises ApiError 400. `expires_after[seconds]` is a field of its own in a form."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        outer, bracket, inner = name.partition("[")
        if not bracket:
            fields[name] = value
        elif inner.endswith("]") and isinstance(fields.setdefault(outer, {}), dict):
            fields[outer][inner[:-1]] = value
        else:
            raise bad_request(f"Unknown field: {name!r}", name, "unknown_parameter")
    try:
        return UploadFields.model_validate_strings(fields)
    except ValidationError as error:
        raise from_validation_error(error) from None


@router.get("/v1/files", openapi_extra=queries(FileListQuery))
async def list_files(request: Request) -> Response:
    """The latest first, or the oldest."""
    query = read_query(request, FileListQuery)
    files, has_more = await service_of(request).storage.files.listed(
        purpose=query.purpose, after=query.after, limit=query.limit, order=query.order
    )
    return json_response(list_of([file.shown() for file in files], has_more))


@router.get("/v1/files/{file_id}")
async def retrieve_file(request: Request, file_id: str) -> Response:
    """What is known about a file."""
    file = await service_of(request).storage.files.get(file_id)
    return json_response(file.shown())


@router.get("/v1/files/{file_id}/content", response_class=Response)
async def file_content(request: Request, file_id: str) -> Response:
    """The bytes of a file."""
    files = service_of(request).storage.files
    file = await files.get(file_id)
    return _Download(file, await in_daemon_thread(lambda: files.open(file)))


@router.delete("/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> Response:
    """Remove a file that no running batch reads."""
    await service_of(request).storage.files.delete(file_id)
    return json_response({"id": file_id, "object": "file", "deleted": True})


class _Download(Response):
    """A file in pieces, read in threads. A browser saves it, and shows nothing of it."""

    media_type = "application/octet-stream"

    def __init__(self, file: StoredFile, content: BinaryIO) -> None:
        disposition = f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}"
        super().__init__(
            headers={
                "content-length": str(file.bytes),
                "content-disposition": disposition,
                "x-content-type-options": "nosniff",
            }
        )
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._content, contextlib.suppress(ClientDisconnect):
            await unless_disconnected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        while piece := await in_daemon_thread(lambda: self._content.read(_READ_BYTES)):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
