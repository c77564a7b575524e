"""Tools and reasoning in /v1/responses: items, events, prompts, the loop, through `openai`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from worker.messages import FinishReason, GenerateRequest, TokenChunk
from worker.tokenization.template_source import load_chat_template
from worker.tokenization.tokenizer import Tokenizer, load_tokenizer

from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from .conftest import RunningWorker, StartWorker, refuses
from .fake_scheduler import answer_with

QUESTION = "Weather in Boston?"
QUESTION_ITEM = {"role": "user", "content": QUESTION}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
WEATHER: dict[str, Any] = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": PARAMETERS,
    "strict": False,
}
NOW: dict[str, Any] = {"type": "function", "name": "now", "parameters": None, "strict": None}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bostön 😀"}}\n</tool_call>'
TWO_CALLS = f'Let me see.\n{CALL}\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n</tool_call>'
CUT = f"Let me see.\n{CALL[:-20]}"
THOUGHT = f"<think>\nHm, é.\n</think>\n\n{CALL}"
ROOM = {"context_length": 4096, "vocab_size": 400}


@pytest.fixture
def hermes(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(tiny_folder, load_chat_template("hermes"))


@pytest.fixture
async def worker(start_worker: StartWorker, hermes: Tokenizer) -> RunningWorker:
    return await start_worker(ready=ROOM, tokenizer=hermes, tool_call_parser="qwen25")


@pytest.fixture
async def thinker(start_worker: StartWorker, hermes: Tokenizer) -> RunningWorker:
    """Its model reasons, too."""
    return await start_worker(
        ready=ROOM, tokenizer=hermes, tool_call_parser="qwen25", reasoning_parser="qwen3"
    )


async def create(worker: RunningWorker, **arguments: Any) -> Any:
    arguments = {"input": QUESTION, "tools": [WEATHER, NOW], **arguments}
    return await worker.openai().responses.create(model="any", **arguments)


def prompt(worker: RunningWorker) -> str:
    """Of the last request."""
    ids = worker.scheduler.requests[-1].input_ids
    return worker.service.tokenizer.decode(ids, skip_special_tokens=False)


def without_ids(response: Any) -> dict[str, Any]:
    """All that two answers of the same text have in common."""
    content = response.to_dict()
    for name in ("id", "created_at", "completed_at"):
        del content[name]
    for item in content["output"]:
        del item["id"]
        item.pop("call_id", None)
    return content


# ===== items =====


async def test_a_response_calls_tools(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(TWO_CALLS))
    response = await create(worker)
    message, weather, now = response.output
    assert response.status == "completed"
    assert response.output_text == message.content[0].text == "Let me see."
    assert [item.type for item in response.output[1:]] == ["function_call"] * 2
    assert (weather.name, weather.arguments) == ("get_weather", '{"city": "Bostön 😀"}')
    assert (now.name, now.arguments) == ("now", "{}")
    assert {item.status for item in response.output} == {"completed"}
    assert [item.id.partition("_")[0] for item in response.output] == ["msg", "fc", "fc"]
    assert len({item.id for item in response.output}) == 3
    assert weather.call_id != now.call_id
    assert [tool.to_dict() for tool in response.tools] == [WEATHER, NOW]
    Response.model_validate(response.model_dump(by_alias=True))
    assert await worker.openai().responses.retrieve(response.id) == response


async def test_the_prompt_is_that_of_a_chat_with_the_same_tools(worker: RunningWorker) -> None:
    await create(worker)
    from_response = worker.scheduler.requests[-1].input_ids
    functions = [
        {name: value for name, value in tool.items() if name not in ("type", "strict")}
        for tool in (WEATHER, NOW)
    ]
    tools: Any = [{"type": "function", "function": function} for function in functions]
    messages: Any = [{"role": "user", "content": QUESTION}]
    chats = worker.openai().chat.completions
    await chats.create(model="any", messages=messages, tools=tools)
    assert worker.scheduler.requests[-1].input_ids == from_response
    counted = await worker.openai().responses.input_tokens.count(
        model="any", input=QUESTION, tools=[WEATHER, NOW]
    )
    assert counted.input_tokens == len(from_response)


async def test_calls_alone_have_no_message_and_text_alone_no_calls(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(CALL))
    assert [item.type for item in (await create(worker)).output] == ["function_call"]
    worker.scheduler.script = answer_with(worker.ids("It rains.\n"))
    response = await create(worker)
    assert [item.type for item in response.output] == ["message"]
    assert response.output_text == "It rains.\n"
    worker.scheduler.script = answer_with([])
    (message,) = (await create(worker)).output
    assert message.content[0].text == ""


async def test_text_behind_a_call_is_a_message_of_its_own(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(f"One {CALL} two"))
    response = await create(worker)
    assert [item.type for item in response.output] == ["message", "function_call", "message"]
    assert [item.id.rpartition("_")[2] for item in response.output] == ["out0", "out1", "out2"]
    assert response.output_text == "Onetwo"


async def test_a_call_that_is_cut_off_is_incomplete(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(CUT), finish=FinishReason("length"))
    response = await create(worker)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    message, call = response.output
    assert (message.status, call.status) == ("completed", "incomplete")
    assert call.arguments == '{"city": "Bost'


async def test_one_call_at_most_without_parallel_calls(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(TWO_CALLS))
    response = await create(worker, parallel_tool_calls=False)
    assert [getattr(item, "name", None) for item in response.output] == [None, "get_weather"]
    assert response.parallel_tool_calls is False


async def test_with_the_choice_none_the_model_is_not_told_of_tools(
    start_worker: StartWorker, worker: RunningWorker
) -> None:
    worker.scheduler.script = answer_with(worker.ids(CALL))
    response = await create(worker, tool_choice="none")
    assert (response.output_text, response.tool_choice) == (CALL, "none")
    assert "get_weather" not in prompt(worker)
    await create(await start_worker(), tool_choice="none")


# ===== events =====


async def test_events_of_items_come_one_item_after_the_other(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(TWO_CALLS), chunk_size=1000)
    events = [event async for event in await create(worker, stream=True)]
    call = [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        *call,
        *call,
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    added = [event.item for event in events if event.type == "response.output_item.added"]
    assert [(item.type, item.status) for item in added] == [
        ("message", "in_progress"),
        ("function_call", "in_progress"),
        ("function_call", "in_progress"),
    ]
    assert added[1].name == "get_weather"
    assert added[1].arguments == ""
    final = events[-1].response.output
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == final
    for event in events:
        if hasattr(event, "item_id"):
            assert final[event.output_index].id == event.item_id
    for index, event in enumerate(e for e in events if e.type.endswith("arguments.done")):
        assert event.arguments == final[1 + index].arguments


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("text", [TWO_CALLS, THOUGHT, f"One {CALL} two", "<think>Hm", CUT])
async def test_a_stream_joins_to_the_whole_response(
    thinker: RunningWorker, text: str, size: int
) -> None:
    thinker.scheduler.script = answer_with(thinker.ids(text), chunk_size=size)
    whole = without_ids(await create(thinker))
    written: dict[int, str] = {}
    last = None
    async for event in await create(thinker, stream=True):
        if event.type.endswith(".delta"):
            written[event.output_index] = written.get(event.output_index, "") + event.delta
        last = event
    assert last is not None
    assert without_ids(last.response) == whole
    for index, item in enumerate(whole["output"]):
        text = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert written[index] == text


async def test_the_clients_stream_helper_puts_calls_together(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(TWO_CALLS))
    tools: Any = [WEATHER, NOW]
    client = worker.openai()
    async with client.responses.stream(model="any", input=QUESTION, tools=tools) as stream:
        snapshots = [
            event.snapshot
            async for event in stream
            if event.type == "response.function_call_arguments.delta"
        ]
        final = await stream.get_final_response()
    assert snapshots[-1] == "{}"
    calls = [item for item in final.output if item.type == "function_call"]
    assert [call.arguments for call in calls] == ['{"city": "Bostön 😀"}', "{}"]


async def test_the_clients_parse_helper_reads_arguments(worker: RunningWorker) -> None:
    class Weather(BaseModel):
        city: str

    tools: Any = [openai.pydantic_function_tool(Weather, name="get_weather")]
    worker.scheduler.script = answer_with(worker.ids(CALL))
    response = await worker.openai().responses.parse(model="any", input=QUESTION, tools=tools)
    (call,) = response.output
    assert call.type == "function_call"
    assert call.parsed_arguments == Weather(city="Bostön 😀")
    assert response.tools[0].to_dict()["strict"] is True


@pytest.mark.parametrize("helper", ["parse", "stream"])
async def test_what_the_clients_helpers_made_may_be_sent_again(
    worker: RunningWorker, helper: str
) -> None:
    tools: Any = [{**WEATHER, "strict": True}]
    worker.scheduler.script = answer_with(worker.ids(f"Let me see.\n{CALL}"))
    responses = worker.openai().responses
    if helper == "parse":
        response = await responses.parse(model="any", input=QUESTION, tools=tools)
    else:
        async with responses.stream(model="any", input=QUESTION, tools=tools) as stream:
            response = await stream.get_final_response()
    prompts = set()
    for items in (
        response.output,
        [item.model_dump() for item in response.output],
        [item.to_dict() for item in response.output],
    ):
        result = {
            "type": "function_call_output",
            "call_id": response.output[-1].call_id,
            "output": "rain",
        }
        following = await create(worker, input=[QUESTION_ITEM, *items, result], tools=tools)
        prompts.add(prompt(worker))
        kept = await responses.input_items.list(following.id)
        assert "parsed" not in str([item.to_dict() for item in kept.data])
    assert len(prompts) == 1


async def test_a_failure_in_mid_call_has_what_there_was(worker: RunningWorker) -> None:
    def fails(request: GenerateRequest) -> list[TokenChunk]:
        end = FinishReason("abort", message="out of memory")
        chunk = TokenChunk(request.rid, worker.ids(CUT), 0)
        return [chunk, TokenChunk(request.rid, [], 0, end)]

    worker.scheduler.script = fails
    events = [event async for event in await create(worker, stream=True)]
    response = events[-1].response
    assert response.status == "failed"
    statuses = [(item.type, item.status) for item in response.output]
    assert statuses == [("message", "completed"), ("function_call", "incomplete")]


# ===== reasoning =====


async def test_reasoning_is_an_item(thinker: RunningWorker) -> None:
    thinker.scheduler.script = answer_with(thinker.ids(THOUGHT))
    response = await create(thinker)
    reasoning, call = response.output
    assert (reasoning.type, reasoning.status, reasoning.summary) == ("reasoning", "completed", [])
    assert [part.to_dict() for part in reasoning.content] == [
        {"type": "reasoning_text", "text": "Hm, é."}
    ]
    assert reasoning.id.startswith("rs_")
    assert call.type == "function_call"
    tagged = THOUGHT.partition("</think>")[0] + "</think>"
    details = response.usage.output_tokens_details
    assert details.reasoning_tokens == len(thinker.ids(tagged))
    Response.model_validate(response.model_dump(by_alias=True))


async def test_reasoning_has_events_of_its_own(thinker: RunningWorker) -> None:
    thinker.scheduler.script = answer_with(thinker.ids("<think>Hm</think>Yes"), chunk_size=1000)
    events = [event async for event in await create(thinker, stream=True)]
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[3].part.type == "reasoning_text"
    assert events[5].text == "Hm"
    assert events[-1].response.output_text == "Yes"


async def test_reasoning_that_is_cut_off_is_all_there_is(thinker: RunningWorker) -> None:
    text = "<think>Hm, w"
    thinker.scheduler.script = answer_with(thinker.ids(text), finish=FinishReason("length"))
    response = await create(thinker)
    (reasoning,) = response.output
    assert (reasoning.type, reasoning.status) == ("reasoning", "incomplete")
    assert response.usage.output_tokens_details.reasoning_tokens == response.usage.output_tokens


async def test_reasoning_can_stay_in_the_text_or_come_at_once(thinker: RunningWorker) -> None:
    thinker.scheduler.script = answer_with(thinker.ids("<think>Hm, é.</think>Yes"))
    extra: dict[str, Any] = {"separate_reasoning": False}
    response = await create(thinker, tools=openai.omit, extra_body=extra)
    assert response.output_text == "<think>Hm, é.</think>Yes"
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    extra = {"stream_reasoning": False}
    events = [event async for event in await create(thinker, stream=True, extra_body=extra)]
    deltas = [event.delta for event in events if event.type == "response.reasoning_text.delta"]
    assert deltas == ["Hm, é."]


async def test_the_template_is_told_the_effort(
    start_worker: StartWorker, tiny_folder: Path
) -> None:
    template = "-{{ reasoning_effort }}"
    folder = write_tiny_tokenizer(tiny_folder, chat_template=template)
    worker = await start_worker(tokenizer=load_tokenizer(folder))
    response = await create(worker, tools=openai.omit, reasoning={"effort": "high"})
    assert prompt(worker) == "-high"
    assert response.reasoning.effort == "high"


async def test_templates_see_what_was_thought_before_a_call(
    start_worker: StartWorker, tiny_folder: Path
) -> None:
    template = (
        "{% for m in messages %}{{ m.role }},{{ m.reasoning_content }},{{ m.content }},"
        "{% for call in m.tool_calls or [] %}{{ call.id }}{% endfor %},{{ m.name }};{% endfor %}"
    )
    tokenizer = load_tokenizer(write_tiny_tokenizer(tiny_folder, chat_template=template))
    worker = await start_worker(tokenizer=tokenizer)
    call = {"type": "function_call", "name": "now", "arguments": "{}"}
    text = {"type": "input_text", "text": "r"}
    items = [
        {"role": "user", "content": "q"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "in short"}],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {"role": "assistant", "content": "so"},
        {**call, "call_id": "1"},
        {**call, "call_id": "2"},
        {"type": "function_call_output", "call_id": "2", "output": [text, text]},
        {"type": "function_call_output", "call_id": "1", "output": "x"},
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"type": "reasoning", "summary": [], "status": "incomplete"},
        {"role": "user", "content": "d"},
    ]
    await create(worker, input=items, tools=openai.omit)
    assert prompt(worker) == (
        "user,,q,,;assistant,hm,so,12,;tool,,r\nr,,now;tool,,x,,now;"
        "assistant,,a,,;assistant,,b,,;user,,c,,;user,,d,,;"
    )


# ===== the loop =====


async def test_the_loop_of_call_output_and_answer(worker: RunningWorker) -> None:
    """Over the stored response, and as agents do it that store nothing: the prompt is one."""
    worker.scheduler.script = answer_with(worker.ids(TWO_CALLS))
    first = await create(worker)
    outputs = [
        {"type": "function_call_output", "call_id": item.call_id, "output": f"of {item.name}"}
        for item in first.output
        if item.type == "function_call"
    ]
    worker.scheduler.script = answer_with(worker.ids("It is warm."))
    second = await create(worker, input=outputs, previous_response_id=first.id)
    assert second.output_text == "It is warm."
    assert prompt(worker).endswith(
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n"
        f"<|im_start|>assistant\n{TWO_CALLS}<|im_end|>\n<|im_start|>user\n"
        "<tool_response>\nof get_weather\n</tool_response>\n"
        "<tool_response>\nof now\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    over_store = worker.scheduler.requests[-1].input_ids
    items = [{"role": "user", "content": QUESTION}, *first.output, *outputs]
    await create(worker, input=items, store=False)
    assert worker.scheduler.requests[-1].input_ids == over_store
    references = [{"type": "item_reference", "id": item.id} for item in first.output]
    await create(worker, input=[items[0], *references, *outputs])
    assert worker.scheduler.requests[-1].input_ids == over_store
    await create(worker, input="And now?", previous_response_id=second.id)
    assert "of now" in prompt(worker)
    listed = [item async for item in worker.openai().responses.input_items.list(second.id)]
    assert [item.type for item in reversed(listed)] == [
        "message",
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
    ]
    assert {item.status for item in listed} == {"completed"}


async def test_truncation_keeps_calls_with_their_outputs(worker: RunningWorker) -> None:
    call = {"type": "function_call", "call_id": "1", "name": "now", "arguments": "{}"}
    items = [
        {"role": "user", "content": "a" * 1000},
        {"role": "user", "content": "b" * 1000},
        call,
        {"role": "user", "content": "c" * 1000},
        {"type": "function_call_output", "call_id": "1", "output": "noon"},
        {"role": "user", "content": "d" * 1000},
    ]
    options: dict[str, Any] = {"input": items, "tools": openai.omit, "truncation": "auto"}
    await create(worker, **options, max_output_tokens=600)
    assert "noon" in prompt(worker)
    assert prompt(worker).startswith(f"<|im_start|>user\n{'b' * 1000}")
    await create(worker, **options, max_output_tokens=1600)
    assert prompt(worker).startswith(f"<|im_start|>user\n{'d' * 1000}"), "c comes between the two"


# ===== what is refused =====


@pytest.mark.parametrize(
    ("arguments", "message", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, '"web_search" is not supported', "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_url": "x"}]}, '"mcp" is not', "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, '"custom" is not', "tools[0].type"),
        ({"tools": [{"name": "x"}]}, "required", "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "required", "tools[0].name"),
        ({"tools": [{**WEATHER, "name": "a b"}]}, "match pattern", "tools[0].name"),
        ({"tools": [{**NOW, "defer_loading": True}]}, "not supported", "tools[0].defer_loading"),
        ({"tools": [{**NOW, "async": True}]}, "not supported", "tools[0].async"),
        ({"tools": [{**NOW, "output_schema": {}}]}, "not supported", "tools[0].output_schema"),
        ({"tools": [NOW, NOW]}, "'now' is there more than once", "tools"),
        ({"tools": [NOW] * 129}, "at most 128", "tools"),
        (
            {"extra_body": {"regex": "a"}},
            "an answer that keeps to regex cannot call them",
            "tools",
        ),
        (
            {"include": ["message.output_text.logprobs"]},
            "answers that are nothing but text",
            "include",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "x", "output": "r"}]},
            "no function_call before has the call_id 'x'",
            "input[0].call_id",
        ),
        (
            {"input": [{"type": "function_call_output", "output": "r"}]},
            "required",
            "input[0].call_id",
        ),
        (
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "call_id": "x",
                        "output": [{"type": "input_image", "image_url": "x"}],
                    }
                ]
            },
            '"input_image" is not supported',
            "input[0].output[0].type",
        ),
        ({"reasoning": {"effort": "low"}}, "does not know 'low'", "reasoning.effort"),
        (
            {"extra_body": {"separate_reasoning": True}},
            "--reasoning-parser",
            "separate_reasoning",
        ),
    ],
)
async def test_what_is_wrong_is_refused(
    worker: RunningWorker, arguments: dict[str, Any], message: str, param: str
) -> None:
    await refuses(worker, create(worker, **arguments), message, param)


async def test_tools_need_a_parser_and_a_template_that_knows_them(
    start_worker: StartWorker, hermes: Tokenizer
) -> None:
    without_parser = await start_worker(tokenizer=hermes)
    with pytest.raises(openai.BadRequestError, match="--tool-call-parser"):
        await create(without_parser)
    without_template = await start_worker(tool_call_parser="qwen25")
    with pytest.raises(openai.BadRequestError, match="--chat-template"):
        await create(without_template)
