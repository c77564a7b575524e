"""GLM 4.5: <tool_call>name, then <arg_key> and <arg_value> for each argument, </tool_call>."""

from __future__ import annotations

import re

from ..text_reader import Steps
from .tagged_values import TaggedValueParser

_BEGIN, _END = "<tool_call>", "</tool_call>"
_KEY, _KEY_END, _VALUE, _VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"
_NAME = re.compile(r"[\w.-]+")
_KEY_TEXT = re.compile(r"[^<>]+")


class GLM45Parser(TaggedValueParser):
    """A pair of tags for each key and each value."""

    markers = (_BEGIN,)
    special_tokens = (_BEGIN, _KEY, _KEY_END, _VALUE, _VALUE_END, _END)

    def calls(self) -> Steps[None]:
        """Read one."""
        reader = self.reader
        yield from reader.expect(_BEGIN)
        yield from reader.spaces()
        name = yield from reader.run(_NAME)
        yield from reader.spaces()
        if (yield from reader.take(_END)):
            self.begin(name)("{}")
            return
        yield from reader.expect(_KEY)
        give = self.begin(name)
        is_first = True
        while True:
            key = yield from reader.run(_KEY_TEXT)
            yield from reader.expect(_KEY_END)
            yield from reader.spaces()
            yield from reader.expect(_VALUE)
            yield from self.argument(name, key, is_first, (_VALUE_END,), give)
            is_first = False
            yield from reader.spaces()
            if not (yield from reader.take(_KEY)):
                break
        yield from reader.expect(_END)
        give("}")
