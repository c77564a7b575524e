"""DeepSeek V3 and R1, and V3.1: a section of calls between special tokens."""

from __future__ import annotations

import re

from ..text_reader import Steps
from .section import SectionParser

_SECTION, _SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _SEPARATOR, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_NAME = re.compile(r"[\w.-]+")


class DeepSeekV31Parser(SectionParser):
    """A name, and its arguments."""

    section = (_SECTION, _SECTION_END)
    call_tokens = (_CALL, _CALL_END)
    markers = (_SECTION,)
    special_tokens = (_SECTION, _CALL, _SEPARATOR, _CALL_END, _SECTION_END)

    def call(self) -> Steps[None]:
        """Read what stands between the tokens of a call."""
        name = yield from self.reader.run(_NAME)
        yield from self.reader.expect(_SEPARATOR)
        yield from self.reader.spaces()
        yield from self.arguments(name)


class DeepSeekV3Parser(DeepSeekV31Parser):
    """The word function, a name, and its arguments in a block of Markdown."""

    def call(self) -> Steps[None]:
        """Read what stands between the tokens of a call."""
        reader = self.reader
        yield from reader.expect("function" + _SEPARATOR)
        name = yield from reader.run(_NAME)
        yield from reader.spaces()
        yield from reader.take("```json")
        yield from reader.spaces()
        yield from self.arguments(name)
        yield from reader.spaces()
        yield from reader.take("```")
