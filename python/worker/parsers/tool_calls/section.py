"""Calls between special tokens, all of them in a section: what such formats share."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from ..text_reader import Steps
from ..tool_call_parser import ToolCallParser


class SectionParser(ToolCallParser):
    """`section` and `call_tokens` are what begins each and what ends it; ends may be missing, and
    so may the beginning of a section.
    """

    section: ClassVar[tuple[str, str]]
    call_tokens: ClassVar[tuple[str, str]]

    def calls(self) -> Steps[None]:
        """Read a section."""
        reader, (begin, end) = self.reader, self.call_tokens
        yield from reader.take(self.section[0])
        yield from reader.spaces()
        yield from reader.expect(begin)
        while True:
            yield from self.call()
            yield from reader.spaces()
            yield from reader.take(end)
            reader.commit()
            yield from reader.spaces()
            if not (yield from reader.take(begin)):
                yield from reader.take(self.section[1])
                return

    @abstractmethod
    def call(self) -> Steps[None]:
        """Read what stands between the tokens of a call."""
