"""Mistral: [TOOL_CALLS] and a list of objects; since 2025, [TOOL_CALLS]name[ARGS]{...} each."""

from __future__ import annotations

import re
import uuid

from ..call_tags import CallTag, Tools, call_list_schema
from ..text_reader import Steps
from .json_calls import JsonCallParser

_CALLS, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"[\w.-]+")


class MistralParser(JsonCallParser):
    """Both forms."""

    markers = (_CALLS,)
    special_tokens = (_CALLS, _ID, _ARGUMENTS)
    triggers = (_CALLS,)

    @classmethod
    def tags(cls, tools: Tools, limit: int | None) -> list[CallTag]:
        """A list, before which some of the models write a space, or one call."""
        calls = call_list_schema(tools, limit, "arguments")
        return [
            CallTag(_CALLS, calls, ""),
            CallTag(f"{_CALLS} ", calls, ""),
            *(CallTag(f"{_CALLS}{name}{_ARGUMENTS}", each, "") for name, each in tools.items()),
        ]

    def calls(self) -> Steps[None]:
        """Read a list of calls, or one."""
        reader = self.reader
        yield from reader.expect(_CALLS)
        yield from reader.spaces()
        if not (yield from reader.take("[")):
            yield from self._named_call()
            return
        yield from self.call_list()

    def _named_call(self) -> Steps[None]:
        reader = self.reader
        name = yield from reader.run(_NAME)
        call_id = None
        if (yield from reader.take(_ID)):
            call_id = yield from reader.run(_NAME)
        yield from reader.take(_ARGUMENTS)
        yield from reader.spaces()
        yield from self.arguments(name, call_id)

    def new_id(self) -> str:
        """Nine letters and digits: Mistral's templates refuse other ids."""
        return uuid.uuid4().hex[:9]
