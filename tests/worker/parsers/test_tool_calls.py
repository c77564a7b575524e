"""Tool calls of every format: what they mean, and the same at every split of the text."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.parsers.deltas import Answer, CallDelta, Delta, TextDelta, parse
from worker.parsers.registry import TOOL_CALL_PARSERS
from worker.parsers.tool_call_parser import ToolCallParser

from .answers import BOSTON, SAMPLES, TOOLS, Sample, new_parser, read

NAMES = sorted(TOOL_CALL_PARSERS)


def known(answer: Answer) -> tuple[str, list[tuple[str, str]]]:
    """Without ids, which are random."""
    return answer.text, [(call.name, call.arguments) for call in answer.calls]


def streamed(parser: ToolCallParser, pieces: list[str]) -> tuple[Answer, list[Delta]]:
    deltas: list[Delta] = []
    for piece in pieces:
        deltas += parser.push(piece)
    deltas += parser.end()
    return Answer.of(deltas), deltas


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.parser}:{sample.written}")
def test_an_answer_means(sample: Sample) -> None:
    answer = read(sample)
    calls = [(call.name, json.loads(call.arguments)) for call in answer.calls]
    assert (answer.text, calls) == (sample.text, sample.calls)
    if sample.ids is not None:
        assert [call.id for call in answer.calls] == sample.ids


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.parser}:{sample.written}")
def test_it_means_the_same_at_every_split_in_two_and_by_characters(sample: Sample) -> None:
    whole, written = known(read(sample)), sample.written
    splits = [[written[:at], written[at:]] for at in range(len(written) + 1)]
    for pieces in [*splits, list(written)]:
        answer, _ = streamed(new_parser(sample.parser), pieces)
        assert known(answer) == whole, pieces


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: f"{sample.parser}:{sample.written}")
def test_behind_text_there_are_no_calls_where_they_come_first(sample: Sample) -> None:
    """In a string of a JSON answer, say, or behind it."""
    for before in ('{"a": "', "x "):
        written = before + sample.written
        for at in range(len(written) + 1):
            parser = new_parser(sample.parser, calls_first=True)
            answer, _ = streamed(parser, [written[:at], written[at:]])
            assert known(answer) == (written, []), at
    alone = parse(new_parser(sample.parser, calls_first=True), sample.written)
    assert alone.calls or not sample.calls or sample.text


PARTS = sorted(
    {part for sample in SAMPLES for part in re.findall(r"<[^>]*>|\[\w+\]|\w+|.|\s", sample.written)}
)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_whatever_is_written_means_the_same_at_every_split(name: str, data: st.DataObject) -> None:
    """Whole samples and parts of them in any order, with any other text between."""
    own = st.sampled_from([sample.written for sample in SAMPLES if sample.parser == name])
    text = st.one_of(own, st.sampled_from(PARTS), st.text(max_size=3))
    written = "".join(data.draw(st.lists(text, max_size=8)))
    places = st.integers(0, len(written))
    cuts = [0, *sorted(data.draw(st.lists(places, max_size=12))), len(written)]
    pieces = [written[start:end] for start, end in pairwise(cuts)]
    whole = parse(new_parser(name), written)
    assert known(streamed(new_parser(name), pieces)[0]) == known(whole)
    assert all(call.name in TOOLS and call.id for call in whole.calls)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(text=st.text(st.characters(blacklist_categories=["Cs"]), max_size=40))
def test_text_without_calls_is_left_as_it_is(name: str, text: str) -> None:
    assert known(parse(new_parser(name), text)) == (text, [])


def begun(index: int, name: str, arguments: str, deltas: list[Delta]) -> bool:
    """Whether the last of `deltas` is the first of this call."""
    last = deltas[-1]
    assert isinstance(last, CallDelta)
    assert last.id
    return (last.index, last.name, last.arguments) == (index, name, arguments)


def test_arguments_come_as_they_are_written() -> None:
    parser = new_parser("qwen25")
    first = parser.push('Hi <tool_call>{"name": "get_weather", "arguments": {"ci')
    assert first[:-1] == [TextDelta("Hi")]
    assert begun(0, "get_weather", '{"ci', first)
    assert parser.push('ty": "Bos') == [CallDelta(0, 'ty": "Bos')]
    assert parser.push('ton"}, ') == [CallDelta(0, 'ton"}')]
    assert parser.push('"id": 1}\n</tool_call>') == []
    assert begun(1, "now", '{"', parser.push('<tool_call>{"name": "now", "arguments": {"'))


def test_strings_between_tags_come_as_they_are_written() -> None:
    parser = new_parser("glm45")
    assert begun(0, "get_weather", "", parser.push("<tool_call>get_weather\n<arg_key>"))
    assert parser.push("city</arg_key><arg_value>Bos") == [CallDelta(0, '{"city": "Bos')]
    assert parser.push('"\n</arg') == [CallDelta(0, '\\"\\n')]
    assert parser.push("s</arg_value>") == [CallDelta(0, '</args"')]
    assert parser.end() == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "null"]},
        {"anyOf": [{"type": "string"}, {"type": "null"}]},
        {"oneOf": [{"type": "null"}, {"type": "string", "maxLength": 9}]},
    ],
)
@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("glm45", "<tool_call>find<arg_key>zip</arg_key><arg_value>{}</arg_value></tool_call>"),
        ("qwen3_coder", "<function=find><parameter=zip>{}</parameter></function>"),
    ],
)
def test_strings_that_may_be_null_are_no_numbers(
    name: str, written: str, schema: dict[str, Any]
) -> None:
    tools = {"find": {"type": "object", "properties": {"zip": schema}}}
    for text, value in (("12345", "12345"), ("null", None), ('a "b"', 'a "b"')):
        (call,) = parse(TOOL_CALL_PARSERS[name]()(tools), written.format(text)).calls
        assert json.loads(call.arguments) == {"zip": value}


@pytest.mark.parametrize(
    ("name", "written", "arguments"),
    [
        ("qwen25", '<tool_call>{"name": "now", "arguments": {"a": "b\\', '{"a": "b\\'),
        ("llama3", '{"name": "now", "parameters": {"a": [', '{"a": ['),
        ("mistral", '[TOOL_CALLS][{"name": "now", "arguments": {"', '{"'),
        (
            "kimi_k2",
            '<|tool_calls_section_begin|><|tool_call_begin|>now:0<|tool_call_argument_begin|>{"a',
            '{"a',
        ),
        ("glm45", "<tool_call>get_weather<arg_key>city</arg_key><arg_value>B", '{"city": "B'),
        ("qwen3_coder", "<function=now><parameter=a>1</parameter>", '{"a": 1'),
    ],
)
def test_a_call_that_is_cut_off_keeps_its_arguments_so_far(
    name: str, written: str, arguments: str
) -> None:
    answer = parse(new_parser(name), written)
    assert [call.arguments for call in answer.calls] == [arguments]
    assert answer.text == ""


def test_what_follows_where_arguments_break_off_is_text() -> None:
    written = '<tool_call>{"name": "now", "arguments": {"a": 1]}</tool_call>'
    assert known(parse(new_parser("qwen25"), written)) == ("]}</tool_call>", [("now", '{"a": 1')])


def test_a_limit_leaves_out_further_calls_and_what_comes_after_them() -> None:
    sample = next(sample for sample in SAMPLES if len(sample.calls) == 2 and sample.text)
    answer = parse(new_parser(sample.parser, limit=1), sample.written + "more")
    assert known(answer)[0] == sample.text
    assert [(call.name, json.loads(call.arguments)) for call in answer.calls] == sample.calls[:1]


def test_ids_are_new_for_each_call_and_of_the_kind_that_templates_take() -> None:
    written = json.dumps([{"name": "now"}, {"name": "get_weather", "arguments": BOSTON}])
    ids = [call.id for call in parse(new_parser("mistral"), "[TOOL_CALLS]" + written).calls]
    assert len(set(ids)) == 2
    assert all(re.fullmatch("[a-z0-9]{9}", each) for each in ids)
    (call,) = parse(new_parser("llama3"), '{"name": "now"}').calls
    assert re.fullmatch("call_[0-9a-f]{24}", call.id)
