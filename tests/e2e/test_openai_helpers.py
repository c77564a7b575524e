"""What OpenAI's client makes of answers by itself: pydantic objects, events, calls of tools."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from .clients import MODEL, Clients

QUESTION: Any = [{"role": "user", "content": "Describe Paris as JSON."}]
DRAWN: dict[str, Any] = {"model": MODEL, "temperature": 1, "seed": 7}


class River(BaseModel):
    name: Annotated[str, Field(max_length=8)]
    length: Annotated[int, Field(ge=1, le=9999)]


class City(BaseModel):
    """All that it has is bounded, so that every answer comes to its end."""

    name: Annotated[str, Field(max_length=8)]
    size: Literal["small", "large"]
    rivers: Annotated[list[River], Field(max_length=2)]
    is_capital: bool | None


def test_a_nested_model_is_parsed_by_the_methods_of_both_names(clients: Clients) -> None:
    for chat in (clients.openai.chat, clients.openai.beta.chat):
        answer = chat.completions.parse(
            **DRAWN, messages=QUESTION, response_format=City, max_tokens=300
        )
        assert isinstance(answer.choices[0].message.parsed, City)


def test_each_of_several_answers_is_parsed(clients: Clients) -> None:
    answer = clients.openai.chat.completions.parse(
        **DRAWN, messages=QUESTION, response_format=River, n=3
    )
    assert len(answer.choices) == 3
    assert all(isinstance(choice.message.parsed, River) for choice in answer.choices)


def test_a_stream_tells_what_is_there_and_ends_with_the_object(clients: Clients) -> None:
    options: Any = {**DRAWN, "messages": QUESTION, "response_format": City, "max_tokens": 300}
    whole = clients.openai.chat.completions.parse(**options)
    with clients.openai.chat.completions.stream(**options) as stream:
        events = list(stream)
        completion = stream.get_final_completion()
    deltas = [event for event in events if event.type == "content.delta"]
    (done,) = (event for event in events if event.type == "content.done")
    assert "".join(event.delta for event in deltas) == done.content
    assert deltas[-1].parsed == json.loads(done.content)
    assert done.parsed == completion.choices[0].message.parsed
    assert done.parsed == whole.choices[0].message.parsed


def test_responses_are_parsed_whole_and_as_streams(clients: Clients) -> None:
    options: Any = {**DRAWN, "input": QUESTION, "text_format": River, "max_output_tokens": 50}
    options.pop("seed")
    options["temperature"] = 0
    whole = clients.openai.responses.parse(**options)
    assert isinstance(whole.output_parsed, River)
    with clients.openai.responses.stream(**options) as stream:
        kinds = {event.type for event in stream}
        assert stream.get_final_response().output_parsed == whole.output_parsed
    assert {"response.output_text.delta", "response.output_text.done"} <= kinds


class GetWeather(BaseModel):
    """The weather of a city, now."""

    city: Literal["Rome", "Oslo"]
    unit: Literal["celsius", "fahrenheit"]


TOOLS: Any = [openai.pydantic_function_tool(GetWeather, name="get_weather")]


def test_arguments_of_a_strict_tool_are_parsed_whole_and_as_a_stream(clients: Clients) -> None:
    """Which a model that wants something else must call; each seed is another try."""
    for seed in range(3):
        options: Any = {**DRAWN, "seed": seed, "messages": QUESTION, "tools": TOOLS}
        options |= {"tool_choice": "required", "parallel_tool_calls": False}
        (choice,) = clients.openai.chat.completions.parse(**options).choices
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or []
        assert isinstance(call.function.parsed_arguments, GetWeather)
        with clients.openai.chat.completions.stream(**options) as stream:
            events = list(stream)
        (done,) = (e for e in events if e.type == "tool_calls.function.arguments.done")
        deltas = [e for e in events if e.type == "tool_calls.function.arguments.delta"]
        assert "".join(e.arguments_delta for e in deltas) == done.arguments
        assert done.parsed_arguments == call.function.parsed_arguments


def test_an_answer_is_calls_or_an_object_where_it_may_be_both(clients: Clients) -> None:
    """A model that wants something else; each seed is another try."""
    kinds: set[str] = set()
    for seed in range(60):
        options: Any = {**DRAWN, "seed": seed, "messages": QUESTION, "tools": TOOLS}
        options |= {"response_format": River, "parallel_tool_calls": False, "max_tokens": 100}
        (choice,) = clients.openai.chat.completions.parse(**options).choices
        if choice.finish_reason in kinds:
            continue
        kinds.add(choice.finish_reason)
        with clients.openai.chat.completions.stream(**options) as stream:
            (streamed,) = stream.get_final_completion().choices
        if choice.finish_reason == "tool_calls":
            assert choice.message.content is None
            (call,), (again,) = choice.message.tool_calls or [], streamed.message.tool_calls or []
            assert isinstance(call.function.parsed_arguments, GetWeather)
            assert again.function.parsed_arguments == call.function.parsed_arguments
        else:
            assert isinstance(choice.message.parsed, River)
            assert streamed.message.parsed == choice.message.parsed
        if kinds == {"stop", "tool_calls"}:
            return
    raise AssertionError(f"all answers are of one kind: {kinds}")


def test_a_loop_calls_a_tool_and_answers_with_what_it_gave(clients: Clients) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
    options: Any = {"model": MODEL, "temperature": 0, "tools": TOOLS, "max_tokens": 100}
    asked = clients.openai.chat.completions.parse(
        **options, messages=messages, tool_choice="required", parallel_tool_calls=False
    )
    message = asked.choices[0].message
    (call,) = message.tool_calls or []
    assert call.function.parsed_arguments == GetWeather(city="Rome", unit="celsius")
    messages += [
        message,
        {"role": "tool", "tool_call_id": call.id, "content": "It is 18 degrees and sunny."},
    ]
    answer = clients.openai.chat.completions.create(
        **options, messages=messages, tool_choice="none"
    )
    assert "18 degrees" in (answer.choices[0].message.content or "")


def test_an_object_that_was_cut_is_said_to_be(clients: Clients) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        clients.openai.chat.completions.parse(
            **DRAWN, messages=QUESTION, response_format=City, max_tokens=5
        )
