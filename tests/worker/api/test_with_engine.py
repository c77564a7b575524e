"""The HTTP process with the real engine behind it, on a tiny model with random weights."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest

from .batch_requests import TEXT, ended, ids, lines_of, start_batch, text_line
from .tiny_worker import assert_nothing_is_held, idle_state, tiny_worker


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tiny_worker(tmp_path_factory.mktemp("worker")) as worker:
        yield worker.url


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        yield client


async def test_greedy_answers_repeat_and_come_from_the_cache(http: httpx.AsyncClient) -> None:
    assert (await http.post("/flush_cache")).status_code == 200
    sampling = {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True}
    body = {"input_ids": list(range(3, 43)), "sampling_params": sampling}
    first = (await http.post("/generate", json=body)).json()
    second = (await http.post("/generate", json=body)).json()
    assert first["text"] == second["text"] != ""
    assert first["meta_info"]["cached_tokens"] == 0
    assert second["meta_info"]["cached_tokens"] == 39
    reason = {"type": "length", "length": 24}
    assert first["meta_info"]["finish_reason"] == reason
    assert_nothing_is_held(await idle_state(http))


async def test_stream_of_a_list_is_the_answer_of_the_list(http: httpx.AsyncClient) -> None:
    body = {
        "text": ["the", "in or in", "é 😀"],
        "sampling_params": {"temperature": 0, "max_new_tokens": 20, "ignore_eos": True},
    }
    expected = [each["text"] for each in (await http.post("/generate", json=body)).json()]
    response = await http.post("/generate", json={**body, "stream": True})
    last = {}
    for line in response.text.split("\n\n"):
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            last[event["index"]] = event["text"]
    assert [last[index] for index in range(3)] == expected


async def test_samples_share_the_prompt_and_the_first_is_that_of_one_alone(
    http: httpx.AsyncClient,
) -> None:
    sampling: dict[str, Any] = {"seed": 7, "max_new_tokens": 12, "ignore_eos": True}
    body = {"input_ids": list(range(60, 140)), "sampling_params": sampling}
    alone = [
        (await http.post("/generate", json={**body, "sampling_params": {**sampling, "seed": seed}}))
        for seed in (7, 8, 9)
    ]
    assert (await http.post("/flush_cache")).status_code == 200
    answers = await http.post("/generate", json={**body, "sampling_params": {**sampling, "n": 3}})
    texts = [answer["text"] for answer in answers.json()]
    assert texts == [answer.json()["text"] for answer in alone]
    assert len(set(texts)) == 3
    cached = sorted(answer["meta_info"]["cached_tokens"] for answer in answers.json())
    assert cached == [0, 79, 79]
    assert_nothing_is_held(await idle_state(http))


async def test_each_turn_of_a_conversation_finds_the_last_one_cached(
    http: httpx.AsyncClient,
) -> None:
    assert (await http.post("/flush_cache")).status_code == 200
    body = {"instructions": "Be brief.", "temperature": 0, "max_output_tokens": 9}
    body |= {"ignore_eos": True, "previous_response_id": None}
    messages: list[dict[str, str]] = [{"role": "system", "content": "Be brief."}]
    known = 0
    for text in ("in the beginning", "and then", "in the end"):
        answer = (await http.post("/v1/responses", json={**body, "input": text})).json()
        assert answer["status"] == "incomplete"
        usage = answer["usage"]
        assert usage["input_tokens_details"]["cached_tokens"] >= known
        known = usage["input_tokens"] - 1
        body["previous_response_id"] = answer["id"]
        said = answer["output"][0]["content"][0]["text"]
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": said}]
    chat = {"messages": messages[:-1], "temperature": 0, "max_tokens": 9, "ignore_eos": True}
    same = (await http.post("/v1/chat/completions", json=chat)).json()
    assert same["choices"][0]["message"]["content"] == said
    assert same["usage"]["prompt_tokens"] == usage["input_tokens"]
    assert_nothing_is_held(await idle_state(http))


async def complete(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await http.post("/v1/completions", json={"max_tokens": 16, **body})
    assert response.status_code == 200, response.text
    return response.json()


async def test_an_answer_scored_as_a_prompt_has_the_logprobs_it_was_made_with(
    http: httpx.AsyncClient,
) -> None:
    prompt = list(range(3, 60))
    made = await http.post(
        "/generate",
        json={
            "input_ids": prompt,
            "sampling_params": {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True},
            "return_logprob": True,
        },
    )
    values, ids, _ = zip(*made.json()["meta_info"]["output_token_logprobs"], strict=True)
    # Twice: the second time the prefix cache has it all.
    for _ in range(2):
        scored = await complete(http, prompt=[*prompt, *ids], echo=True, logprobs=1, max_tokens=0)
        logprobs = scored["choices"][0]["logprobs"]
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["token_logprobs"][len(prompt) :] == pytest.approx(values, abs=1e-4)
        # The answer was greedy, which an evaluation harness finds by comparing figures.
        of_answer = zip(logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True)
        assert all(value == max(top.values()) for value, top in list(of_answer)[len(prompt) :])
    assert_nothing_is_held(await idle_state(http))


async def test_logprobs_of_a_stream_are_those_of_the_whole(http: httpx.AsyncClient) -> None:
    body = {"prompt": "in the inner é", "echo": True, "logprobs": 3, "temperature": 0, "n": 2}
    whole = (await complete(http, **body))["choices"]
    response = await http.post("/v1/completions", json={**body, "max_tokens": 16, "stream": True})
    joined: list[dict[str, list[Any]]] = [{}, {}]
    for line in response.text.split("\n\n"):
        if line.startswith("data: {"):
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            for name, values in choice["logprobs"].items():
                joined[choice["index"]].setdefault(name, []).extend(values)
    for choice, of_stream in zip(whole, joined, strict=True):
        assert of_stream["tokens"] == choice["logprobs"]["tokens"]
        assert of_stream["text_offset"] == choice["logprobs"]["text_offset"]
        values = choice["logprobs"]["token_logprobs"][1:]
        assert of_stream["token_logprobs"][1:] == pytest.approx(values, abs=1e-4)
    assert whole[0]["logprobs"]["tokens"] == whole[1]["logprobs"]["tokens"]


async def test_the_best_of_several_answers_is_the_likeliest(http: httpx.AsyncClient) -> None:
    body = {"prompt": "in or in", "seed": 3, "ignore_eos": True, "logprobs": 0}
    several = (await complete(http, **body, n=4))["choices"]
    best = max(several, key=lambda choice: sum(choice["logprobs"]["token_logprobs"]))
    answer = await complete(http, **body, best_of=4)
    (choice,) = answer["choices"]
    assert (choice["index"], choice["text"]) == (0, best["text"])
    assert answer["usage"]["completion_tokens"] == 4 * 16


async def test_a_session_finds_what_came_before_in_the_cache(http: httpx.AsyncClient) -> None:
    session = (await http.post("/open_session", json={"capacity_of_str_len": 10_000})).json()
    sampling = {"temperature": 0, "max_new_tokens": 9, "ignore_eos": True}
    rid, before = None, 0
    for own in (list(range(150, 190)), [7, 8], [9]):
        params = {"id": session, "rid": rid}
        body = {"input_ids": own, "sampling_params": sampling, "session_params": params}
        answer = (await http.post("/generate", json=body)).json()["meta_info"]
        assert answer["prompt_tokens"] == before + len(own)
        # Nobody has computed the keys and values of an answer's last token yet.
        assert answer["cached_tokens"] == max(before - 1, 0)
        rid, before = answer["id"], before + len(own) + 9
    assert (await http.post("/close_session", json={"session_id": session})).status_code == 200
    assert_nothing_is_held(await idle_state(http))


async def test_a_batch_gives_what_http_gives_beside_other_requests(http: httpx.AsyncClient) -> None:
    client = openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="none", max_retries=0)
    bodies = [
        {"prompt": [3 + i] * (1 + i % 7), "max_tokens": 8, "temperature": 0} for i in range(80)
    ]
    lines = [text_line(str(i), **body) for i, body in enumerate(bodies)]
    batch = await start_batch(client, lines, TEXT)
    expected = [(await http.post(TEXT, json=body)).json()["choices"] for body in bodies[:10]]
    batch = await ended(client, batch)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    output = await lines_of(client, batch.output_file_id)
    assert ids(output) == ids(lines)
    found = [line["response"]["body"]["choices"] for line in output]
    assert found[:10] == expected
    assert_nothing_is_held(await idle_state(http))


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_are_held_to_grammars(http: httpx.AsyncClient, stream: bool) -> None:
    """By a model that knows nothing of them; a bad one is a 400, also of a stream."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    body = {"messages": [{"role": "user", "content": "hi"}], "n": 3, "seed": 1, "stream": stream}
    response = await http.post("/v1/chat/completions", json={**body, "response_format": format})
    assert response.status_code == 200, response.text
    texts = ["", "", ""]
    if stream:
        for line in response.text.split("\n\n"):
            if line.startswith("data: {"):
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                texts[choice["index"]] += choice["delta"].get("content", "")
    else:
        texts = [choice["message"]["content"] for choice in response.json()["choices"]]
    assert all(isinstance(json.loads(text)["n"], int) for text in texts)
    bad = await http.post("/v1/chat/completions", json={**body, "regex": "(a"})
    assert bad.status_code == 400
    assert "no regular expression" in bad.json()["error"]["message"]
    assert_nothing_is_held(await idle_state(http))


