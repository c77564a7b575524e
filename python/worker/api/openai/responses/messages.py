"""From the items of a conversation to the messages of a chat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..types import ChatMessage
from .store import Item

# Items that nobody but the assistant writes.
_WRITTEN = ("reasoning", "function_call")


def messages_of(items: Iterable[Item]) -> list[ChatMessage]:
    """As a chat has them: what the assistant thought, said and called is one message."""
    return list(_messages(items))


def chat_message(role: str, content: str | list[Item] | None, **more: Any) -> ChatMessage:
    """One of this role; `more` are further fields."""
    return ChatMessage.model_validate({"role": role, "content": content, **more})


def starts_of(messages: Sequence[ChatMessage]) -> list[int]:
    """Where a conversation can begin: templates want a user's message first, and outputs of tools
    the calls that they are of.
    """
    starts: list[int] = []
    called: set[str | None] = set()  # whose outputs come later
    for place, message in reversed(list(enumerate(messages))):
        if message.role == "tool":
            called.add(message.tool_call_id)
        called.difference_update(call.id for call in message.tool_calls or ())
        if message.role == "user" and not called:
            starts.append(place)
    return starts[::-1]


@dataclass
class _Turn:
    """A message of the assistant that is put together from items that follow each other."""

    reasoning: list[str] = field(default_factory=list)
    parts: list[Item] = field(default_factory=list)
    calls: list[Item] = field(default_factory=list)

    def goes_on_with(self, item: Item) -> bool:
        """Calls end a turn: what is written between them and their outputs is part of it."""
        return bool(self.calls) or item["type"] == "function_call" or not self.parts

    def add(self, item: Item) -> None:
        """The next item of the assistant."""
        match item["type"]:
            case "reasoning":
                self.reasoning += [part["text"] for part in item.get("content") or ()]
            case "message":
                self.parts += _text_parts(item["content"])
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                self.calls.append(call)

    def message(self) -> Iterator[ChatMessage]:
        """No message if nothing was said: reasoning alone leads to none."""
        if self.parts or self.calls:
            yield chat_message(
                "assistant",
                self.parts or None,
                reasoning_content="\n".join(self.reasoning) or None,
                tool_calls=self.calls or None,
            )


def _messages(items: Iterable[Item]) -> Iterator[ChatMessage]:
    turn = _Turn()
    for item in items:
        is_written = item["type"] in _WRITTEN or item.get("role") == "assistant"
        if not is_written or not turn.goes_on_with(item):
            yield from turn.message()
            turn = _Turn()
        if is_written:
            turn.add(item)
        elif item["type"] == "message":
            yield chat_message(item["role"], _text_parts(item["content"]))
        else:
            output = item["output"]
            yield chat_message(
                "tool",
                output if isinstance(output, str) else _text_parts(output),
                tool_call_id=item["call_id"],
                name=item.get("name"),
            )
    yield from turn.message()


def _text_parts(parts: Iterable[Item]) -> list[Item]:
    return [{"type": "text", "text": part["text"]} for part in parts]
