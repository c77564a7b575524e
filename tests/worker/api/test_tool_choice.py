"""Which tools are called, as the client chose it: what the model is told and is held to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from worker.messages import FinishReason, GrammarSpec, Reasoning
from worker.tokenization.template_source import load_chat_template
from worker.tokenization.tokenizer import Tokenizer, load_tokenizer

from .conftest import RunningWorker, StartWorker, refuses
from .fake_scheduler import answer_with
from .tiny_worker import tiny_worker

USER: Any = {"role": "user", "content": "Weather in Boston?"}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NONE = {"type": "object", "properties": {}, "additionalProperties": False}
FUNCTIONS: list[Any] = [
    {"name": "weather", "parameters": CITY, "strict": True},
    {"name": "now"},
    {"name": "stop", "strict": False},
]
TOOLS: list[Any] = [{"type": "function", "function": each} for each in FUNCTIONS]
NAMED: Any = {"type": "function", "function": {"name": "now"}}
BEGINS = [f'<tool_call>\n{{"name": "{each["name"]}", "arguments": ' for each in FUNCTIONS]
CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
LISTED = '[{"name": "weather", "parameters": {"city": "Bö"}}, {"name": "now", "parameters": {}}]'


@pytest.fixture
def hermes(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(tiny_folder, load_chat_template("hermes"))


@pytest.fixture
def start(start_worker: StartWorker, hermes: Tokenizer) -> StartWorker:
    async def start(**arguments: Any) -> RunningWorker:
        ready = {"context_length": 4096}
        worker = await start_worker(ready=ready, tokenizer=hermes, **arguments)
        worker.scheduler.script = answer_with(worker.ids(CALL))
        return worker

    return start


@pytest.fixture
async def worker(start: StartWorker) -> RunningWorker:
    return await start(tool_call_parser="qwen25")


async def chat(worker: RunningWorker, **arguments: Any) -> Any:
    arguments = {"messages": [USER], "tools": TOOLS, **arguments}
    return await worker.openai().chat.completions.create(model="any", **arguments)


async def respond(worker: RunningWorker, **arguments: Any) -> Any:
    tools = [{"type": "function", **each} for each in FUNCTIONS]
    return await worker.openai().responses.create(model="any", input="hi", tools=tools, **arguments)


def told(worker: RunningWorker) -> set[str]:
    """The tools in the prompt."""
    ids = worker.scheduler.requests[-1].input_ids
    prompt = worker.service.tokenizer.decode(ids, skip_special_tokens=False)
    return {each["name"] for each in FUNCTIONS if f'"name": "{each["name"]}"' in prompt}


def held(worker: RunningWorker) -> GrammarSpec | None:
    return worker.scheduler.requests[-1].sampling.grammar


def tag(worker: RunningWorker) -> Any:
    grammar = held(worker)
    assert grammar is not None
    assert grammar.kind == "structural_tag"
    return json.loads(grammar.text)


async def test_an_answer_that_must_call_is_held_to_the_models_own_format(
    worker: RunningWorker,
) -> None:
    (choice,) = (await chat(worker, tool_choice="required")).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.name == "now"
    held_to = tag(worker)
    assert [each["begin"] for each in held_to["structures"]] == BEGINS
    assert [each["schema"] for each in held_to["structures"]] == [CITY, NONE, NONE]
    assert (held_to["separators"], held_to["stop_after_first"]) == (["\n"], False)
    await chat(worker, tool_choice="required", parallel_tool_calls=False)
    assert tag(worker)["stop_after_first"]


async def test_a_named_function_is_called_once_and_the_answer_just_stops(
    worker: RunningWorker,
) -> None:
    (choice,) = (await chat(worker, tool_choice=NAMED)).choices
    assert (choice.finish_reason, len(choice.message.tool_calls)) == ("stop", 1)
    assert told(worker) == {"now"}
    assert [each["schema"] for each in tag(worker)["structures"]] == [NONE]
    assert tag(worker)["stop_after_first"]
    stream = await chat(worker, tool_choice=NAMED, stream=True)
    reasons = [chunk.choices[0].finish_reason async for chunk in stream]
    assert reasons[-1] == "stop"


@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_some_of_the_tools_are_allowed(worker: RunningWorker, mode: str) -> None:
    allowed = {"mode": mode, "tools": [TOOLS[1], TOOLS[2]]}
    with pytest.raises(openai.BadRequestError, match="Unknown field"):
        await chat(worker, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    allowed["tools"] = [
        {"type": "function", "function": {"name": name}} for name in ("now", "stop")
    ]
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    await chat(worker, tool_choice=choice)
    assert told(worker) == {"now", "stop"}
    assert (held(worker) is not None) == (mode == "required")


async def test_strict_tools_are_held_to_their_schemas_wherever_they_are_called(
    worker: RunningWorker,
) -> None:
    (choice,) = (await chat(worker)).choices
    assert choice.finish_reason == "tool_calls"
    held_to = tag(worker)
    assert held_to["separators"] is None
    schemas = [each["schema"] for each in held_to["structures"]]
    assert schemas == [CITY, {"type": "object"}, {"type": "object"}]
    await chat(worker, tools=TOOLS[1:])
    assert held(worker) is None


class Place(pydantic.BaseModel):
    name: str


async def test_an_answer_that_does_not_call_keeps_to_its_format(worker: RunningWorker) -> None:
    """In which what looks like a call is none."""
    client = worker.openai().chat.completions
    asked: Any = {"model": "any", "messages": [USER], "response_format": Place}
    asked["tools"] = [{"type": "function", "function": {**FUNCTIONS[0]}}]
    place = Place(name=CALL.replace("now", "weather"))
    worker.scheduler.script = answer_with(worker.ids(place.model_dump_json()))
    (choice,) = (await client.parse(**asked)).choices
    assert (choice.finish_reason, choice.message.parsed) == ("stop", place)
    assert not choice.message.tool_calls
    assert json.loads(tag(worker)["otherwise"])["required"] == ["name"]
    assert tag(worker)["separators"] == ["\n"]
    assert [each["schema"] for each in tag(worker)["structures"]] == [CITY]
    async with client.stream(**asked) as stream:
        (choice,) = (await stream.get_final_completion()).choices
    assert choice.message.parsed == place

    call = CALL.replace("now", "weather").replace("{}", '{"city": "Oslo"}')
    worker.scheduler.script = answer_with(worker.ids(call))
    (choice,) = (await client.parse(**asked)).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.parsed_arguments == {"city": "Oslo"}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"tool_call_parser": "glm45"},
        {"tool_call_parser": "qwen25", "grammar_backend": "outlines"},
    ],
)
async def test_without_a_format_for_it_calls_are_a_list(
    start: StartWorker, arguments: dict[str, Any]
) -> None:
    worker = await start(**arguments)
    worker.scheduler.script = answer_with(worker.ids(LISTED), chunk_size=3)
    (choice,) = (await chat(worker, tool_choice="required")).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]
    assert calls == [("weather", '{"city": "Bö"}'), ("now", "{}")]
    grammar = held(worker)
    assert grammar is not None
    assert grammar.kind == "json_schema"
    schema = json.loads(grammar.text)
    assert schema["$defs"] == {"weather": CITY, "now": NONE, "stop": NONE}
    assert "maxItems" not in schema

    pieces: dict[int, str] = {}
    async for chunk in await chat(worker, tool_choice="required", stream=True):
        for call in chunk.choices[0].delta.tool_calls or ():
            assert (call.id is None) == (call.index in pieces)
            pieces[call.index] = pieces.get(call.index, "") + call.function.arguments
    assert list(pieces.values()) == [arguments for _, arguments in calls]

    await chat(worker, tool_choice="required", parallel_tool_calls=False)
    grammar = held(worker)
    assert grammar is not None
    assert json.loads(grammar.text)["maxItems"] == 1


async def test_a_call_that_is_cut_off_ends_for_its_length(start: StartWorker) -> None:
    worker = await start()
    cut = LISTED.index("ö")
    worker.scheduler.script = answer_with(worker.ids(LISTED[:cut]), finish=FinishReason("length"))
    (choice,) = (await chat(worker, tool_choice="required")).choices
    assert choice.finish_reason == "length"
    (call,) = choice.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "B')


async def test_the_clients_own_way_for_pydantic_tools(worker: RunningWorker) -> None:
    """Its helper makes strict tools, and reads their arguments."""

    class Now(pydantic.BaseModel):
        zone: str

    call = CALL.replace("{}}", '{"zone": "in"}}')
    worker.scheduler.script = answer_with(worker.ids(call))
    tool = openai.pydantic_function_tool(Now, name="now")
    completion = await worker.openai().chat.completions.parse(
        model="any", messages=[USER], tools=[tool], tool_choice="required"
    )
    (parsed,) = completion.choices[0].message.tool_calls or ()
    assert parsed.function.parsed_arguments == Now(zone="in")


async def test_a_model_that_reasons_calls_after_it(start: StartWorker) -> None:
    worker = await start(tool_call_parser="qwen25", reasoning_parser="deepseek-r1")
    worker.scheduler.script = answer_with(worker.ids(f"Hm</think>\n\n{CALL}"))
    (choice,) = (await chat(worker, tool_choice="required")).choices
    assert choice.message.reasoning_content == "Hm"
    assert choice.message.tool_calls[0].function.name == "now"
    before = worker.scheduler.requests[-1].sampling.reasoning
    assert before == Reasoning("<think>", "</think>", is_open=True)


# ===== /v1/responses =====


async def test_responses_choose_tools_in_a_form_of_their_own(worker: RunningWorker) -> None:
    response = await respond(worker, tool_choice="required")
    assert (response.tool_choice, response.output[0].type) == ("required", "function_call")
    assert tag(worker)["separators"] == ["\n"]
    named = {"type": "function", "name": "now"}
    response = await respond(worker, tool_choice=named)
    assert response.tool_choice.model_dump() == named
    assert told(worker) == {"now"}
    assert tag(worker)["stop_after_first"]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [named]}
    response = await respond(worker, tool_choice=allowed)
    assert response.tool_choice.model_dump() == allowed
    assert told(worker) == {"now"}
    assert held(worker) is None


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"type": "function", "name": "other"}, "no 'other' among the tools"),
        ({"type": "web_search"}, "should be 'function'"),
        ({"type": "custom", "name": "now"}, "should be 'function'"),
    ],
)
async def test_responses_refuse_other_tools(
    worker: RunningWorker, choice: Any, message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await respond(worker, tool_choice=choice)
    assert message in caught.value.message
    body = {"input": "hi", "tools": [{"type": "function", "name": "now"}], "tool_choice": choice}
    counted = await worker.http.post("/v1/responses/input_tokens", json=body)
    assert message in counted.json()["error"]["message"]


# ===== what is wrong =====


async def test_schemas_that_cannot_be_enforced_are_the_fault_of_the_tools(
    worker: RunningWorker,
) -> None:
    finish = FinishReason.bad_grammar("structural_tag: not is not supported")
    worker.scheduler.script = answer_with([], finish=finish)
    with pytest.raises(openai.BadRequestError) as caught:
        await chat(worker, tool_choice="required")
    assert caught.value.param == "tools"


@pytest.mark.parametrize(
    ("arguments", "message", "param"),
    [
        ({"tool_choice": "must"}, "'auto' or 'required'", "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "there are no tools", "tool_choice"),
        ({"tools": [], "tool_choice": NAMED}, "there are no tools", "tool_choice"),
        ({"tools": TOOLS[:1], "tool_choice": NAMED}, "no 'now' among the tools", "tool_choice"),
        (
            {"tool_choice": {"type": "custom", "custom": {"name": "now"}}},
            "should be 'function'",
            "tool_choice.type",
        ),
        ({"tool_choice": {"type": "function"}}, "required", "tool_choice.function"),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": []},
                }
            },
            "at least 1",
            "tool_choice.allowed_tools.tools",
        ),
        (
            {"tool_choice": "required", "extra_body": {"ebnf": 'root ::= "a"'}},
            "an answer that keeps to ebnf cannot call them",
            "tools",
        ),
    ],
)
async def test_what_is_wrong_is_refused(
    worker: RunningWorker, arguments: dict[str, Any], message: str, param: str
) -> None:
    await refuses(worker, chat(worker, **arguments), message, param)


async def test_a_schema_that_the_engine_refuses_is_a_400(worker: RunningWorker) -> None:
    reason = 'structural_tag: structure "<tool_call>...": not is not supported'
    finish = FinishReason("abort", message=reason, status=400)
    worker.scheduler.script = answer_with([], finish=finish)
    with pytest.raises(openai.BadRequestError, match="not is not supported"):
        await chat(worker, tool_choice="required")


async def test_a_schema_for_answers_that_the_engine_refuses_is_named_by_its_own_field(
    worker: RunningWorker,
) -> None:
    reason = "structural_tag: text without structures: not is not supported"
    finish = FinishReason.bad_grammar(reason)
    worker.scheduler.script = answer_with([], finish=finish)
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        await chat(worker, response_format=shape)
    assert caught.value.message.endswith(" - response_format: not is not supported")
    assert caught.value.param == "response_format"


async def test_a_format_for_answers_holds_nothing_where_an_answer_must_call(
    worker: RunningWorker,
) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#/nope"}}}
    await chat(worker, response_format=shape, tool_choice="required")
    assert tag(worker)["otherwise"] is None


# ===== with the engine =====


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    flags = ["--tool-call-parser", "qwen25", "--chat-template", "hermes"]
    flags += ["--reasoning-parser", "qwen3"]
    with tiny_worker(tmp_path_factory.mktemp("worker"), *flags) as worker:
        yield worker.url


ZONE = {
    "type": "object",
    "properties": {"zone": {"enum": ["in", "or"]}},
    "required": ["zone"],
    "additionalProperties": False,
}
ZONED: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": ZONE}} for name in ("now", "then")
]


@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_a_model_at_random_calls_what_it_must(
    url: str, hermes: Tokenizer, choice: Any
) -> None:
    """It may reason first, and the rest is calls, in a stream as in the whole answer."""
    (end,) = hermes.ids_of(["<|im_end|>"])
    (not_reasoning,) = hermes.encode("o")  # after "<t"
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    asked: dict[str, Any] = {
        "model": "any",
        "messages": [USER],
        "tools": ZONED,
        "tool_choice": choice,
        "seed": 3,
        "n": 4,
        "max_tokens": 300,
        "logit_bias": {str(end): 3, str(not_reasoning): 2},
    }
    whole = await client.chat.completions.create(**asked)
    streamed: list[dict[int, list[str]]] = [{} for _ in range(4)]
    async for chunk in await client.chat.completions.create(**asked, stream=True):
        (each,) = chunk.choices
        for call in each.delta.tool_calls or ():
            parts = streamed[each.index].setdefault(call.index, [])
            parts += [call.function.name or "", call.function.arguments or ""]
    ended = 0
    for each, parts in zip(whole.choices, streamed, strict=True):
        calls = [
            (call.function.name, call.function.arguments) for call in each.message.tool_calls or ()
        ]
        assert [(name, "".join(rest)) for name, *rest in parts.values()] == calls
        if each.finish_reason == "length":
            continue
        ended += 1
        assert each.message.content is None
        assert each.finish_reason == ("stop" if choice == NAMED else "tool_calls")
        assert len(calls) == 1 if choice == NAMED else calls
        for name, arguments in calls:
            assert name == "now" if choice == NAMED else name in ("now", "then")
            assert json.loads(arguments)["zone"] in ("in", "or")
    assert ended > 1
