"""What parsers make of an answer, piece by piece, and put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol


@dataclass(frozen=True)
class TextDelta:
    """More of the text."""

    text: str


@dataclass(frozen=True)
class ReasoningDelta:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True)
class CallDelta:
    """More of the arguments of the call at `index`. The first of a call has its id and name."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


Delta = TextDelta | ReasoningDelta | CallDelta


class Parser(Protocol):
    """Takes an answer as it comes. Joined, deltas are the same for any division into pushes."""

    def push(self, text: str) -> Sequence[Delta]:
        """What `text` adds, as far as is known."""
        ...

    def end(self) -> Sequence[Delta]:
        """What is left when the answer has ended."""
        ...


@dataclass(frozen=True)
class ToolCall:
    """`arguments` are JSON as the model wrote it; unfinished where the answer broke off."""

    id: str
    name: str
    arguments: str


@dataclass
class Answer:
    """All that deltas add up to."""

    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    def add(self, deltas: Iterable[Delta]) -> None:
        """In the order in which they come."""
        for delta in deltas:
            match delta:
                case TextDelta(text):
                    self.text += text
                case ReasoningDelta(text):
                    self.reasoning += text
                case CallDelta(index, arguments, call_id, name) if index == len(self.calls):
                    self.calls.append(ToolCall(call_id or "", name or "", arguments))
                case CallDelta(index, arguments):
                    call = self.calls[index]
                    self.calls[index] = replace(call, arguments=call.arguments + arguments)


def parse(parser: Parser, text: str) -> Answer:
    """A whole answer."""
    answer = Answer()
    answer.add(parser.push(text))
    answer.add(parser.end())
    return answer
