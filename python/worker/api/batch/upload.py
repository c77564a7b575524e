"""A multipart/form-data body: its one file goes to disk as it arrives."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..daemon_thread import in_daemon_thread
from ..errors import ApiError, bad_request
from ..http_exchange import body_parts
from .database import storage_errors

MAX_FILE_BYTES = 512 * 1024 * 1024
_MAX_FIELD_BYTES = 64 * 1024
_MOST_FIELDS = 16
# Written at once, so that the event loop never waits for the disk.
_WRITE_BYTES = 1024 * 1024
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Upload:
    """What came beside the file, the file's name, of which no path is left, and its size."""

    fields: dict[str, str]
    filename: str
    bytes: int


async def receive_upload(request: Request, target: Path) -> Upload:
    """Write the part named "file" to `target`, which must not be there yet.

    Raises ApiError: 400 if the body is none of that kind, 413 if the file is larger than
    MAX_FILE_BYTES.
    """
    form = _Form()
    parser = _parser(request, form)
    with storage_errors():
        file = target.open("xb", buffering=0)
    with file:
        try:
            async for chunk in body_parts(request):
                parser.write(chunk)
                if len(form.unwritten) >= _WRITE_BYTES:
                    await _write(file, form.take())
            parser.finalize()
        except FormParserError as error:
            raise bad_request(f"The body is not valid multipart/form-data: {error}") from None
        await _write(file, form.take(), last=True)
    if not form.ended:
        raise bad_request("The body ends before its last boundary")
    if form.filename is None:
        message = "file: this part is required, and needs a filename"
        raise bad_request(message, "file", "missing_required_parameter")
    fields = {name: value.decode(errors="replace") for name, value in form.fields.items()}
    return Upload(fields, form.filename, form.file_bytes)


async def _write(file: io.FileIO, content: bytearray, *, last: bool = False) -> None:
    def write() -> None:
        with storage_errors():
            rest = memoryview(content)
            while rest:
                rest = rest[file.write(rest) :]
            if last:
                os.fsync(file.fileno())

    await in_daemon_thread(write)


def _parser(request: Request, form: _Form) -> MultipartParser:
    media_type, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if media_type != b"multipart/form-data" or not boundary:
        raise bad_request("The body must be multipart/form-data, with a boundary")
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin_part,
                "on_header_field": form.add_header_name,
                "on_header_value": form.add_header_value,
                "on_header_end": form.end_header,
                "on_headers_finished": form.end_headers,
                "on_part_data": form.add_data,
                "on_end": form.end,
            },
        )
    except FormParserError as error:
        raise bad_request(f"The boundary of the body is wrong: {error}") from None


@dataclass
class _Form:
    """What the parser has found so far; `unwritten` are bytes of the file."""

    fields: dict[str, bytearray] = field(default_factory=dict)
    has_file: bool = False
    filename: str | None = None
    file_bytes: int = 0
    unwritten: bytearray = field(default_factory=bytearray)
    ended: bool = False
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _header: tuple[bytes, bytes] = (b"", b"")
    _name: str = ""

    def take(self) -> bytearray:
        """What is to be written now."""
        taken, self.unwritten = self.unwritten, bytearray()
        return taken

    def begin_part(self) -> None:
        self._headers = {}

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        name, value = self._header
        self._header = name + data[start:end], value

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        name, value = self._header
        self._header = name, value + data[start:end]

    def end_header(self) -> None:
        name, value = self._header
        self._headers[name.lower()] = value
        self._header = b"", b""

    def end_headers(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        _, options = parse_options_header(disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        if self._name in self.fields or (self._name == "file" and self.has_file):
            raise bad_request(f"{self._name}: given twice", self._name)
        if self._name == "file":
            self.has_file = True
            self.filename = _harmless(options.get(b"filename", b"").decode(errors="replace"))
            return
        if len(self.fields) == _MOST_FIELDS:
            raise bad_request(f"The body has more than {_MOST_FIELDS} fields")
        self.fields[self._name] = bytearray()

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "file":
            self.file_bytes += end - start
            if self.file_bytes > MAX_FILE_BYTES:
                raise ApiError(413, f"The file is larger than {MAX_FILE_BYTES} bytes", param="file")
            self.unwritten += data[start:end]
            return
        value = self.fields[self._name]
        value += data[start:end]
        if len(value) > _MAX_FIELD_BYTES:
            raise bad_request(f"{self._name}: longer than {_MAX_FIELD_BYTES} bytes", self._name)

    def end(self) -> None:
        self.ended = True


def _harmless(filename: str) -> str | None:
    """The name alone: no folders, nothing that does not print; None if nothing is left."""
    name = PurePosixPath(filename.replace("\\", "/")).name
    return "".join(filter(str.isprintable, name))[:_LONGEST_NAME] or None
