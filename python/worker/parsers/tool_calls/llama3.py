"""Llama 3.1 and 3.2: objects, with a semicolon between them; often after <|python_tag|>."""

from __future__ import annotations

from ..call_tags import CallTag, Tools
from ..text_reader import Malformed, Steps
from .json_calls import JsonCallParser

_TAG = "<|python_tag|>"


class Llama3Parser(JsonCallParser):
    """An answer without the tag has calls if it begins with one."""

    markers = (_TAG,)
    special_tokens = (_TAG,)
    triggers = ('{"name": "',)
    separators = ("; ",)
    calls_are_json = True

    @classmethod
    def tags(cls, tools: Tools, limit: int | None) -> list[CallTag]:
        """One for each tool."""
        return [
            CallTag(f'{{"name": "{name}", "parameters": ', schema, "}")
            for name, schema in tools.items()
        ]

    def calls(self) -> Steps[None]:
        """Read the tag and all calls after it."""
        yield from self.reader.expect(_TAG)
        yield from self.calls_at_start()

    def calls_at_start(self) -> Steps[None]:
        """Read calls up to something else."""
        reader = self.reader
        yield from reader.spaces()
        yield from self.call()
        while True:
            reader.commit()
            yield from reader.spaces()
            yield from reader.take(";")
            yield from reader.spaces()
            following = yield from reader.peek()
            if not following:
                return
            if following != "{":
                raise Malformed
            yield from self.call()
