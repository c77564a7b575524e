"""Several answers to one prompt: `n` of both APIs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from worker.messages import GenerateRequest, TokenChunk

from .conftest import RunningWorker, StartWorker
from .fake_scheduler import answer_with
from .test_native import events_of

USER: Any = [{"role": "user", "content": "hi"}]


def sample_number(worker: RunningWorker) -> Any:
    """A script that answers a sample with its number, from the end of its rid."""

    def script(request: GenerateRequest) -> list[TokenChunk]:
        return answer_with(worker.ids("s" + request.rid.rpartition("-")[2]))(request)

    return script


async def test_chat_gives_n_choices_and_counts_the_prompt_once(worker: RunningWorker) -> None:
    worker.scheduler.script = sample_number(worker)
    client = worker.openai()
    completion = await client.chat.completions.create(model="m", messages=USER, n=3, seed=5)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert [choice.message.content for choice in completion.choices] == ["s0", "s1", "s2"]
    requests = worker.scheduler.requests
    assert [request.sampling.seed for request in requests] == [5, 6, 7]
    assert len({tuple(request.input_ids) for request in requests}) == 1
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == len(requests[0].input_ids)
    assert completion.usage.completion_tokens == 3 * 3


async def test_chat_streams_each_choice_under_its_index(worker: RunningWorker) -> None:
    worker.scheduler.script = sample_number(worker)
    stream = await worker.openai().chat.completions.create(
        model="m", messages=USER, n=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    for index in range(3):
        own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        assert [choice.delta.role for choice in own] == ["assistant"] + [None] * (len(own) - 1)
        assert "".join(choice.delta.content or "" for choice in own) == f"s{index}"
        assert [choice.finish_reason for choice in own] == [None] * (len(own) - 1) + ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens == len(worker.scheduler.requests[0].input_ids)
    assert chunks[-1].usage.completion_tokens == 9


@pytest.mark.parametrize("stream", [False, True])
async def test_completions_give_n_choices_for_each_prompt(
    worker: RunningWorker, stream: bool
) -> None:
    def script(request: GenerateRequest) -> list[TokenChunk]:
        sample = worker.ids(request.rid.rpartition("-")[2])
        return answer_with([*request.input_ids, *sample])(request)

    worker.scheduler.script = script
    answer: Any = await worker.openai().completions.create(
        model="m", prompt=["ab", "cd"], n=2, best_of=2, stream=stream
    )
    texts = dict.fromkeys(range(4), "")
    for chunk in [chunk async for chunk in answer] if stream else [answer]:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {0: "ab0", 1: "ab1", 2: "cd0", 3: "cd1"}
    if not stream:
        assert answer.usage.prompt_tokens == 4
        assert answer.usage.completion_tokens == 16


async def test_cached_tokens_are_those_that_the_first_sample_found(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(enable_cache_report=True)

    def script(request: GenerateRequest) -> list[TokenChunk]:
        cached = 1 if request.rid.endswith("-1") else 2
        return answer_with([9], cached_tokens=cached)(request)

    worker.scheduler.script = script
    completion = await worker.openai().completions.create(model="m", prompt=["abc", "de"], n=3)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 5
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_generate_gives_a_list_with_the_samples_of_a_prompt_in_a_row(
    worker: RunningWorker, stream: bool
) -> None:
    worker.scheduler.script = sample_number(worker)
    body = {"text": "hi", "rid": "mine", "sampling_params": {"n": 2, "seed": 2**63 - 1}}
    response = await worker.http.post("/generate", json={**body, "stream": stream})
    answers = response.json() if not stream else events_of(response)
    if stream:
        answers = [{event["index"]: event for event in answers}[index] for index in range(2)]
    assert [answer["text"] for answer in answers] == ["s0", "s1"]
    assert [answer["meta_info"]["id"] for answer in answers] == ["mine-0", "mine-1"]
    seeds = [request.sampling.seed for request in worker.scheduler.requests]
    assert seeds == [2**63 - 1, -(2**63)]


async def test_samples_without_a_seed_differ_in_nothing_but_their_rid(
    worker: RunningWorker,
) -> None:
    body = {"text": ["a", "b"], "rid": ["x", "y"], "sampling_params": {"n": 2}}
    answers = (await worker.http.post("/generate", json=body)).json()
    ids = [answer["meta_info"]["id"] for answer in answers]
    assert ids == ["x-0", "x-1", "y-0", "y-1"]
    first, second, *_ = worker.scheduler.requests
    assert first.sampling.seed is None
    assert msgspec.structs.replace(second, rid=first.rid) == first
