"""Mistral: [TOOL_CALLS] and a list of objects; since 2025, [TOOL_CALLS]name[ARGS]{...} each."""

from __future__ import annotations

import re
import uuid

from ..text_reader import Steps
from .json_calls import JsonCallParser

_CALLS, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"[\w.-]+")


class MistralParser(JsonCallParser):
    """Both forms."""

    markers = (_CALLS,)
    special_tokens = (_CALLS, _ID, _ARGUMENTS)

    def calls(self) -> Steps[None]:
        """Read a list of calls, or one."""
        reader = self.reader
        yield from reader.expect(_CALLS)
        yield from reader.spaces()
        if not (yield from reader.take("[")):
            yield from self._named_call()
            return
        while True:
            yield from reader.spaces()
            yield from self.call()
            reader.commit()
            yield from reader.spaces()
            if not (yield from reader.take(",")):
                yield from reader.expect("]")
                return

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
