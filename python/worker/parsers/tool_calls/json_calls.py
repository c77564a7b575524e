"""Calls that are JSON objects: {"name": ..., "arguments": {...}}."""

from __future__ import annotations

from ..text_reader import Malformed, Steps
from ..tool_call_parser import ToolCallParser


class JsonCallParser(ToolCallParser):
    """For formats with such objects. `parameters` is another word for arguments."""

    def call_list(self) -> Steps[None]:
        """Read calls with commas between them, up to the bracket that ends their list."""
        reader = self.reader
        while True:
            yield from reader.spaces()
            yield from self.call()
            reader.commit()
            yield from reader.spaces()
            if not (yield from reader.take(",")):
                yield from reader.expect("]")
                return

    def call(self) -> Steps[None]:
        """Read a call, its keys in any order; others are passed over.

        Without arguments they are empty. The last brace may be missing: models forget it.
        """
        reader = self.reader
        name, held, begun = None, None, False
        yield from reader.expect("{")
        while True:
            yield from reader.spaces()
            key = yield from reader.string()
            yield from reader.spaces()
            yield from reader.expect(":")
            yield from reader.spaces()
            if key == "name" and name is None:
                name = yield from reader.string()
                if name not in self.tools:
                    raise Malformed
            elif key not in ("arguments", "parameters") or begun or held is not None:
                yield from reader.value()
            elif name is None:
                held = yield from reader.object()
            else:
                yield from self.arguments(name)
                begun = True
            yield from reader.spaces()
            if not (yield from reader.take(",")):
                break
        if not begun:
            if name is None:
                raise Malformed
            self.begin(name)(held or "{}")
        yield from reader.take("}")
