"""Structured outputs, tool calls and reasoning with SmolLM2: on every route, through one worker and
through the router of a fleet of two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel

from .clients import FRANCE, GREEDY, MODEL, QUESTION, Clients

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "size": {"enum": ["small", "large"]},
        "visits": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3},
    },
    "required": ["name", "size", "visits"],
}
TAG: dict[str, Any] = {
    "type": "structural_tag",
    "structures": [{"begin": " is <", "schema": {"enum": ["Paris", "Rome"]}, "end": ">"}],
    "triggers": [" is"],
}
FUNCTION: dict[str, Any] = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
    },
}
TOOLS: Any = [{"type": "function", "function": FUNCTION}]
RESPONSE_TOOLS: Any = [{"type": "function", "strict": False, **FUNCTION}]
LONG = {"max_tokens": 80}


def is_a_city(text: str) -> None:
    jsonschema.validate(json.loads(text), CITY)


def matches(pattern: str) -> Callable[[str], None]:
    def check(text: str) -> None:
        assert re.search(pattern, text), text

    return check


Check = Callable[[str], None]
# A grammar in a field of SGLang's, and what its answers are.
FIELDS: dict[str, tuple[dict[str, str], Check]] = {
    "json_schema": ({"json_schema": json.dumps(CITY)}, is_a_city),
    "regex": ({"regex": r"(Oslo|Kyiv), \d{3}"}, matches(r"^(Oslo|Kyiv), \d{3}$")),
    "ebnf": ({"ebnf": 'root ::= "(" ("a" | root) ")"'}, matches(r"^\(+a\)+$")),
    "structural_tag": ({"structural_tag": json.dumps(TAG)}, matches(r'<"(Paris|Rome)">')),
}
FORMATS: dict[str, tuple[dict[str, Any], Check]] = {
    "json_schema": (
        {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}},
        is_a_city,
    ),
    "json_object": ({"type": "json_object"}, matches(r"^\{")),
    "structural_tag": (TAG, matches(r'<"(Paris|Rome)">')),
}


def joined(stream: Any) -> str:
    """The text of a chat's stream."""
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


# ===== grammars =====


@pytest.mark.parametrize("name", FORMATS)
def test_a_chat_keeps_to_its_format_whole_and_as_a_stream(clients: Clients, name: str) -> None:
    wanted, check = FORMATS[name]
    options: Any = {**GREEDY, **LONG, "messages": QUESTION, "response_format": wanted}
    whole = clients.openai.chat.completions.create(**options).choices[0]
    if whole.finish_reason == "stop" or name != "json_object":  # which may go on for long
        check(whole.message.content or "")
    stream = clients.openai.chat.completions.create(**options, stream=True)
    assert joined(stream) == whole.message.content


@pytest.mark.parametrize("name", FIELDS)
def test_every_route_takes_every_grammar(clients: Clients, name: str) -> None:
    wanted, check = FIELDS[name]
    prompt = FRANCE.removesuffix(" is")
    text = clients.openai.completions.create(
        **GREEDY, **LONG, prompt=prompt, extra_body=wanted
    ).choices[0]
    check(text.text)
    native = {"text": prompt, "sampling_params": {"temperature": 0, "max_new_tokens": 80, **wanted}}
    assert clients.post("/generate", **native)["text"] == text.text
    chat = clients.openai.chat.completions.create(
        **GREEDY, **LONG, messages=QUESTION, extra_body=wanted
    )
    check(chat.choices[0].message.content or "")
    response = clients.openai.responses.create(
        **GREEDY, input=QUESTION[0]["content"], max_output_tokens=80, extra_body=wanted
    )
    assert response.output_text == chat.choices[0].message.content


def test_each_prompt_of_a_native_call_has_its_own_grammar(clients: Clients) -> None:
    sampling = [{**wanted, "max_new_tokens": 80, "seed": 5} for wanted, _ in FIELDS.values()]
    sampling[-1]["temperature"] = 0
    prompts = [FRANCE] * 3 + [FRANCE.removesuffix(" is")]
    answers = clients.post("/generate", text=prompts, sampling_params=sampling)
    for answer, (_, check) in zip(answers, FIELDS.values(), strict=True):
        check(answer["text"])


