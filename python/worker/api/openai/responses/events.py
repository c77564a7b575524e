"""The events of a streamed response, as OpenAI names and orders them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from ...errors import ApiError
from .response import ResponseForm
from .store import Item
from .types import output_text

# Where the text stands: in the first part of the first item.
_ITEM = {"output_index": 0}
_PART = {**_ITEM, "content_index": 0}


class ResponseEvents:
    """Makes the events of one response, and numbers them."""

    def __init__(self, form: ResponseForm) -> None:
        self._form = form
        self._in_part = {"item_id": form.message_id, **_PART}
        self._next_number = 0
        self._pieces: list[str] = []

    def begin(self) -> bytes:
        """All that comes before the text."""
        form = self._form
        response = form.begun()
        return b"".join(
            (
                self._event("response.created", response=response),
                self._event("response.in_progress", response=response),
                self._event(
                    "response.output_item.added", **_ITEM, item=form.message("in_progress")
                ),
                self._event("response.content_part.added", **self._in_part, part=output_text("")),
            )
        )

    def delta(self, text: str, logprobs: Sequence[Item]) -> bytes:
        """A piece of the text, or the log-probabilities of tokens without text that came last."""
        if not text and not logprobs:
            return b""
        self._pieces.append(text)
        return self._event(
            "response.output_text.delta", **self._in_part, delta=text, logprobs=logprobs
        )

    def end(self, response: dict[str, Any]) -> bytes:
        """All that comes after the text: its part, item and `response` are done."""
        (message,) = response["output"]
        (part,) = message["content"]
        kind = "completed" if response["status"] == "completed" else "incomplete"
        return b"".join(
            (
                self._event(
                    "response.output_text.done",
                    **self._in_part,
                    text=part["text"],
                    logprobs=part["logprobs"],
                ),
                self._event("response.content_part.done", **self._in_part, part=part),
                self._event("response.output_item.done", **_ITEM, item=message),
                self._event(f"response.{kind}", response=response),
            )
        )

    def fail(self, error: ApiError) -> bytes:
        """The last event when there will be no more text."""
        response = self._form.failed("".join(self._pieces), error)
        return self._event("response.failed", response=response)

    def _event(self, kind: str, **content: Any) -> bytes:
        content = {"type": kind, "sequence_number": self._next_number, **content}
        self._next_number += 1
        return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(content) + b"\n\n"
