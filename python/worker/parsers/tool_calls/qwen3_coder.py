"""Qwen3-Coder: <tool_call>, <function=name>, then <parameter=key> for each argument."""

from __future__ import annotations

import re

from ..text_reader import Steps
from .tagged_values import TaggedValueParser

_BEGIN, _END = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_NAME = re.compile(r"[^<>]+")


class Qwen3CoderParser(TaggedValueParser):
    """A line end after a tag and before one is no part of the value. Models forget <tool_call>."""

    markers = (_BEGIN, _FUNCTION)
    special_tokens = (_BEGIN, _END)

    def calls(self) -> Steps[None]:
        """Read one."""
        reader = self.reader
        yield from reader.take(_BEGIN)
        yield from reader.spaces()
        yield from reader.expect(_FUNCTION)
        name = yield from reader.run(_NAME)
        yield from reader.expect(">")
        give = self.begin(name)
        is_first = True
        yield from reader.spaces()
        while (yield from reader.take(_PARAMETER)):
            key = yield from reader.run(_NAME)
            yield from reader.expect(">")
            yield from reader.take("\n")
            ends = ("\n" + _PARAMETER_END, _PARAMETER_END)
            yield from self.argument(name, key, is_first, ends, give)
            is_first = False
            yield from reader.spaces()
        yield from reader.expect(_FUNCTION_END)
        give("{}" if is_first else "}")
        yield from reader.spaces()
        yield from reader.take(_END)
