"""Tool calls in what the offline engine answers, as /function_call finds them over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.parsers.deltas import parse
from worker.parsers.registry import TOOL_CALL_PARSERS


@dataclass(frozen=True)
class ToolCallItem:
    """A call of the tool at `tool_index` of those given. `parameters` are JSON, as written."""

    tool_index: int
    name: str
    parameters: str


class FunctionCallParser:
    """SGLang's class of this name; `tools` are objects of OpenAI's form.

    Raises ValueError if there is no parser of this name.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], tool_call_parser: str) -> None:
        if tool_call_parser not in TOOL_CALL_PARSERS:
            known = ", ".join(TOOL_CALL_PARSERS)
            raise ValueError(f"tool_call_parser {tool_call_parser!r} is not one of {known}")
        self._parser = TOOL_CALL_PARSERS[tool_call_parser]()
        functions = [tool["function"] for tool in tools]
        self._tools = {each["name"]: each.get("parameters") or {} for each in functions}

    def parse_non_stream(self, text: str) -> tuple[str, list[ToolCallItem]]:
        """The text of a whole answer without its calls, and the calls."""
        answer = parse(self._parser(self._tools), text)
        names = list(self._tools)
        return answer.text, [
            ToolCallItem(names.index(call.name), call.name, call.arguments) for call in answer.calls
        ]
