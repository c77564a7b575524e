"""Kimi K2: a section of calls between special tokens, each with an id that names its tool."""

from __future__ import annotations

import re

from ..text_reader import Malformed, Steps
from .section import SectionParser

_SECTION, _SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_CALL, _CALL_END = "<|tool_call_begin|>", "<|tool_call_end|>"
_ARGUMENTS = "<|tool_call_argument_begin|>"
_ID_CHARACTERS = re.compile(r"[\w.:-]+")
_ID = re.compile(r"(?:functions\.)?(?P<name>[\w.-]+):\d+")


class KimiK2Parser(SectionParser):
    """The ids, such as functions.search:0, are kept: the template gives them to the model again."""

    section = (_SECTION, _SECTION_END)
    call_tokens = (_CALL, _CALL_END)
    markers = (_SECTION, _CALL)
    special_tokens = (_SECTION, _CALL, _ARGUMENTS, _CALL_END, _SECTION_END)

    def call(self) -> Steps[None]:
        """Read what stands between the tokens of a call."""
        reader = self.reader
        yield from reader.spaces()
        call_id = yield from reader.run(_ID_CHARACTERS)
        known = _ID.fullmatch(call_id)
        if known is None:
            raise Malformed
        yield from reader.spaces()
        yield from reader.expect(_ARGUMENTS)
        yield from reader.spaces()
        yield from self.arguments(known["name"], call_id)
