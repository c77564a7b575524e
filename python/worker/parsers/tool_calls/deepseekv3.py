"""DeepSeek V3 and R1, and V3.1: a section of calls between special tokens."""

from __future__ import annotations

import re
from typing import ClassVar

from ..call_tags import CallTag, Tools
from ..text_reader import Steps
from .section import SectionParser

_SECTION, _SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _SEPARATOR, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_NAME = re.compile(r"[\w.-]+")


class DeepSeekV31Parser(SectionParser):
    """A name, and its arguments."""

    section = (_SECTION, _SECTION_END)
    call_tokens = (_CALL, _CALL_END)
    markers = triggers = (_SECTION, _CALL)
    special_tokens = (_SECTION, _CALL, _SEPARATOR, _CALL_END, _SECTION_END)
    separators = (_SECTION_END,)
    # Around the arguments, and the name before them.
    around: ClassVar[tuple[str, str, str]] = ("", _SEPARATOR, "")

    @classmethod
    def tags(cls, tools: Tools, limit: int | None) -> list[CallTag]:
        """For each tool one with the beginning of the section, and one for later calls."""
        before, between, after = cls.around
        return [
            CallTag(f"{section}{_CALL}{before}{name}{between}", schema, f"{after}{_CALL_END}")
            for section in (_SECTION, "")
            for name, schema in tools.items()
        ]

    def call(self) -> Steps[None]:
        """Read what stands between the tokens of a call."""
        name = yield from self.reader.run(_NAME)
        yield from self.reader.expect(_SEPARATOR)
        yield from self.reader.spaces()
        yield from self.arguments(name)


class DeepSeekV3Parser(DeepSeekV31Parser):
    """The word function, a name, and its arguments in a block of Markdown."""

    separators = ("\n", _SECTION_END)
    around = (f"function{_SEPARATOR}", "\n```json\n", "\n```")

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
