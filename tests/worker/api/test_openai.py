"""The OpenAI API, through the `openai` client where it can say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from worker.messages import FinishReason
from worker.tokenization.template_source import TemplateSource
from worker.tokenization.tokenizer import load_tokenizer

from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from .conftest import RunningWorker, StartWorker, refuses
from .fake_scheduler import answer_with

USER = [{"role": "user", "content": "hi"}]


async def chat(worker: RunningWorker, **arguments: Any) -> Any:
    messages = arguments.pop("messages", USER)
    client = worker.openai()
    return await client.chat.completions.create(model="any", messages=messages, **arguments)


async def test_chat_answers(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("the café"))
    completion = await chat(worker, temperature=0)
    assert completion.id.startswith("chatcmpl-")
    assert completion.object == "chat.completion"
    assert completion.model == "any"
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "the café")
    assert choice.finish_reason == "stop"
    request = worker.scheduler.requests[0]
    assert request.input_ids == worker.ids(
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert request.sampling.temperature == 0
    usage = completion.usage
    assert usage.prompt_tokens == len(request.input_ids)
    assert usage.completion_tokens == len(worker.ids("the café")) + 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.prompt_tokens_details is None


async def test_chat_without_a_limit_may_fill_the_context(worker: RunningWorker) -> None:
    await chat(worker)
    request = worker.scheduler.requests[0]
    assert request.sampling.max_new_tokens == 512 - len(request.input_ids)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_chat_limit_ends_with_length(worker: RunningWorker, name: str) -> None:
    worker.scheduler.script = answer_with(worker.ids("abcdef"))
    completion = await chat(worker, **{name: 3})
    assert completion.choices[0].message.content == "abc"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 3


async def test_chat_streams(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("a é 😀"))
    chunks = [chunk async for chunk in await chat(worker, stream=True)]
    assert chunks[0].choices[0].delta.role == "assistant"
    contents = [chunk.choices[0].delta.content for chunk in chunks]
    assert "".join(content or "" for content in contents) == "a é 😀"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.object == "chat.completion.chunk" for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


async def test_chat_stream_ends_with_usage_when_asked(start_worker: StartWorker) -> None:
    worker = await start_worker(enable_cache_report=True)
    worker.scheduler.script = answer_with(worker.ids("ab"), cached_tokens=4)
    options = {"include_usage": True}
    chunks = [chunk async for chunk in await chat(worker, stream=True, stream_options=options)]
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == 4


async def test_chat_reports_cached_tokens_when_told_to(start_worker: StartWorker) -> None:
    worker = await start_worker(enable_cache_report=True)
    worker.scheduler.script = answer_with(worker.ids("ab"), cached_tokens=4)
    assert (await chat(worker)).usage.prompt_tokens_details.cached_tokens == 4


async def test_chat_stops_at_a_string(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("one\n\ntwo"), finish=None)
    completion = await chat(worker, stop=["\n\n"], seed=5)
    assert completion.choices[0].message.content == "one"
    assert completion.choices[0].finish_reason == "stop"
    assert worker.scheduler.aborted == [completion.id]
    assert worker.scheduler.requests[0].sampling.seed == 5


async def test_chat_takes_parts_of_text_and_developer_messages(worker: RunningWorker) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts},
    ]
    await chat(worker, messages=messages)
    assert worker.scheduler.requests[0].input_ids == worker.ids(
        "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("final", ["The end", "<|im_end|>", " spaces \n", ""])
async def test_chat_goes_on_with_the_final_message(worker: RunningWorker, final: str) -> None:
    worker.scheduler.script = answer_with(worker.ids(" of it"))
    messages = [*USER, {"role": "assistant", "content": final}]
    completion = await chat(worker, messages=messages, extra_body={"continue_final_message": True})
    assert completion.choices[0].message.content == " of it"
    assert worker.scheduler.requests[0].input_ids == worker.ids(
        f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{final}"
    )


async def test_chat_template_takes_variables(start_worker: StartWorker, tiny_folder: Path) -> None:
    folder = write_tiny_tokenizer(tiny_folder, chat_template="{{ bos_token }}{{ mood }}")
    worker = await start_worker(tokenizer=load_tokenizer(folder))
    await chat(worker, extra_body={"chat_template_kwargs": {"mood": "calm", "bos_token": "-"}})
    assert worker.scheduler.requests[0].input_ids == worker.ids("-calm")


async def test_chat_says_which_tier_served_it_when_one_was_asked_for(
    worker: RunningWorker,
) -> None:
    assert (await chat(worker)).service_tier is None
    for stream in (False, True):
        answer = await chat(worker, service_tier="priority", stream=stream)
        parts = [chunk async for chunk in answer] if stream else [answer]
        assert {part.service_tier for part in parts} == {"default"}


async def test_sampling_additions_reach_the_engine(worker: RunningWorker) -> None:
    extra = {"top_k": 3, "min_p": 0.2, "ignore_eos": True, "stop_token_ids": [9]}
    await chat(worker, top_p=0.5, extra_body=extra)
    sent = worker.scheduler.requests[0].sampling
    assert (sent.top_p, sent.top_k, sent.min_p) == (0.5, 3, 0.2)
    assert (sent.ignore_eos, sent.stop_token_ids) == (True, (9,))


async def test_penalties_reach_the_engine(worker: RunningWorker) -> None:
    extra = {"repetition_penalty": 0.9, "min_tokens": 4}
    await chat(worker, frequency_penalty=1.5, logit_bias={"9": 2}, extra_body=extra)
    sent = worker.scheduler.requests[0].sampling
    assert (sent.frequency_penalty, sent.presence_penalty) == (1.5, 0.0)
    assert (sent.repetition_penalty, sent.min_new_tokens) == (0.9, 4)
    assert sent.logit_bias == ((9, 2.0),)


async def test_neutral_values_are_taken(worker: RunningWorker) -> None:
    await chat(
        worker,
        n=1,
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        logprobs=False,
        response_format={"type": "text"},
        tools=[],
        tool_choice="none",
        parallel_tool_calls=True,
        user="me",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        stream_options=None,
        prompt_cache_key="k",
        prompt_cache_retention="in_memory",
        extra_body={"repetition_penalty": 1.0, "min_tokens": 0},
    )
    assert len(worker.scheduler.requests) == 1


@pytest.mark.parametrize(
    ("arguments", "message", "param"),
    [
        ({"messages": []}, "at least 1 item", "messages"),
        ({"n": 0}, "greater than or equal to 1, not 0", "n"),
        ({"n": 129}, "less than or equal to 128, not 129", "n"),
        ({"temperature": -1}, "greater than or equal to 0, not -1", "temperature"),
        ({"top_p": 0}, "greater than 0, not 0", "top_p"),
        ({"max_tokens": 0}, "greater than or equal to 1, not 0", "max_tokens"),
        ({"presence_penalty": 3}, "less than or equal to 2, not 3", "presence_penalty"),
        ({"logit_bias": {"5": 500}}, "less than or equal to 100, not 500", "logit_bias.5"),
        ({"logit_bias": {"300": 1}}, "300 is outside the vocabulary", "logit_bias"),
        ({"response_format": {"type": "xml"}}, "or 'structural_tag', not", "response_format.type"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "required",
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": {"type": "json_object"}, "extra_body": {"regex": "a"}},
            "regex and response_format, not to several",
            None,
        ),
        ({"store": True}, "true is not supported", "store"),
        ({"service_tier": "gold"}, "'priority' or 'fast', not \"gold\"", "service_tier"),
        ({"stream_options": {}}, "only to be given when stream is true", "stream_options"),
        ({"prompt_cache_retention": "24h"}, "not supported", "prompt_cache_retention"),
        ({"moderation": {}}, "{} is not supported", "moderation"),
        (
            {"extra_body": {"continue_final_message": True}},
            "must be the assistant's, not one of the role 'user'",
            "continue_final_message",
        ),
        (
            {"extra_body": {"chat_template_kwargs": {"messages": []}}},
            "not to be set here",
            "chat_template_kwargs.messages",
        ),
        ({"extra_body": {"nonsense": 1}}, "Unknown field: 'nonsense'", "nonsense"),
        ({"stream": True, "stream_options": {"x": 1}}, "Unknown field", "stream_options.x"),
        (
            {"max_tokens": 2, "extra_body": {"min_tokens": 3}},
            "at most 2 tokens, not 3",
            "min_tokens",
        ),
        (
            {"messages": [{"role": "narrator", "content": "x"}]},
            "'user', 'assistant' or 'tool', not \"narrator\"",
            "messages[0].role",
        ),
        ({"messages": [{"role": "user"}]}, "required", "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "string", "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
            '"image_url" is not supported',
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            "the first message must not be the assistant",
            "messages",
        ),
        ({"max_tokens": 512}, "asks for 512", "max_tokens"),
    ],
)
async def test_chat_refuses_what_is_wrong(
    worker: RunningWorker, arguments: dict[str, Any], message: str, param: str
) -> None:
    await refuses(worker, chat(worker, **arguments), message, param)


async def test_chat_refuses_a_prompt_longer_than_the_context(worker: RunningWorker) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await chat(worker, messages=[{"role": "user", "content": "x" * 2000}])
    assert caught.value.code == "context_length_exceeded"
    assert "at most 512 tokens" in caught.value.message


async def test_error_in_the_middle_of_a_stream_is_its_last_event(worker: RunningWorker) -> None:
    gone = FinishReason("abort", message="the KV cache is full", status=503)
    worker.scheduler.script = answer_with(worker.ids("ab"), finish=gone)
    stream = await chat(worker, stream=True)
    assert (await anext(stream)).choices[0].delta.role == "assistant"
    assert (await anext(stream)).choices[0].delta.content == "a"
    with pytest.raises(openai.APIError, match="the KV cache is full"):
        await anext(stream)
    body = {"messages": USER, "stream": True}
    response = await worker.http.post("/v1/chat/completions", json=body)
    last = response.text.strip().rsplit("\n\n", 1)[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "the KV cache is full"


async def test_error_before_the_first_token_has_its_status(worker: RunningWorker) -> None:
    gone = FinishReason("abort", message="no room", status=503)
    worker.scheduler.script = answer_with([], finish=gone)
    for stream in (True, False):
        with pytest.raises(openai.InternalServerError, match="no room") as caught:
            await chat(worker, stream=stream)
        assert caught.value.status_code == 503


@pytest.mark.parametrize("form", ["string", "strings", "ids", "lists of ids"])
async def test_completions_take_every_form_of_prompt(worker: RunningWorker, form: str) -> None:
    worker.scheduler.script = lambda request: answer_with(request.input_ids)(request)
    prompt: Any = {
        "string": "ab",
        "strings": ["ab", "cd"],
        "ids": worker.ids("ab"),
        "lists of ids": [worker.ids("ab"), worker.ids("cd")],
    }[form]
    completion = await worker.openai().completions.create(model="m", prompt=prompt)
    expected = ["ab", "cd"] if "s " in form or form == "strings" else ["ab"]
    assert [choice.text for choice in completion.choices] == expected
    assert [choice.index for choice in completion.choices] == list(range(len(expected)))
    assert completion.id.startswith("cmpl-")
    assert completion.usage.prompt_tokens == 2 * len(expected)
    assert completion.usage.completion_tokens == 3 * len(expected)
    assert worker.scheduler.requests[0].sampling.max_new_tokens == 16


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", ["strings", "lists of ids"])
async def test_completions_echo_the_prompt_first(
    worker: RunningWorker, form: str, stream: bool
) -> None:
    worker.scheduler.script = answer_with(worker.ids("xy"))
    texts = ["ab é", "cd"]
    prompt: Any = texts if form == "strings" else [[1, *worker.ids(text)] for text in texts]
    answer = await worker.openai().completions.create(
        model="m", prompt=prompt, echo=True, n=2, stream=stream
    )
    echoed = dict.fromkeys(range(4), "")
    for chunk in [chunk async for chunk in answer] if stream else [answer]:
        for choice in chunk.choices:
            echoed[choice.index] += choice.text
    assert list(echoed.values()) == ["ab éxy", "ab éxy", "cdxy", "cdxy"]


async def test_completions_stream_several_prompts(worker: RunningWorker) -> None:
    worker.scheduler.script = lambda request: answer_with(request.input_ids)(request)
    stream = await worker.openai().completions.create(
        model="m", prompt=["ab", "cd"], stream=True, stream_options={"include_usage": True}
    )
    texts = {0: "", 1: ""}
    finished = []
    usage = None
    async for chunk in stream:
        usage = chunk.usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            finished += [choice.index] if choice.finish_reason == "stop" else []
    assert texts == {0: "ab", 1: "cd"}
    assert sorted(finished) == [0, 1]
    assert usage.total_tokens == 10


@pytest.mark.parametrize(
    ("arguments", "message", "param"),
    [
        ({"prompt": ""}, "no tokens", "prompt"),
        ({"prompt": []}, "list of prompts is empty", "prompt"),
        ({"prompt": [[]]}, "no tokens", "prompt"),
        ({"prompt": [999]}, "999 is outside the vocabulary", "prompt"),
        ({"prompt": {"a": 1}}, "must be a string, a list of strings", "prompt"),
        ({"prompt": [999], "echo": True}, "999 is outside the vocabulary", "prompt"),
        ({"prompt": "a", "suffix": "b"}, "not supported", "suffix"),
        ({"prompt": "a", "max_tokens": 512}, "prompt has 1 tokens", "max_tokens"),
    ],
)
async def test_completions_refuse_what_is_wrong(
    worker: RunningWorker, arguments: dict[str, Any], message: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        await worker.openai().completions.create(model="m", **arguments)
    assert caught.value.param == param
    assert worker.scheduler.requests == []


async def test_completions_need_a_prompt(worker: RunningWorker) -> None:
    response = await worker.http.post("/v1/completions", json={"model": "m"})
    assert response.json()["error"]["message"] == "prompt: this field is required"


async def test_models_are_listed(start_worker: StartWorker) -> None:
    worker = await start_worker(served_model_name="org/name")
    client = worker.openai()
    (model,) = (await client.models.list()).data
    assert model.id == "org/name"
    assert (await client.models.retrieve("org/name")).id == "org/name"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


async def test_chat_without_a_template_is_refused(
    start_worker: StartWorker, tiny_folder: Path
) -> None:
    tokenizer = load_tokenizer(write_tiny_tokenizer(tiny_folder, chat_template=None))
    worker = await start_worker(tokenizer=tokenizer)
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        await chat(worker)


async def test_chat_ends_where_the_template_says(
    start_worker: StartWorker, tiny_folder: Path
) -> None:
    source = TemplateSource("{{ messages[0].content }}", stops=("<|im_end|>", "User:"))
    worker = await start_worker(tokenizer=load_tokenizer(tiny_folder, source))
    worker.scheduler.script = answer_with(worker.ids("one\nUser: and"), finish=None)
    completion = await chat(worker, stop="x", extra_body={"stop_token_ids": [9]})
    assert completion.choices[0].message.content == "one\n"
    assert worker.scheduler.requests[0].sampling.stop_token_ids == (9, 2)
