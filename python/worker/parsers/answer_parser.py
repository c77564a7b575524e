"""Reasoning, text and calls of one answer."""

from __future__ import annotations

from collections.abc import Iterable

from .deltas import Delta, ReasoningDelta, TextDelta
from .reasoning_parser import ReasoningParser
from .tool_call_parser import ToolCallParser


class AnswerParser:
    """Gives what comes after the reasoning to the parser of calls: within it there are none.

    What there is no parser for is text. With `hold_reasoning` it is given when it is complete.
    """

    def __init__(
        self,
        reasoning: ReasoningParser | None,
        calls: ToolCallParser | None,
        *,
        hold_reasoning: bool = False,
    ) -> None:
        self._reasoning = reasoning
        self._calls = calls
        self._hold = hold_reasoning
        self._held = ""

    def push(self, text: str) -> list[Delta]:
        """What `text` adds, as far as is known."""
        if not text:
            return []
        said = [TextDelta(text)] if self._reasoning is None else self._reasoning.push(text)
        return list(self._read(said))

    def end(self) -> list[Delta]:
        """What is left when the answer has ended."""
        left = list(self._read([] if self._reasoning is None else self._reasoning.end()))
        left += self._release()
        return left if self._calls is None else [*left, *self._calls.end()]

    def _read(self, said: Iterable[Delta]) -> Iterable[Delta]:
        for delta in said:
            if isinstance(delta, ReasoningDelta) and self._hold:
                self._held += delta.text
                continue
            yield from self._release()
            if isinstance(delta, TextDelta) and self._calls is not None:
                yield from self._calls.push(delta.text)
            else:
                yield delta

    def _release(self) -> list[Delta]:
        held, self._held = self._held, ""
        return [ReasoningDelta(held)] if held else []
