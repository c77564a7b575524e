"""Llama 4 and other models that call tools in Python: [name(key=value, ...), ...]."""

from __future__ import annotations

import ast
import json
import re

from ..text_reader import Malformed, Steps
from ..tool_call_parser import ToolCallParser

_BEGIN, _END = "<|python_start|>", "<|python_end|>"
_NAME = re.compile(r"[\w.-]+")


class PythonicParser(ToolCallParser):
    """An answer without tags has calls if it begins with a list of them.

    Arguments are given by name, and each value is a literal. A call is given when it is complete.
    """

    markers = (_BEGIN,)
    special_tokens = (_BEGIN, _END)

    def calls(self) -> Steps[None]:
        """Read the tags and the list between them."""
        yield from self.reader.expect(_BEGIN)
        yield from self.calls_at_start()
        yield from self.reader.take(_END)

    def calls_at_start(self) -> Steps[None]:
        """Read a list of calls."""
        reader = self.reader
        yield from reader.spaces()
        yield from reader.expect("[")
        while True:
            yield from reader.spaces()
            name = yield from reader.run(_NAME)
            yield from reader.expect("(")
            if name not in self.tools:
                raise Malformed
            arguments = _arguments((yield from reader.python_arguments()))
            self.begin(name)(arguments)
            yield from reader.spaces()
            if not (yield from reader.take(",")):
                yield from reader.expect("]")
                return


def _arguments(source: str) -> str:
    """What stands between the parentheses of a call, as JSON. Raises Malformed."""
    try:
        call = ast.parse(f"call({source})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise Malformed
        values = {key.arg: ast.literal_eval(key.value) for key in call.keywords if key.arg}
        if len(values) != len(call.keywords):
            raise Malformed
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        text.encode()
        return text
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise Malformed from None
