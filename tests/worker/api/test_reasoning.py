"""Reasoning apart from the text of a chat, and how much of it there is to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from worker.messages import Reasoning
from worker.tokenization.template_source import load_chat_template
from worker.tokenization.tokenizer import load_tokenizer

from ..tokenization.tiny_tokenizer import CHAT_TEMPLATE, write_tiny_tokenizer
from .conftest import RunningWorker, StartWorker
from .fake_scheduler import answer_with

USER: dict[str, Any] = {"role": "user", "content": "hi"}
WRITTEN = "<think>\nHm, é.\n</think>\n\nYes. \n"


@pytest.fixture
async def worker(start_worker: StartWorker) -> RunningWorker:
    worker = await start_worker(reasoning_parser="qwen3")
    worker.scheduler.script = answer_with(worker.ids(WRITTEN))
    return worker


async def chat(worker: RunningWorker, **arguments: Any) -> Any:
    messages = arguments.pop("messages", [USER])
    client = worker.openai()
    return await client.chat.completions.create(model="any", messages=messages, **arguments)


async def streamed(worker: RunningWorker, **extra: Any) -> list[Any]:
    stream = await chat(worker, stream=True, extra_body=extra)
    return [chunk.choices[0].delta async for chunk in stream]


async def test_reasoning_is_apart(worker: RunningWorker) -> None:
    message = (await chat(worker)).choices[0].message
    assert (message.reasoning_content, message.content) == ("Hm, é.", "Yes. \n")


async def test_a_stream_has_the_reasoning_as_it_is_written(worker: RunningWorker) -> None:
    deltas = await streamed(worker)
    pieces = [delta.reasoning_content for delta in deltas if hasattr(delta, "reasoning_content")]
    assert len(pieces) > 3
    assert "".join(pieces) == "Hm, é."
    assert "".join(delta.content or "" for delta in deltas) == "Yes. \n"


async def test_a_stream_can_have_it_at_once(worker: RunningWorker) -> None:
    deltas = await streamed(worker, stream_reasoning=False)
    pieces = [delta.reasoning_content for delta in deltas if hasattr(delta, "reasoning_content")]
    assert pieces == ["Hm, é."]


async def test_it_is_part_of_the_text_where_that_is_wanted(worker: RunningWorker) -> None:
    message = (await chat(worker, extra_body={"separate_reasoning": False})).choices[0].message
    assert message.content == WRITTEN
    assert not hasattr(message, "reasoning_content")


async def test_without_reasoning_there_is_none(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(" Yes <think> "))
    message = (await chat(worker)).choices[0].message
    assert (message.reasoning_content, message.content) == (None, " Yes <think> ")


async def test_the_prompt_can_open_the_reasoning(
    start_worker: StartWorker, tiny_folder: Path
) -> None:
    template = CHAT_TEMPLATE.replace("assistant\n'", "assistant\n<think>\n'")
    folder = write_tiny_tokenizer(tiny_folder, chat_template=template)
    worker = await start_worker(tokenizer=load_tokenizer(folder), reasoning_parser="qwen3")
    worker.scheduler.script = answer_with(worker.ids("Hm</think>Yes"))
    message = (await chat(worker)).choices[0].message
    assert (message.reasoning_content, message.content) == ("Hm", "Yes")


@pytest.mark.parametrize(
    ("begun", "reasoning", "text"),
    [("<think>Hm", "a", "b"), ("<think>Hm</think> So", None, "a</think>b"), ("So", None, None)],
)
async def test_an_answer_that_goes_on_knows_where_it_is(
    start_worker: StartWorker, begun: str, reasoning: str | None, text: str | None
) -> None:
    worker = await start_worker(reasoning_parser="deepseek-r1")
    worker.scheduler.script = answer_with(worker.ids("a</think>b"))
    messages = [USER, {"role": "assistant", "content": begun}]
    extra = {"continue_final_message": True}
    message = (await chat(worker, messages=messages, extra_body=extra)).choices[0].message
    assert message.reasoning_content == reasoning
    assert message.content == (text or "a</think>b")
    await chat(worker, messages=messages, extra_body={**extra, "regex": "a"})
    before = worker.scheduler.requests[-1].sampling.reasoning
    assert before == (Reasoning("<think>", "</think>", is_open=True) if reasoning else None)


@pytest.mark.parametrize(
    ("parser", "opened", "extra", "before"),
    [
        ("deepseek-r1", "", {}, Reasoning("<think>", "</think>", is_open=True)),
        ("deepseek-r1", "</think>\n", {}, None),
        ("qwen3", "", {}, Reasoning("<think>", "</think>", is_open=False)),
        ("qwen3", "<think>\n", {}, Reasoning("<think>", "</think>", is_open=True)),
        ("qwen3", "<think>\n\n</think>\n\n", {}, None),
        ("qwen3", "<think>\n", {"separate_reasoning": False}, None),
        (None, "<think>\n", {}, None),
    ],
)
async def test_a_grammar_holds_what_comes_after_the_reasoning(
    start_worker: StartWorker,
    tiny_folder: Path,
    parser: str | None,
    opened: str,
    extra: dict[str, Any],
    before: Reasoning | None,
) -> None:
    template = CHAT_TEMPLATE.replace("assistant\n'", f"assistant\n{opened}'".replace("\n", "\\n"))
    folder = write_tiny_tokenizer(tiny_folder, chat_template=template)
    worker = await start_worker(tokenizer=load_tokenizer(folder), reasoning_parser=parser)
    await chat(worker, response_format={"type": "json_object"}, extra_body=extra)
    await chat(worker, extra_body=extra)
    held, free = (request.sampling for request in worker.scheduler.requests)
    assert (held.reasoning, free.reasoning) == (before, None)


async def test_reasoning_comes_before_what_is_held_to_a_grammar(start_worker: StartWorker) -> None:
    worker = await start_worker(reasoning_parser="deepseek-r1")
    worker.scheduler.script = answer_with(worker.ids("Hm</think>\n{}"))
    message = (await chat(worker, response_format={"type": "json_object"})).choices[0].message
    assert (message.reasoning_content, message.content) == ("Hm", "{}")


async def test_separate_reasoning_needs_a_parser(start_worker: StartWorker) -> None:
    worker = await start_worker()
    with pytest.raises(openai.BadRequestError, match="--reasoning-parser") as caught:
        await chat(worker, extra_body={"separate_reasoning": True})
    assert caught.value.param == "separate_reasoning"
    await chat(worker, extra_body={"separate_reasoning": False})


@pytest.mark.parametrize(
    ("template", "effort", "prompt"),
    [
        ("{{ reasoning_effort }}", "high", "high"),
        ("{{ reasoning_effort }}", "none", "none"),
        ("{{ enable_thinking }}", "none", "False"),
        ("{{ thinking }}", "none", "False"),
        ("{{ thinking }}", None, ""),
    ],
)
async def test_the_template_is_told_the_effort(
    start_worker: StartWorker, tiny_folder: Path, template: str, effort: str | None, prompt: str
) -> None:
    folder = write_tiny_tokenizer(tiny_folder, chat_template="-" + template)
    worker = await start_worker(tokenizer=load_tokenizer(folder))
    await chat(worker, reasoning_effort=effort)
    assert worker.scheduler.requests[0].input_ids == worker.ids("-" + prompt)


@pytest.mark.parametrize(
    ("template", "effort", "variables", "message"),
    [
        ("x", "none", None, "does not know 'none'"),
        ("{{ enable_thinking }}", "low", None, "does not know 'low'"),
        ("{{ reasoning_effort }}", "low", {"reasoning_effort": "high"}, "says the same"),
        ("{{ reasoning_effort }}", "much", None, "'xhigh' or 'max', not \"much\""),
    ],
)
async def test_an_effort_that_cannot_be_told_is_refused(
    start_worker: StartWorker,
    tiny_folder: Path,
    template: str,
    effort: str,
    variables: dict[str, Any] | None,
    message: str,
) -> None:
    folder = write_tiny_tokenizer(tiny_folder, chat_template=template)
    worker = await start_worker(tokenizer=load_tokenizer(folder))
    extra = {"chat_template_kwargs": variables}
    with pytest.raises(openai.BadRequestError) as caught:
        await chat(worker, reasoning_effort=effort, extra_body=extra)
    assert message in caught.value.message
    assert caught.value.param == "reasoning_effort"


async def test_reasoning_and_calls_in_one_answer(
    start_worker: StartWorker, tiny_folder: Path
) -> None:
    tokenizer = load_tokenizer(tiny_folder, load_chat_template("hermes"))
    worker = await start_worker(
        ready={"context_length": 4096},
        tokenizer=tokenizer,
        reasoning_parser="qwen3",
        tool_call_parser="qwen25",
    )
    call = '<tool_call>{"name": "now"}</tool_call>'
    worker.scheduler.script = answer_with(worker.ids(f"<think>{call}?</think>\n{call}"))
    tools = [{"type": "function", "function": {"name": "now"}}]
    (choice,) = (await chat(worker, tools=tools)).choices
    assert choice.message.reasoning_content == f"{call}?"
    assert choice.message.content is None
    assert len(choice.message.tool_calls) == 1
    assert choice.finish_reason == "tool_calls"


# ===== /separate_reasoning =====


async def test_separate_reasoning_takes_a_text_apart(worker: RunningWorker) -> None:
    body = {"text": "Hm</think>Yes", "reasoning_parser": "deepseek-r1"}
    answer = await worker.http.post("/separate_reasoning", json=body)
    assert answer.json() == {"reasoning_text": "Hm", "text": "Yes"}
    answer = await worker.http.post("/separate_reasoning", json={"text": WRITTEN})
    assert answer.json() == {"reasoning_text": "Hm, é.", "text": "Yes. \n"}
    answer = await worker.http.post("/separate_reasoning", json={**body, "reasoning_parser": "x"})
    assert answer.status_code == 400
    assert "must be one of deepseek-r1, " in answer.json()["error"]["message"]
