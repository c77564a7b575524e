"""Reasoning apart from text, and together with tool calls."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.parsers.answer_parser import AnswerParser
from worker.parsers.deltas import Answer, ReasoningDelta, TextDelta, parse
from worker.parsers.reasoning_parser import ReasoningParser
from worker.parsers.registry import REASONING_FORMATS

from .answers import new_parser

NAMES = sorted(REASONING_FORMATS)


def reasoning(name: str, is_open: bool | None = None) -> ReasoningParser:
    form = REASONING_FORMATS[name]
    return ReasoningParser(form, form.begins_open if is_open is None else is_open)


@pytest.mark.parametrize(
    ("name", "written", "thought", "text"),
    [
        ("qwen3", "<think>\nHm: <b>.\n</think>\n\nYes. \n", "Hm: <b>.", "Yes. \n"),
        ("qwen3", "<think>\n\n</think>\n\nYes", "", "Yes"),
        ("qwen3", "\n <think>only", "only", ""),
        ("qwen3", " Yes <think>no</think>\n", "", " Yes <think>no</think>\n"),
        ("qwen3", "<thin", "", "<thin"),
        ("qwen3", "<think>a</think>b<think>c</think>", "a", "b<think>c</think>"),
        ("deepseek-r1", "Hm\n</think>\nYes", "Hm", "Yes"),
        ("deepseek-r1", "<think>Hm</think>Yes", "Hm", "Yes"),
        ("deepseek-r1", "Hm </thin", "Hm </thin", ""),
        ("kimi", "◁think▷Hm◁/think▷Yes", "Hm", "Yes"),
    ],
)
def test_an_answer_means(name: str, written: str, thought: str, text: str) -> None:
    assert parse(reasoning(name), written) == Answer(text, thought)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_it_means_the_same_at_every_split(name: str, data: st.DataObject) -> None:
    form = REASONING_FORMATS[name]
    part = st.sampled_from([form.start, form.end, form.end[:-1], " ", "\n", "a", "é😀", "<"])
    written = "".join(data.draw(st.lists(part, max_size=10)))
    cuts = data.draw(st.lists(st.integers(0, len(written)), max_size=8))
    cuts = [0, *sorted(cuts), len(written)]
    is_open = data.draw(st.booleans())
    parser, deltas = reasoning(name, is_open), []
    for start, end in pairwise(cuts):
        deltas += parser.push(written[start:end])
    assert Answer.of([*deltas, *parser.end()]) == parse(reasoning(name, is_open), written)


@pytest.mark.parametrize(
    ("name", "prompt", "is_open"),
    [
        ("qwen3", "<|im_start|>assistant\n", False),
        ("qwen3", "<|im_start|>assistant\n<think>\n", True),
        ("qwen3", "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("deepseek-r1", "<｜Assistant｜>", True),
        ("deepseek-r1", "<｜Assistant｜></think>", False),
        ("qwen3", "what is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
    ],
)
def test_the_prompt_says_whether_an_answer_begins_inside(
    name: str, prompt: str, is_open: bool
) -> None:
    assert REASONING_FORMATS[name].is_open_after(prompt) == is_open


CALL = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'


def test_there_are_no_calls_within_the_reasoning() -> None:
    parser = AnswerParser(reasoning("qwen3"), new_parser("qwen25"))
    answer = parse(parser, f"<think>I could {CALL}</think>\n\nSo:\n{CALL}")
    assert (answer.reasoning, answer.text) == (f"I could {CALL}", "So:")
    assert [call.name for call in answer.calls] == ["now"]


def test_reasoning_can_be_held_until_it_is_complete() -> None:
    parser = AnswerParser(reasoning("deepseek-r1"), None, hold_reasoning=True)
    assert [*parser.push("one "), *parser.push("two</think>")] == []
    assert parser.push(" so") == [ReasoningDelta("one two"), TextDelta("so")]
    unfinished = AnswerParser(reasoning("deepseek-r1"), None, hold_reasoning=True)
    assert unfinished.push("one") == []
    assert unfinished.end() == [ReasoningDelta("one")]