def test_the_clients_parse_helpers_give_objects(clients: Clients) -> None:
    class Place(BaseModel):
        name: str
        is_capital: bool

    options: Any = {"model": MODEL, "temperature": 0}
    chat = clients.openai.chat.completions.parse(
        **options, messages=QUESTION, response_format=Place, max_tokens=200
    )
    response = clients.openai.responses.parse(
        **options, input=QUESTION, text_format=Place, max_output_tokens=200
    )
    assert isinstance(chat.choices[0].message.parsed, Place)
    assert response.output_parsed == chat.choices[0].message.parsed


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"regex": "(a"}, None, "regular expression"),
        ({"regex": "a", "ebnf": 'root ::= "a"'}, None, "one of regex and ebnf"),
        ({"ebnf": 'start ::= "a"'}, None, "root"),
        ({"json_schema": "{"}, "json_schema", "must be JSON"),
        ({"json_schema": '{"not": {}}'}, None, "not"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        (
            {"response_format": {**TAG, "triggers": ["nowhere"]}},
            None,
            "trigger",
        ),
    ],
)
def test_a_grammar_that_is_wrong_is_a_400_in_a_stream_as_well(
    clients: Clients, fields: dict[str, Any], param: str | None, message: str
) -> None:
    answers = [
        clients.http.post(
            "/v1/chat/completions",
            json={**GREEDY, "messages": QUESTION, "stream": stream, **fields},
        )
        for stream in (False, True)
    ]
    assert [answer.status_code for answer in answers] == [400, 400]
    error = answers[0].json()["error"]
    assert answers[1].json()["error"] == error
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]
    if param is not None:
        assert error["param"] == param
    # Nothing of it is left: the next one is answered.
    assert clients.post("/generate", text="a", sampling_params={"regex": "b"})["text"] == "b"


# ===== tools and reasoning =====


def asking(city: str) -> dict[str, Any]:
    return {"role": "user", "content": f"What is the weather in {city}?"}


def called(city: str) -> dict[str, Any]:
    """The call that SmolLM2 copies, when it is asked for the next city."""
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    return {
        "role": "assistant",
        "tool_calls": [{"id": city, "type": "function", "function": function}],
    }


EXAMPLE: Any = [asking("Rome"), called("Rome"), asking("Paris")]
CALL = ("get_weather", '{"city": "Paris"}')


def test_a_chat_calls_a_tool_whole_and_as_a_stream(clients: Clients) -> None:
    options: Any = {**GREEDY, **LONG, "messages": EXAMPLE, "tools": TOOLS}
    (choice,) = clients.openai.chat.completions.create(**options).choices
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == CALL
    with clients.openai.chat.completions.stream(**options) as stream:
        (choice,) = stream.get_final_completion().choices
    (call,) = choice.message.tool_calls or []
    assert (call.function.name, call.function.arguments) == CALL
    none = clients.openai.chat.completions.create(**options, tool_choice="none")
    assert none.choices[0].message.tool_calls is None


def must_call(choice: str, *, nested: bool) -> Any:
    """`tool_choice` as chats write it, or as responses do."""
    name = {"name": "get_weather"}
    function: dict[str, Any] = {"type": "function"} | ({"function": name} if nested else name)
    allowed = {"mode": "required", "tools": [function]}
    return {
        "required": "required",
        "named": function,
        "allowed": {"type": "allowed_tools"} | ({"allowed_tools": allowed} if nested else allowed),
    }[choice]


@pytest.mark.parametrize("choice", ["required", "named", "allowed"])
def test_a_model_that_would_rather_talk_must_call(clients: Clients, choice: str) -> None:
    options: Any = {**GREEDY, **LONG, "messages": QUESTION, "tools": TOOLS}
    options |= {"tool_choice": must_call(choice, nested=True), "parallel_tool_calls": False}
    made = clients.openai.chat.completions.create(**options).choices[0]
    assert made.finish_reason == ("stop" if choice == "named" else "tool_calls")
    (call,) = made.message.tool_calls or []
    assert call.type == "function"
    jsonschema.validate(json.loads(call.function.arguments), FUNCTION["parameters"])
    with clients.openai.chat.completions.stream(**options) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert streamed.function.arguments == call.function.arguments
    response = clients.openai.responses.create(
        **GREEDY,
        input=QUESTION[0]["content"],
        tools=RESPONSE_TOOLS,
        tool_choice=must_call(choice, nested=False),
        parallel_tool_calls=False,
        max_output_tokens=80,
    )
    (item,) = response.output
    assert item.type == "function_call"
    assert (item.name, item.arguments) == (call.function.name, call.function.arguments)


def test_the_clients_tools_of_pydantic_models_are_strict(clients: Clients) -> None:
    class GetWeather(BaseModel):
        """The weather of a city"""

        city: Literal["Oslo", "Kyiv"]

    tools: Any = [openai.pydantic_function_tool(GetWeather)]
    chat = clients.openai.chat.completions.parse(
        model=MODEL, temperature=0, messages=QUESTION, tools=tools, tool_choice="required"
    )
    made = (chat.choices[0].message.tool_calls or [])[0].function.parsed_arguments
    assert isinstance(made, GetWeather)
    response = clients.openai.responses.parse(
        model=MODEL,
        temperature=0,
        input=QUESTION[0]["content"],
        tools=tools,
        tool_choice="required",
        parallel_tool_calls=False,
    )
    (item,) = response.output
    assert item.type == "function_call"
    assert item.parsed_arguments == made