async def test_stop_string_frees_its_request(http: httpx.AsyncClient) -> None:
    sampling: dict[str, Any] = {"seed": 4, "max_new_tokens": 200, "ignore_eos": True}
    body = {"input_ids": [5, 6, 7], "sampling_params": sampling}
    text = (await http.post("/generate", json=body)).json()["text"]
    stop = text[20:24]
    sampling["stop"] = stop
    answer = (await http.post("/generate", json=body)).json()
    assert answer["text"] == text.split(stop, 1)[0]
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert answer["meta_info"]["completion_tokens"] < 200
    assert_nothing_is_held(await idle_state(http))


async def test_nothing_is_held_after_a_storm_of_disconnects(http: httpx.AsyncClient) -> None:
    chance = random.Random(3)

    async def leave_early(index: int) -> None:
        sampling = {"max_new_tokens": 300, "ignore_eos": True}
        ids = [[chance.randrange(3, 250) for _ in range(chance.randrange(1, 120))] for _ in "ab"]
        prompts = ids if index % 3 == 0 else ids[0]
        body = {"input_ids": prompts, "sampling_params": sampling, "stream": index % 2 == 0}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(chance.uniform(0.01, 1.0)):
                async with http.stream("POST", "/generate", json=body) as response:
                    async for _ in response.aiter_bytes():
                        pass

    await asyncio.gather(*(leave_early(index) for index in range(60)))
    assert_nothing_is_held(await idle_state(http))
    assert (await http.post("/flush_cache")).status_code == 200
    assert (await idle_state(http))["free_tokens"] == 2048
