"""Tool calls in chats, through the `openai` client: prompts, answers, streams, the loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
import tokenizers

from worker.messages import FinishReason
from worker.tokenization.template_source import load_chat_template
from worker.tokenization.token_bytes import TokenBytes
from worker.tokenization.tokenizer import Tokenizer, load_tokenizer

from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from .conftest import RunningWorker, StartWorker, refuses
from .fake_scheduler import answer_with

USER: dict[str, Any] = {"role": "user", "content": "Weather in Boston?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bostön 😀"}}\n</tool_call>'
TWO_CALLS = f'Let me see.\n{CALL}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'
ROOM = {"context_length": 4096, "vocab_size": 400}


@pytest.fixture
def hermes(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(tiny_folder, load_chat_template("hermes"))


@pytest.fixture
async def worker(start_worker: StartWorker, hermes: Tokenizer) -> RunningWorker:
    return await start_worker(ready=ROOM, tokenizer=hermes, tool_call_parser="qwen25")


async def chat(worker: RunningWorker, **arguments: Any) -> Any:
    arguments = {"messages": [USER], "tools": [WEATHER, NOW], **arguments}
    return await worker.openai().chat.completions.create(model="any", **arguments)


def prompt(worker: RunningWorker) -> str:
    """Of the last request."""
    ids = worker.scheduler.requests[-1].input_ids
    return worker.service.tokenizer.decode(ids, skip_special_tokens=False)


async def test_a_chat_calls_tools(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(TWO_CALLS))
    (choice,) = (await chat(worker)).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    weather, now = choice.message.tool_calls
    assert (weather.type, weather.function.name) == ("function", "get_weather")
    assert weather.function.arguments == '{"city": "Bostön 😀"}'
    assert (now.function.name, now.function.arguments) == ("now", "{}")
    assert weather.id != now.id
    assert json.dumps(WEATHER) in prompt(worker)
    assert '"name": "now", "parameters": {"type": "object", "properties": {}}' in prompt(worker)


async def test_content_is_null_where_there_are_calls_alone(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(CALL))
    (choice,) = (await chat(worker)).choices
    assert choice.message.content is None
    assert len(choice.message.tool_calls) == 1


async def test_without_a_call_an_answer_is_as_ever(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("It rains.\n"))
    (choice,) = (await chat(worker)).choices
    assert (choice.message.content, choice.finish_reason) == ("It rains.\n", "stop")
    assert choice.message.tool_calls is None


async def test_a_call_that_is_cut_off_ends_for_its_length(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(CALL[:-20]), finish=FinishReason("length"))
    for stream in (False, True):
        answer = await chat(worker, stream=stream)
        reasons = (
            [chunk.choices[0].finish_reason async for chunk in answer]
            if stream
            else [answer.choices[0].finish_reason]
        )
        assert reasons[-1] == "length"


@pytest.mark.parametrize("size", [1, 3, 1000])
async def test_a_stream_joins_to_the_whole_answer(worker: RunningWorker, size: int) -> None:
    worker.scheduler.script = answer_with(worker.ids(TWO_CALLS), chunk_size=size)
    chunks = [chunk async for chunk in await chat(worker, stream=True)]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    text, calls = "", []
    for chunk in chunks:
        delta = chunk.choices[0].delta
        text += delta.content or ""
        for call in delta.tool_calls or ():
            if call.index == len(calls):
                assert call.type == "function"
                calls.append([call.id, call.function.name, ""])
            else:
                assert (call.id, call.function.name, call.type) == (None, None, None)
            calls[call.index][2] += call.function.arguments
    assert text == "Let me see."
    assert [call[1:] for call in calls] == [
        ["get_weather", '{"city": "Bostön 😀"}'],
        ["now", "{}"],
    ]
    assert len({call[0] for call in calls}) == 2


async def test_the_clients_own_stream_helper_puts_calls_together(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(CALL))
    client = worker.openai()
    async with client.chat.completions.stream(
        model="any", messages=[USER], tools=[WEATHER]
    ) as stream:
        completion = await stream.get_final_completion()
    message = completion.choices[0].message
    assert message.content is None
    assert message.tool_calls[0].function.arguments == '{"city": "Bostön 😀"}'
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    await chat(worker, messages=[USER, message, result])
    assert CALL in prompt(worker)


async def test_each_sample_has_its_own_calls(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(TWO_CALLS), chunk_size=5)
    chunks = [chunk async for chunk in await chat(worker, n=2, stream=True)]
    for index in range(2):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        begun = [call for choice in own for call in choice.delta.tool_calls or () if call.id]
        assert [call.function.name for call in begun] == ["get_weather", "now"]


async def test_log_probabilities_of_a_stream_are_those_of_the_whole(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(TWO_CALLS))
    whole = (await chat(worker, logprobs=True)).choices[0].logprobs.content
    stream = await chat(worker, logprobs=True, stream=True)
    streamed = [
        entry
        async for chunk in stream
        for entry in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert streamed == whole
    assert len(whole) == len(worker.ids(TWO_CALLS)) + 1


async def test_the_loop_of_call_result_and_answer(worker: RunningWorker) -> None:
    """As agents do it: the message is sent back as it came."""
    worker.scheduler.script = answer_with(worker.ids(TWO_CALLS))
    messages: list[Any] = [USER]
    message = (await chat(worker, messages=messages)).choices[0].message
    messages.append(message)
    for call in message.tool_calls:
        result = {"role": "tool", "tool_call_id": call.id, "content": f"result of {call.id}"}
        messages.append(result)
    worker.scheduler.script = answer_with(worker.ids("It is warm."))
    final = await chat(worker, messages=messages)
    assert final.choices[0].message.content == "It is warm."
    first, second = (call.id for call in message.tool_calls)
    assert prompt(worker).endswith(
        f"<|im_start|>assistant\n{TWO_CALLS}<|im_end|>\n<|im_start|>user\n"
        f"<tool_response>\nresult of {first}\n</tool_response>\n"
        f"<tool_response>\nresult of {second}\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("written", "seen"),
    [('{"a":  1}', '{"a":  1}|1'), ("", "{}|"), ('{"a": ', '{"a": |'), ("[1]", "[1]|")],
)
async def test_templates_read_arguments_as_text_and_as_objects(
    start_worker: StartWorker, tiny_folder: Path, written: str, seen: str
) -> None:
    template = (
        "{% for call in messages[-1].tool_calls %}"
        "{{ '' + call.function.arguments + '|' }}{{ call.function.arguments.a }}{% endfor %}"
    )
    tokenizer = load_tokenizer(write_tiny_tokenizer(tiny_folder, chat_template=template))
    worker = await start_worker(tokenizer=tokenizer)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": written}}
    await chat(worker, messages=[{"role": "assistant", "tool_calls": [call]}], tools=openai.omit)
    assert prompt(worker) == seen


async def test_templates_know_the_tool_of_a_result_and_old_reasoning(
    start_worker: StartWorker, tiny_folder: Path
) -> None:
    template = (
        "{% for m in messages %}{{ m.role }},{{ m.name }},{{ m.tool_call_id }},"
        "{{ m.reasoning_content }},{{ m.content is none }};{% endfor %}"
    )
    tokenizer = load_tokenizer(write_tiny_tokenizer(tiny_folder, chat_template=template))
    worker = await start_worker(tokenizer=tokenizer)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "assistant", "tool_calls": [call], "content": None, "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "r"}]},
        {"role": "tool", "name": "g", "content": "as SGLang's documentation has it"},
    ]
    await chat(worker, messages=messages, tools=openai.omit)
    assert prompt(worker) == "assistant,,,hm,True;tool,f,1,,False;tool,g,,,False;"


async def test_one_call_at_most_without_parallel_calls(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(TWO_CALLS))
    (choice,) = (await chat(worker, parallel_tool_calls=False)).choices
    assert [call.function.name for call in choice.message.tool_calls] == ["get_weather"]


async def test_with_the_choice_none_the_model_is_not_told_of_tools(
    start_worker: StartWorker, worker: RunningWorker
) -> None:
    worker.scheduler.script = answer_with(worker.ids(CALL))
    (choice,) = (await chat(worker, tool_choice="none")).choices
    assert (choice.message.content, choice.finish_reason) == (CALL, "stop")
    assert "get_weather" not in prompt(worker)
    without_parser = await start_worker()
    await chat(without_parser, tool_choice="none")


async def test_special_tokens_of_the_format_are_read_although_they_are_skipped(
    start_worker: StartWorker, hermes: Tokenizer
) -> None:
    backend = hermes.backend
    backend.add_special_tokens([tokenizers.AddedToken("<|python_tag|>", special=True)])
    tokenizer = Tokenizer(backend, TokenBytes(backend), hermes.chat_template)
    worker = await start_worker(ready=ROOM, tokenizer=tokenizer, tool_call_parser="llama3")
    written = 'So: <|python_tag|>{"name": "now", "parameters": {}}<|im_start|>'
    worker.scheduler.script = answer_with(worker.ids(written))
    (choice,) = (await chat(worker)).choices
    assert choice.message.content == "So:"
    assert choice.message.tool_calls[0].function.name == "now"


def tool(**function: Any) -> list[Any]:
    return [{"type": "function", "function": {"name": "f", **function}}]


@pytest.mark.parametrize(
    ("arguments", "message", "param"),
    [
        ({"tools": [{"type": "function"}]}, "required", "tools[0].function"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "'function', not", "tools[0].type"),
        ({"tools": tool(name="a b")}, "match pattern", "tools[0].function.name"),
        (
            {"tools": tool(parameters={"type": "string"})},
            '"type": "object"',
            "tools[0].function.parameters",
        ),
        (
            {"tools": tool(parameters={"properties": {"a": 5}})},
            "an object of schemas",
            "tools[0].function.parameters",
        ),
        (
            {"tools": tool(parameters={"required": "a"})},
            "a list of names",
            "tools[0].function.parameters",
        ),
        ({"tools": [NOW, NOW]}, "'now' is there more than once", "tools"),
        ({"tools": [NOW] * 129}, "at most 128", "tools"),
        (
            {"extra_body": {"regex": "a"}},
            "an answer that keeps to regex cannot call them",
            "tools",
        ),
        (
            {"messages": [USER, {"role": "tool", "tool_call_id": "x", "content": "r"}]},
            "no message before has a call with the id 'x'",
            "messages[1].tool_call_id",
        ),
        (
            {"messages": [{**USER, "tool_call_id": "x"}]},
            "only to be given in messages of the role tool",
            "messages[0].tool_call_id",
        ),
        (
            {"messages": [{**USER, "reasoning_content": "x"}]},
            "only to be given in messages of the role assistant",
            "messages[0].reasoning_content",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": []}]},
            "required",
            "messages[0].content",
        ),
    ],
)
async def test_what_is_wrong_is_refused(
    worker: RunningWorker, arguments: dict[str, Any], message: str, param: str
) -> None:
    await refuses(worker, chat(worker, **arguments), message, param)


async def test_tools_need_a_parser_and_a_template_that_knows_them(
    start_worker: StartWorker, hermes: Tokenizer
) -> None:
    without_parser = await start_worker(tokenizer=hermes)
    with pytest.raises(openai.BadRequestError, match="--tool-call-parser"):
        await chat(without_parser)
    without_template = await start_worker(tool_call_parser="qwen25")
    with pytest.raises(openai.BadRequestError, match="--chat-template"):
        await chat(without_template)


async def test_the_prompt_of_a_chat_with_tools_can_be_asked_for(worker: RunningWorker) -> None:
    body = {"messages": [USER], "tools": [WEATHER, NOW]}
    tokens = (await worker.http.post("/v1/tokenize", json=body)).json()["tokens"]
    await chat(worker)
    assert worker.scheduler.requests[0].input_ids == tokens


# ===== /function_call =====


async def test_function_call_parses_what_a_model_wrote(worker: RunningWorker) -> None:
    body = {"text": TWO_CALLS, "tools": [NOW, WEATHER], "tool_call_parser": "qwen25"}
    calls = [
        {"tool_index": 1, "name": "get_weather", "parameters": '{"city": "Bostön 😀"}'},
        {"tool_index": 0, "name": "now", "parameters": "{}"},
    ]
    answer = await worker.http.post("/function_call", json=body)
    assert answer.json() == {"normal_text": "Let me see.", "calls": calls}
    del body["tool_call_parser"]
    assert (await worker.http.post("/function_call", json=body)).json()["calls"] == calls
    long = {**body, "text": TWO_CALLS + " " + "x" * 100_000}
    assert (await worker.http.post("/function_call", json=long)).json()["calls"] == calls


async def test_function_call_refuses_unknown_parsers(start_worker: StartWorker) -> None:
    worker = await start_worker()
    for name in ({}, {"tool_call_parser": "x"}):
        answer = await worker.http.post("/function_call", json={"text": "", "tools": [NOW], **name})
        assert answer.status_code == 400
        assert "tool_call_parser: must be one of llama3, " in answer.json()["error"]["message"]