def test_what_models_wrote_is_taken_apart(clients: Clients) -> None:
    written = 'So: <tool_call>{"name": "get_weather", "arguments": {"city": "Bonn"}}</tool_call>'
    parsed = clients.post("/function_call", text=written, tools=TOOLS)
    assert parsed == {
        "normal_text": "So:",
        "calls": [{"tool_index": 0, "name": "get_weather", "parameters": '{"city": "Bonn"}'}],
    }
    parsed = clients.post("/separate_reasoning", text="<think>Hm</think>Yes")
    assert parsed == {"reasoning_text": "Hm", "text": "Yes"}


def test_a_response_calls_a_tool_and_goes_on_with_its_output(clients: Clients) -> None:
    """Whichever worker each turn comes to."""
    call: Any = {"type": "function_call", "call_id": "1", "name": "get_weather"}
    items = [asking("Rome"), {**call, "arguments": '{"city": "Rome"}'}, asking("Paris")]
    options: Any = {**GREEDY, "tools": RESPONSE_TOOLS, "max_output_tokens": 80}
    create = clients.openai.responses.create
    first = create(**options, input=items)
    (made,) = first.output
    assert made.type == "function_call"
    assert (made.name, made.arguments) == CALL
    events = list(create(**options, input=items, stream=True))
    arguments = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert "".join(arguments) == CALL[1]
    assert events[-1].type == "response.completed"
    output: Any = {"type": "function_call_output", "call_id": made.call_id, "output": "sunny"}
    over_store = create(**options, input=[output], previous_response_id=first.id)
    by_hand = create(**options, input=[*items, *first.output, output], store=False)
    assert over_store.output_text == by_hand.output_text
    assert over_store.usage
    assert by_hand.usage
    assert over_store.usage.input_tokens == by_hand.usage.input_tokens
    listed = [item.type for item in clients.openai.responses.input_items.list(over_store.id)]
    assert listed == [
        "function_call_output",
        "function_call",
        "message",
        "function_call",
        "message",
    ]


# ===== batches =====


def test_lines_of_a_batch_have_formats_and_tools(clients: Clients) -> None:
    """One with a schema that cannot be held fails alone."""
    chat = {**GREEDY, **LONG, "messages": QUESTION}
    named: dict[str, Any] = {"name": "city", "schema": CITY}
    bodies = [
        {**chat, "response_format": {"type": "json_schema", "json_schema": named}},
        {
            **chat,
            "response_format": {
                "type": "json_schema",
                "json_schema": {**named, "schema": {"not": {}}},
            },
        },
        {**chat, "messages": EXAMPLE, "tools": TOOLS},
        {**chat, "regex": "Paris|Rome"},
        {**chat, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
    ]
    batch, results, errors = clients.batch("/v1/chat/completions", bodies)
    assert (batch.status, batch.request_counts.failed) == ("completed", 1)
    assert [line["custom_id"] for line in results] == ["line 0", "line 2", "line 3", "line 4"]
    messages = [line["response"]["body"]["choices"][0]["message"] for line in results]
    is_a_city(messages[0]["content"])
    assert messages[1]["tool_calls"][0]["function"] == dict(
        zip(("name", "arguments"), CALL, strict=True)
    )
    assert messages[2]["content"] in ("Paris", "Rome")
    (call,) = messages[3]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), FUNCTION["parameters"])
    (failed,) = errors
    assert failed["custom_id"] == "line 1"
    assert failed["response"]["status_code"] == 400
    with pytest.raises(openai.BadRequestError) as caught:
        clients.openai.chat.completions.create(**bodies[1])
    body: Any = caught.value.body
    assert failed["response"]["body"]["error"] == body


def test_responses_of_a_batch_call_tools(clients: Clients) -> None:
    call: Any = {"type": "function_call", "call_id": "1", "name": "get_weather"}
    items = [asking("Rome"), {**call, "arguments": '{"city": "Rome"}'}, asking("Paris")]
    body = {**GREEDY, "input": items, "tools": RESPONSE_TOOLS, "max_output_tokens": 80}
    _, results, errors = clients.batch("/v1/responses", [body])
    assert errors == []
    (made,) = results[0]["response"]["body"]["output"]
    assert (made["name"], made["arguments"]) == CALL
