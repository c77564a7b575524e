"""Answers of models, one format after the other, with the calls that are in them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from worker.parsers.deltas import Answer, parse
from worker.parsers.registry import TOOL_CALL_PARSERS
from worker.parsers.tool_call_parser import ToolCallParser

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "where": {"type": "object"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}
TOOLS: dict[str, dict[str, Any]] = {"get_weather": WEATHER, "now": {}}
NESTED = {"city": 'a "b" </tool_call> {[', "where": {"é": [1, {"x": "}\\"}], "😀": None}}
BOSTON = {"city": "Boston", "days": 2}


@dataclass(frozen=True)
class Sample:
    """What a model of `parser` wrote, and what it means: the arguments of each call as objects."""

    parser: str
    written: str
    text: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    ids: list[str] | None = None


def new_parser(name: str, limit: int | None = None, *, calls_first: bool = False) -> ToolCallParser:
    return TOOL_CALL_PARSERS[name]()(TOOLS, limit, calls_first=calls_first)


def read(sample: Sample) -> Answer:
    return parse(new_parser(sample.parser), sample.written)


def _call(name: str, arguments: Any, word: str = "arguments") -> str:
    return json.dumps({"name": name, word: arguments}, ensure_ascii=False)


def _v3(name: str, arguments: Any) -> str:
    body = json.dumps(arguments, ensure_ascii=False)
    head = f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}"
    return f"{head}\n```json\n{body}\n```<｜tool▁call▁end｜>"


def _v31(name: str, arguments: Any) -> str:
    body = json.dumps(arguments, ensure_ascii=False)
    return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{body}<｜tool▁call▁end｜>"


def _kimi(call_id: str, arguments: Any) -> str:
    body = json.dumps(arguments, ensure_ascii=False)
    return f"<|tool_call_begin|>{call_id}<|tool_call_argument_begin|>{body}<|tool_call_end|>"


TWO = [("get_weather", NESTED), ("now", {})]
ONE = [("get_weather", BOSTON)]

SAMPLES = [
    # Qwen, Hermes
    Sample(
        "qwen25",
        f"Let me see.\n\n<tool_call>\n{_call('get_weather', NESTED)}\n</tool_call>\n<tool_call>\n"
        f"{_call('now', {})}\n</tool_call>",
        "Let me see.",
        TWO,
    ),
    Sample("qwen25", "a  \n b <tool_cal < tool_call> \n", "a  \n b <tool_cal < tool_call> \n"),
    Sample("qwen25", ' <tool_call>{"name": "now"}</tool_call> so\n', "so\n", [("now", {})]),
    Sample(
        "qwen25",
        '<tool_call>{"id": [1, "}"], "arguments": {"city": "Boston", "days": 2}, "x": null, '
        '"name": "get_weather", "y": -1.5}</tool_call>',
        "",
        ONE,
    ),
    Sample(
        "qwen25",  # the last brace is missing
        f"<tool_call>{_call('get_weather', BOSTON)[:-1]}\n</tool_call>\nDone",
        "Done",
        ONE,
    ),
    Sample(
        "qwen25",
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>'
        f"<tool_call>{_call('get_weather', BOSTON)}</tool_call>",
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        ONE,
    ),
    *(
        Sample("qwen25", written, written)
        for written in (
            "<tool_call>",
            "<tool_call>\n",
            "<tool_call><tool_call>",
            "<tool_call>no JSON</tool_call>",
            '<tool_call>{"name": "now", "arguments": {bad}}</tool_call>',
            '<tool_call>{"name": "now", "arguments": "text"}</tool_call>',
            '<tool_call>{"name": "now", "arguments": [1]}</tool_call>',
            '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
            '<tool_call>{"arguments": {}}</tool_call>',
            '<tool_call>{"arguments": {"a": ]}, "name": "now"}</tool_call>',
            '<tool_call>{"name": "no',
            '<tool_call>{"name": "now',
            '<tool_call>{"name": "now", "arguments": ',
            '<tool_call>{"name": "now", "arguments": {',
            '<tool_call>{"arguments": {"a": "',
            '<tool_call>{"na\\',
        )
    ),
    # Llama
    Sample("llama3", _call("get_weather", NESTED, "parameters"), "", TWO[:1]),
    Sample(
        "llama3",
        f"<|python_tag|>{_call('get_weather', NESTED, 'parameters')}; {_call('now', {})}",
        "",
        TWO,
    ),
    Sample(
        "llama3",
        f"Well:<|python_tag|>{_call('get_weather', BOSTON, 'parameters')}\n; and so on",
        "Well:; and so on",
        ONE,
    ),
    Sample("llama3", f"{_call('now', {})}; ", "", [("now", {})]),
    Sample("llama3", '{"a": 1} is JSON', '{"a": 1} is JSON'),
    Sample("llama3", "<|python_tag|>print(5)", "<|python_tag|>print(5)"),
    Sample("llama3", f"see {_call('now', {})}", f"see {_call('now', {})}"),
    # Mistral
    Sample(
        "mistral",
        f"[TOOL_CALLS] [{_call('get_weather', NESTED)}, {_call('now', {})}] then",
        "then",
        TWO,
    ),
    Sample(
        "mistral",
        f"ok[TOOL_CALLS]get_weather[ARGS]{json.dumps(BOSTON)}[TOOL_CALLS]now{{}}",
        "ok",
        [*ONE, ("now", {})],
    ),
    Sample(
        "mistral",
        "[TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{}",
        "",
        [("now", {})],
        ["abcdefghi"],
    ),
    Sample("mistral", f"[TOOL_CALLS][{_call('now', {})}, {{}}]", ", {}]", [("now", {})]),
    Sample("mistral", "[TOOL_CALLS] [] [TOOL", "[TOOL_CALLS] [] [TOOL"),
    # DeepSeek
    Sample(
        "deepseekv3",
        f"Hm <｜tool▁calls▁begin｜>{_v3('get_weather', NESTED)}\n{_v3('now', {})}"
        "<｜tool▁calls▁end｜>",
        "Hm",
        TWO,
    ),
    Sample(
        "deepseekv3",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>other",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>other",
    ),
    Sample(
        "deepseekv31",
        f"<｜tool▁calls▁begin｜>{_v31('get_weather', NESTED)}{_v31('now', {})}"
        "<｜tool▁calls▁end｜> ",
        "",
        TWO,
    ),
    Sample(
        "deepseekv31",  # the beginning of the section is missing
        f"So {_v31('get_weather', BOSTON)}<｜tool▁calls▁end｜>{_v31('now', {})}",
        "So",
        [*ONE, ("now", {})],
    ),
    # Python
    Sample(
        "pythonic",
        "[get_weather(city='Bo\\'s \"t\" )', days=-2, where={'a': [True, None, (1.5, 'é')]}), "
        "now()] end",
        "end",
        [
            (
                "get_weather",
                {"city": 'Bo\'s "t" )', "days": -2, "where": {"a": [True, None, [1.5, "é"]]}},
            ),
            ("now", {}),
        ],
    ),
    Sample(
        "pythonic",
        'Sure <|python_start|>[get_weather(city="Boston", days=2)]<|python_end|>',
        "Sure",
        ONE,
    ),
    *(
        Sample("pythonic", written, written)
        for written in (
            "[1, 2]",
            "[now(1)]",
            "[now(a=b)]",
            "[now(**{'a': 1})]",
            "[now(a={1: 2}.x)]",
            "[now(a=b'x')]",
            "[now(a=1e999)]",
            "[now(a='\\ud800')]",
            "[now(a='x]",
            "[now(",
            "[other()]",
            "[now(a=1, a=2)]",
        )
    ),
    Sample("pythonic", "[now() for x in y]", "for x in y]", [("now", {})]),
    # Kimi
    Sample(
        "kimi_k2",
        f"So<|tool_calls_section_begin|>{_kimi('functions.get_weather:3', NESTED)}"
        f"{_kimi('functions.now:4', {})}<|tool_calls_section_end|>",
        "So",
        TWO,
        ["functions.get_weather:3", "functions.now:4"],
    ),
    Sample(
        "kimi_k2",
        f"<|tool_calls_section_begin|>{_kimi('functions.now', {})}",
        f"<|tool_calls_section_begin|>{_kimi('functions.now', {})}",
    ),
    # GLM
    Sample(
        "glm45",
        "I look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n"
        '<arg_value>5 "é"\n</arg</arg_value>\n'
        "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n<arg_key>where</arg_key>\n"
        '<arg_value>{"a": [1]}</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>',
        "I look.",
        [
            ("get_weather", {"city": '5 "é"\n</arg', "days": 2, "where": {"a": [1]}}),
            ("now", {}),
        ],
    ),
    Sample(
        "glm45",
        "<tool_call>now\n<arg_key>z</arg_key>\n<arg_value>no JSON</arg_value>\n"
        "<arg_key>n</arg_key><arg_value>NaN</arg_value></tool_call>",
        "",
        [("now", {"z": "no JSON", "n": "NaN"})],
    ),
    Sample("glm45", "<tool_call>now maybe</tool_call>", "<tool_call>now maybe</tool_call>"),
    # Qwen3-Coder
    Sample(
        "qwen3_coder",
        "I look.\n<tool_call>\n<function=get_weather>\n<parameter=city>\n\n def f():\n  'x'\n\n"
        '</parameter>\n<parameter=days>\n2\n</parameter>\n<parameter=tags>["a"]</parameter>\n'
        "</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
        "I look.",
        [
            ("get_weather", {"city": "\n def f():\n  'x'\n", "days": 2, "tags": ["a"]}),
            ("now", {}),
        ],
    ),
    Sample("qwen3_coder", "<function=now></function>", "", [("now", {})]),
    Sample("qwen3_coder", "<tool_call>\n<function=no>", "<tool_call>\n<function=no>"),
]
