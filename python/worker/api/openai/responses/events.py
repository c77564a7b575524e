"""The events of a streamed response, as OpenAI names and numbers them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from ...errors import ApiError
from .output import Event, OutputItems
from .response import ResponseForm


class ResponseEvents:
    """Writes the events of one response, whose output becomes that of `items`."""

    def __init__(self, form: ResponseForm, items: OutputItems) -> None:
        self._form = form
        self._items = items
        self._next_number = 0

    def begin(self) -> bytes:
        """All that comes before the output."""
        response = {"response": self._form.begun()}
        return self.write([("response.created", response), ("response.in_progress", response)])

    def end(self, response: dict[str, Any]) -> bytes:
        """What comes behind the output: the response is done."""
        kind = "completed" if response["status"] == "completed" else "incomplete"
        return self.write([(f"response.{kind}", {"response": response})])

    def fail(self, error: ApiError) -> bytes:
        """The last event when there will be no more output."""
        self._items.end("incomplete")
        response = self._form.failed(self._items.finished, error)
        return self.write([("response.failed", {"response": response})])

    def write(self, events: Iterable[Event]) -> bytes:
        """As they are sent."""
        return b"".join(self._written(kind, content) for kind, content in events)

    def _written(self, kind: str, content: dict[str, Any]) -> bytes:
        content = {"type": kind, "sequence_number": self._next_number, **content}
        self._next_number += 1
        return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(content) + b"\n\n"
