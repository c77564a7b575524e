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


def test_an_object_that_was_cut_is_said_to_be(clients: Clients) -> None:
    with pytest.raises(openai.LengthFinishReasonError):
        clients.openai.chat.completions.parse(
            **DRAWN, messages=QUESTION, response_format=City, max_tokens=5
        )
