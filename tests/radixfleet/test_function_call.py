"""The parser of tool calls for the offline engine, as SGLang's documentation uses it."""

from __future__ import annotations

import pytest

from radixfleet import FunctionCallParser

TOOLS = [
    {"type": "function", "function": {"name": "now"}},
    {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"type": "object"}},
    },
]


def test_it_finds_calls_again_and_again() -> None:
    parser = FunctionCallParser(tools=TOOLS, tool_call_parser="llama3")
    written = '{"name": "get_weather", "parameters": {"city": "Boston"}}; {"name": "now"}'
    for _ in range(2):
        text, calls = parser.parse_non_stream(written)
        assert text == ""
        assert [(call.tool_index, call.name, call.parameters) for call in calls] == [
            (1, "get_weather", '{"city": "Boston"}'),
            (0, "now", "{}"),
        ]
    assert parser.parse_non_stream(" just text\n") == (" just text\n", [])


def test_an_unknown_parser_is_refused() -> None:
    with pytest.raises(ValueError, match="'llama' is not one of llama3, "):
        FunctionCallParser(TOOLS, "llama")
