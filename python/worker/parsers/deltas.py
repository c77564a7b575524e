"""What parsers make of an answer, piece by piece, and put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Protocol, TypeVar


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

    @classmethod
    def of(cls, deltas: Iterable[Delta]) -> Answer:
        """Of all deltas, in the order in which they came."""
        deltas = list(deltas)
        return cls(
            "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)),
            "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta)),
            [
                ToolCall(delta.id or "", delta.name or "", delta.arguments)
                for delta in joined(delta for delta in deltas if isinstance(delta, CallDelta))
            ],
        )


_Delta = TypeVar("_Delta", bound=Delta)


def joined(deltas: Iterable[_Delta]) -> list[_Delta]:
    """With those of the same call that follow each other as one."""
    result: list[_Delta] = []
    for index, group in groupby(deltas, lambda delta: getattr(delta, "index", None)):
        parts = list(group)
        if index is not None:
            pieces = [part.arguments for part in parts if isinstance(part, CallDelta)]
            parts = [replace(parts[0], arguments="".join(pieces))]
        result += parts
    return result


def parse(parser: Parser, text: str) -> Answer:
    """A whole answer."""
    return Answer.of([*parser.push(text), *parser.end()])
