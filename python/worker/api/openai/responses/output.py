"""The items of an answer, and the events that tell of them as they are written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from ....parsers.answer_parser import AnswerParser
from ....parsers.deltas import CallDelta, Delta, ReasoningDelta, TextDelta
from .store import Item
from .types import output_text

# The type of an event, and its fields but for its number.
Event = tuple[str, dict[str, Any]]


class OutputItems:
    """What an answer is made of, in the order in which it is written: reasoning, messages, calls.

    `key` is that of the response. An answer of nothing at all is a message without text.
    """

    def __init__(self, key: str, parser: AnswerParser) -> None:
        self._key = key
        self._parser = parser
        self._open: _OpenItem | None = None
        self.finished: list[Item] = []

    def push(self, text: str, logprobs: Sequence[Item] = ()) -> list[Event]:
        """What `text` adds. `logprobs` are its tokens', where an answer is nothing but text."""
        deltas = self._parser.push(text)
        if logprobs and not deltas:  # of tokens without text
            deltas = [TextDelta("")]
        return [event for delta in deltas for event in self._take(delta, logprobs)]

    def end(self, status: str) -> list[Event]:
        """What is left. The last item gets the status; what came before it is completed."""
        events = [event for delta in self._parser.end() for event in self._take(delta)]
        if self._open is None and not self.finished:
            events += self._take(TextDelta(""))
        return events + self._close(status)

    def _take(self, delta: Delta, logprobs: Sequence[Item] = ()) -> list[Event]:
        events = []
        if self._open is None or not self._open.goes_on_with(delta):
            events += self._close("completed")
            self._open = _item_of(delta, self._key, len(self.finished))
            events += self._open.begin()
        return [*events, *self._open.add(delta, logprobs)]

    def _close(self, status: str) -> list[Event]:
        if self._open is None:
            return []
        events = list(self._open.end(status))
        self.finished.append(self._open.item(status))
        self._open = None
        return events


def _item_of(delta: Delta, key: str, index: int) -> _OpenItem:
    """The item that begins with it, at this place of the output."""
    key = f"{key}_out{index}"
    match delta:
        case TextDelta():
            return _Message(key, index)
        case ReasoningDelta():
            return _Reasoning(key, index)
        case CallDelta():
            return _Call(key, index, delta)


class _OpenItem(ABC):
    """An item that is being written."""

    prefix: ClassVar[str]

    def __init__(self, key: str, index: int) -> None:
        self.id = f"{self.prefix}_{key}"
        self._place = {"output_index": index}
        self._in_item = {"item_id": self.id, **self._place}
        self._pieces: list[str] = []

    @property
    def written(self) -> str:
        """All text, or arguments, so far."""
        return "".join(self._pieces)

    @abstractmethod
    def goes_on_with(self, delta: Delta) -> bool:
        """Whether it is more of this item."""

    def begin(self) -> Iterator[Event]:
        """Before all that is added."""
        yield "response.output_item.added", {**self._place, "item": self.item("in_progress")}

    @abstractmethod
    def add(self, delta: Delta, logprobs: Sequence[Item]) -> Iterator[Event]:
        """More of it."""

    def end(self, status: str) -> Iterator[Event]:
        """Behind all that was added."""
        yield "response.output_item.done", {**self._place, "item": self.item(status)}

    @abstractmethod
    def item(self, status: str) -> Item:
        """As the API shows it."""


class _TextItem(_OpenItem):
    """One with a single part, whose text grows. Its part comes and goes with events of its own."""

    delta: ClassVar[type[Delta]]
    part_type: ClassVar[str]

    def __init__(self, key: str, index: int) -> None:
        super().__init__(key, index)
        self._in_part = {**self._in_item, "content_index": 0}
        self._logprobs: list[Item] = []

    @abstractmethod
    def part(self, text: str) -> Item:
        """With this text, and what else came with it."""

    def beside(self, logprobs: Sequence[Item]) -> dict[str, Any]:
        """What events of the text have beside it."""
        return {}

    def goes_on_with(self, delta: Delta) -> bool:
        return isinstance(delta, self.delta)

    def begin(self) -> Iterator[Event]:
        yield from super().begin()
        yield "response.content_part.added", {**self._in_part, "part": self.part("")}

    def add(self, delta: Delta, logprobs: Sequence[Item]) -> Iterator[Event]:
        assert isinstance(delta, TextDelta | ReasoningDelta)
        self._pieces.append(delta.text)
        self._logprobs += logprobs
        if delta.text or logprobs:
            content = {**self._in_part, "delta": delta.text, **self.beside(logprobs)}
            yield f"response.{self.part_type}.delta", content

    def end(self, status: str) -> Iterator[Event]:
        content = {**self._in_part, "text": self.written, **self.beside(self._logprobs)}
        yield f"response.{self.part_type}.done", content
        yield "response.content_part.done", {**self._in_part, "part": self.part(self.written)}
        yield from super().end(status)

    def parts(self, status: str) -> list[Item]:
        """None before there is one."""
        return [] if status == "in_progress" else [self.part(self.written)]


class _Message(_TextItem):
    prefix = "msg"
    delta = TextDelta
    part_type = "output_text"

    def part(self, text: str) -> Item:
        return output_text(text, self._logprobs.copy())

    def beside(self, logprobs: Sequence[Item]) -> dict[str, Any]:
        return {"logprobs": logprobs}

    def item(self, status: str) -> Item:
        head = {"id": self.id, "type": "message", "role": "assistant", "status": status}
        return {**head, "content": self.parts(status)}


class _Reasoning(_TextItem):
    """What the model thought, in full: nobody summarizes it."""

    prefix = "rs"
    delta = ReasoningDelta
    part_type = "reasoning_text"

    def part(self, text: str) -> Item:
        return {"type": "reasoning_text", "text": text}

    def item(self, status: str) -> Item:
        head = {"id": self.id, "type": "reasoning", "status": status, "summary": []}
        return {**head, "content": self.parts(status)}


class _Call(_OpenItem):
    prefix = "fc"

    def __init__(self, key: str, index: int, first: CallDelta) -> None:
        super().__init__(key, index)
        self._first = first

    def goes_on_with(self, delta: Delta) -> bool:
        return isinstance(delta, CallDelta) and delta.index == self._first.index

    def add(self, delta: Delta, logprobs: Sequence[Item]) -> Iterator[Event]:
        assert isinstance(delta, CallDelta)
        if delta.arguments:
            self._pieces.append(delta.arguments)
            content = {**self._in_item, "delta": delta.arguments}
            yield "response.function_call_arguments.delta", content

    def end(self, status: str) -> Iterator[Event]:
        content = {**self._in_item, "arguments": self.written}
        yield "response.function_call_arguments.done", content
        yield from super().end(status)

    def item(self, status: str) -> Item:
        call = {"call_id": self._first.id, "name": self._first.name, "arguments": self.written}
        return {"id": self.id, "type": "function_call", "status": status, **call}
