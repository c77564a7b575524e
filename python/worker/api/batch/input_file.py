"""The input file of a batch: one request a line, checked before any of them runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ..errors import shown
from .database import storage_errors

MAX_INPUT_BYTES = 200 * 1024 * 1024
MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_LINES = 50_000
_LONGEST_ID = 512
# What is wrong further down is found when these are put right.
_MOST_ERRORS = 100


@dataclass(frozen=True)
class InputLine:
    """Where a request stands in the file, in bytes; lines are counted from 1."""

    number: int
    custom_id: str
    start: int
    size: int


@dataclass(frozen=True)
class InputError:
    """In the shape of OpenAI's BatchError. Without `line` it concerns the whole file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass
class CheckedInput:
    """All lines, which can run, or else what is wrong with some of them."""

    lines: list[InputLine] = field(default_factory=list)
    errors: list[InputError] = field(default_factory=list)


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    """`body` stays as it was written."""

    custom_id: Any = None
    method: Any = None
    url: Any = None
    body: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(_Request)


def body_of(line: bytes) -> bytes:
    """The request's body in a line that was checked."""
    return bytes(_decoder.decode(line).body)


def check_input(path: Path, endpoint: str) -> CheckedInput:
    """Read the whole file, a line at a time. Raises ApiError 500 if it cannot be read."""
    checked = CheckedInput()
    if not path.exists():  # removed by hand
        message = "The input file is not in the storage any more"
        checked.errors.append(InputError("file_not_found", message))
        return checked
    with storage_errors():
        if path.stat().st_size > MAX_INPUT_BYTES:
            message = f"The input file is larger than {MAX_INPUT_BYTES} bytes"
            checked.errors.append(InputError("file_too_large", message))
            return checked
        first_lines: dict[str, int] = {}
        for number, start, line in _lines(path):
            if not line.strip():
                continue
            if len(checked.lines) == MAX_LINES:
                message = f"The input file has more than {MAX_LINES} requests"
                checked.errors = [InputError("too_many_tasks", message)]
                break
            found = _check(number, line, endpoint, first_lines)
            if isinstance(found, InputError):
                checked.errors.append(found)
            else:
                checked.lines.append(InputLine(number, found, start, len(line)))
            if len(checked.errors) == _MOST_ERRORS:
                break
    if not checked.lines and not checked.errors:
        checked.errors.append(InputError("empty_file", "The input file has no requests"))
    return checked


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Number, start and bytes of each line; of one that is too long, as much as says so."""
    number = start = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            yield number, start, line
            rest = line
            while not rest.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
                pass
            start = file.tell()


def _check(
    number: int, line: bytes, endpoint: str, first_lines: dict[str, int]
) -> str | InputError:
    """The line's custom id, or what is wrong first. Notes the id in `first_lines`."""

    def wrong(code: str, message: str, param: str | None = None) -> InputError:
        return InputError(code, message, number, param)

    if len(line) > MAX_LINE_BYTES:
        return wrong("line_too_long", f"This line is longer than {MAX_LINE_BYTES} bytes")
    try:
        request = _decoder.decode(line)
    except msgspec.ValidationError as error:
        return wrong("invalid_value", f"This line is no request: {error}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return wrong("invalid_json_line", f"This line is not valid JSON: {error}")
    custom_id, body = request.custom_id, bytes(request.body)
    given = {"custom_id": custom_id, "method": request.method, "url": request.url, "body": body}
    for param, value in given.items():
        if value in (None, b""):
            return wrong("missing_required_parameter", f"{param}: this field is required", param)
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= _LONGEST_ID:
        message = f"must be a string of 1 to {_LONGEST_ID} characters, not {shown(custom_id)}"
        return wrong("invalid_value", f"custom_id: {message}", "custom_id")
    if request.method != "POST":
        message = f'method: must be "POST", not {shown(request.method)}'
        return wrong("invalid_value", message, "method")
    # SGLang's examples leave out the /v1.
    if request.url not in (endpoint, endpoint.removeprefix("/v1")):
        message = f"url: must be {endpoint}, as of the batch, not {shown(request.url)}"
        return wrong("url_mismatch", message, "url")
    if not body.startswith(b"{"):
        return wrong("invalid_value", "body: must be an object", "body")
    first = first_lines.setdefault(custom_id, number)
    if first != number:
        message = f"custom_id: line {first} has {shown(custom_id)}, too"
        return wrong("duplicate_custom_id", message, "custom_id")
    return custom_id
