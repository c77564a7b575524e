"""Qwen 2.5 and 3, and Hermes: <tool_call>{"name": ..., "arguments": {...}}</tool_call>."""

from __future__ import annotations

from ..call_tags import CallTag, Tools
from ..text_reader import Steps
from .json_calls import JsonCallParser

_BEGIN, _END = "<tool_call>", "</tool_call>"


class Qwen25Parser(JsonCallParser):
    """An object between tags for each call."""

    markers = (_BEGIN,)
    special_tokens = (_BEGIN, _END)
    triggers = (_BEGIN,)
    separators = ("\n",)

    @classmethod
    def tags(cls, tools: Tools, limit: int | None) -> list[CallTag]:
        """One for each tool."""
        return [
            CallTag(f'{_BEGIN}\n{{"name": "{name}", "arguments": ', schema, f"}}\n{_END}")
            for name, schema in tools.items()
        ]

    def calls(self) -> Steps[None]:
        """Read one."""
        yield from self.reader.expect(_BEGIN)
        yield from self.reader.spaces()
        yield from self.call()
        yield from self.reader.spaces()
        yield from self.reader.take(_END)
