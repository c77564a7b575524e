"""Log-probabilities, hidden states and `best_of`, in both APIs, from a scripted scheduler."""

from __future__ import annotations

import re
from typing import Any

import openai
import pytest

from worker.messages import FinishReason, GenerateRequest, LogprobOptions, TokenChunk

from .conftest import RunningWorker
from .fake_scheduler import answer_with, hidden_row, likeliest_at, logprob_of
from .test_native import events_of

USER: Any = [{"role": "user", "content": "hi"}]
TEXT = "in é 😀 the end"  # é and "in" are tokens, 😀 is three


async def chat(worker: RunningWorker, **arguments: Any) -> Any:
    client = worker.openai()
    return await client.chat.completions.create(model="m", messages=USER, **arguments)


async def complete(worker: RunningWorker, prompt: Any = "the", **arguments: Any) -> Any:
    return await worker.openai().completions.create(model="m", prompt=prompt, **arguments)


async def generate(worker: RunningWorker, **body: Any) -> Any:
    response = await worker.http.post("/generate", json=body)
    assert response.status_code == 200, response.text
    return response.json()


# ===== chat completions =====


async def test_chat_has_a_place_for_each_token(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids(TEXT))
    completion = await chat(worker, logprobs=True, top_logprobs=2)
    (request,) = worker.scheduler.requests
    assert request.logprobs == LogprobOptions(top=2)
    (choice,) = completion.choices
    assert choice.logprobs.refusal is None
    content = choice.logprobs.content
    assert len(content) == completion.usage.completion_tokens
    ids = [*worker.ids(TEXT), 2]
    first = len(request.input_ids)
    values = [logprob_of(first + index, token_id) for index, token_id in enumerate(ids)]
    assert [each.logprob for each in content] == values
    shown = [bytes(each.bytes) for each in content if each.bytes is not None]
    assert b"".join(shown).decode() == choice.message.content == TEXT
    assert (content[-1].token, content[-1].bytes) == ("<|im_end|>", None)
    likeliest = [(each.token, each.logprob) for each in content[1].top_logprobs]
    token_of = worker.service.tokenizer.decode
    expected = [(token_of([other]), value) for other, value in likeliest_at(first + 1, 2)]
    assert likeliest == expected


async def test_chat_writes_a_part_of_a_character_with_escapes(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("😀"))
    completion = await chat(worker, logprobs=True)
    content = completion.choices[0].logprobs.content
    assert [each.token for each in content[:3]] == [r"\xf0\x9f", r"\x98", r"\x80"]
    assert [each.bytes for each in content[:3]] == [[0xF0, 0x9F], [0x98], [0x80]]
    assert content[0].top_logprobs == []


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
@pytest.mark.parametrize("stop", [None, "STOP", "e"])
async def test_chat_stream_joins_to_the_whole(
    worker: RunningWorker, stop: str | None, chunk_size: int
) -> None:
    ids = worker.ids(TEXT + " STO and STOP here")
    finish = FinishReason("stop", matched=2) if stop is None else None
    worker.scheduler.script = answer_with(ids, chunk_size=chunk_size, finish=finish)
    arguments: dict[str, Any] = {"logprobs": True, "top_logprobs": 1, "stop": stop}
    whole = (await chat(worker, **arguments)).choices[0]
    text, content = "", []
    async for chunk in await chat(worker, stream=True, **arguments):
        (choice,) = chunk.choices
        piece = choice.delta.content or ""
        text += piece
        places = choice.logprobs.content if choice.logprobs else []
        if choice.finish_reason is None and places:
            # A piece has those of the tokens that begin in it; the stop string may cut " the", and
            # the first of the three tokens of 😀 is no text.
            first = bytes(places[0].bytes).decode("utf-8", "ignore")
            assert piece.startswith(first) or first.startswith(piece)
        content += places
    assert text == whole.message.content
    assert content == whole.logprobs.content


async def test_chat_stream_without_logprobs_has_none(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("ab"))
    chunks = [chunk async for chunk in await chat(worker, stream=True)]
    assert {chunk.choices[0].logprobs for chunk in chunks} == {None}
    assert worker.scheduler.requests[0].logprobs is None


@pytest.mark.parametrize("value", [float("-inf"), float("nan")])
async def test_no_number_is_the_least_one(worker: RunningWorker, value: float) -> None:
    def script(request: GenerateRequest) -> list[TokenChunk]:
        return answer_with([40, 41], finish=FinishReason("length"))(request)

    worker.scheduler.script = script
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.worker.api.fake_scheduler.logprob_of", lambda place, token: value)
        content = (await chat(worker, logprobs=True)).choices[0].logprobs.content
        native = await generate(worker, text="hi", return_logprob=True)
    assert [each.logprob for each in content] == [-9999.0] * 2
    entries = native["meta_info"]["output_token_logprobs"]
    assert entries == [[-9999.0, 40, None], [-9999.0, 41, None]]


# ===== completions =====


async def test_completion_shows_tokens_values_and_offsets(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("in é😀."))
    (choice,) = (await complete(worker, logprobs=0)).choices
    shown = choice.logprobs
    parts = [r"bytes:\xf0\x9f", r"bytes:\x98", r"bytes:\x80"]
    assert shown.tokens == ["in", " ", "é", *parts, ".", "<|im_end|>"]
    assert shown.text_offset == [0, 2, 3, 4, 4, 4, 5, 6]
    first = len(worker.ids("the"))
    ids = [*worker.ids("in é😀."), 2]
    values = [logprob_of(first + index, token_id) for index, token_id in enumerate(ids)]
    assert shown.token_logprobs == values
    own = [{token: value} for token, value in zip(shown.tokens, values, strict=True)]
    assert shown.top_logprobs == own


async def test_completion_has_the_likeliest_tokens_and_the_one_that_came(
    worker: RunningWorker,
) -> None:
    worker.scheduler.script = answer_with([41, 60], finish=FinishReason("length"))
    (choice,) = (await complete(worker, logprobs=3)).choices
    first, second = choice.logprobs.top_logprobs
    name = worker.service.tokenizer.decode
    assert list(first) == [name([40]), name([41]), name([42])]
    assert set(second) == {name([each]) for each in (60, 40, 41, 42)}
    assert second[name([60])] == choice.logprobs.token_logprobs[1]


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("prompt", ["é the", [1, 40, 41]])
async def test_echo_has_the_prompt_first(worker: RunningWorker, prompt: Any, samples: int) -> None:
    worker.scheduler.script = answer_with(worker.ids("xy"), finish=FinishReason("length"))
    ids = worker.ids(prompt) if isinstance(prompt, str) else prompt
    completion = await complete(worker, prompt, echo=True, logprobs=1, n=samples)
    for choice in completion.choices:
        shown = choice.logprobs
        places = enumerate([*ids, *worker.ids("xy")])
        values = [logprob_of(place, token_id) for place, token_id in places]
        assert shown.token_logprobs == [None, *values[1:]]
        assert shown.top_logprobs[0] is None
        assert all(shown.top_logprobs[1:])
        assert len(shown.tokens) == len(shown.text_offset) == len(values)
        tokens = dict(zip(shown.text_offset, shown.tokens, strict=True))
        tokens = {at: token for at, token in tokens.items() if not token.startswith("<|")}
        assert all(choice.text[at:].startswith(token) for at, token in tokens.items())
        assert "".join(tokens.values()) == choice.text
    asked = [request.logprobs.prompt_start for request in worker.scheduler.requests]
    assert asked == [0] + [None] * (samples - 1)


@pytest.mark.parametrize("samples", [1, 2])
async def test_completion_stream_joins_to_the_whole(worker: RunningWorker, samples: int) -> None:
    worker.scheduler.script = answer_with(worker.ids(TEXT), chunk_size=2)
    arguments = {"echo": True, "logprobs": 2, "n": samples, "stop": " end"}
    whole = (await complete(worker, **arguments)).choices
    joined: dict[int, dict[str, list[Any]]] = {index: {} for index in range(samples)}
    async for chunk in await complete(worker, stream=True, **arguments):
        (choice,) = chunk.choices
        for name, values in choice.logprobs.model_dump().items():
            joined[choice.index].setdefault(name, []).extend(values)
    assert joined == {choice.index: choice.logprobs.model_dump() for choice in whole}
    assert whole[0].logprobs.tokens[-4:] == [" ", "e", "n", "d"]
    assert whole[0].logprobs.text_offset[-4:] == [len(whole[0].text)] * 4


async def test_a_prompt_is_scored_without_an_answer(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with([40], finish=FinishReason("length"))
    completion = await complete(worker, "the end", echo=True, logprobs=1, max_tokens=0)
    (choice,) = completion.choices
    assert choice.text == "".join(choice.logprobs.tokens) == "the end"
    assert choice.finish_reason == "length"
    assert completion.usage.completion_tokens == 0
    assert worker.scheduler.requests[0].sampling.max_new_tokens == 0
    bare = (await complete(worker, [5] * 512, max_tokens=0)).choices[0]
    assert (bare.text, bare.logprobs) == ("", None)


@pytest.mark.parametrize(
    ("arguments", "message", "param"),
    [
        ({"logprobs": 21}, "less than or equal to 20, not 21", "logprobs"),
        ({"logprobs": True}, "valid integer, not true", "logprobs"),
        ({"best_of": 1, "n": 2}, "at least n, which is 2, not 1", "best_of"),
        ({"best_of": 2, "stream": True}, "cannot be more than n in a stream, not 2", "best_of"),
        ({"best_of": 129}, "less than or equal to 128", "best_of"),
        ({"max_tokens": -1}, "greater than or equal to 0", "max_tokens"),
    ],
)
async def test_completions_refuse(
    worker: RunningWorker, arguments: dict[str, Any], message: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        await complete(worker, **arguments)
    assert caught.value.param == param
    assert worker.scheduler.requests == []


@pytest.mark.parametrize(
    ("arguments", "message", "param"),
    [
        ({"top_logprobs": 1}, "only to be given when logprobs is true", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "equal to 20, not 21", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "equal to 0, not -1", "top_logprobs"),
        ({"logprobs": 2}, "valid boolean, not 2", "logprobs"),
    ],
)
async def test_chat_refuses(
    worker: RunningWorker, arguments: dict[str, Any], message: str, param: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        await chat(worker, **arguments)
    assert caught.value.param == param
    assert worker.scheduler.requests == []


async def test_best_of_gives_the_likeliest_and_counts_all(worker: RunningWorker) -> None:
    # Lower ids are likelier; a longer answer is not worse for its length.
    answers = [[90, 90], [50], [60, 60, 60, 60], [40, 40]]

    def script(request: GenerateRequest) -> list[TokenChunk]:
        ids = answers[int(request.rid.rpartition("-")[2])]
        return answer_with(ids, finish=FinishReason("length"))(request)

    worker.scheduler.script = script
    completion = await complete(worker, ["a", "b"], n=3, best_of=4, echo=True, seed=1)
    decode = worker.service.tokenizer.decode
    best = [decode(answers[index]) for index in (3, 1, 2)]
    texts = [choice.text for choice in completion.choices]
    assert texts == [f"{prompt}{answer}" for prompt in "ab" for answer in best]
    assert [choice.index for choice in completion.choices] == list(range(6))
    assert {choice.logprobs for choice in completion.choices} == {None}
    assert completion.usage.completion_tokens == 2 * 9
    assert completion.usage.prompt_tokens == 2


# ===== /generate =====


async def test_generate_has_prompt_and_answer(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with([40, 41], finish=FinishReason("length"))
    answer = await generate(
        worker,
        input_ids=[7, 8, 9],
        return_logprob=True,
        logprob_start_len=0,
        top_logprobs_num=2,
        return_text_in_logprobs=True,
    )
    text = worker.service.tokenizer.decode

    def entries(places: list[tuple[int, float]]) -> list[Any]:
        return [[value, token_id, text([token_id])] for token_id, value in places]

    meta_info = answer["meta_info"]
    prompt = entries([(8, logprob_of(1, 8)), (9, logprob_of(2, 9))])
    assert meta_info["input_token_logprobs"] == [[None, 7, text([7])], *prompt]
    own = entries([(40, logprob_of(3, 40)), (41, logprob_of(4, 41))])
    assert meta_info["output_token_logprobs"] == own
    top = [entries(likeliest_at(place, 2)) for place in range(1, 5)]
    assert meta_info["input_top_logprobs"] == [None, *top[:2]]
    assert meta_info["output_top_logprobs"] == top[2:]


@pytest.mark.parametrize(
    ("start", "places"), [(None, []), (-1, []), (4, []), (0, [0, 1, 2, 3, 4]), (1, [2, 3, 4])]
)
async def test_generate_starts_after_the_place_asked_for(
    worker: RunningWorker, start: int | None, places: list[int]
) -> None:
    worker.scheduler.script = answer_with([40], finish=FinishReason("length"))
    ids = [10, 11, 12, 13, 14]
    answer = await generate(worker, input_ids=ids, return_logprob=True, logprob_start_len=start)
    meta_info = answer["meta_info"]
    shown = [
        [logprob_of(place, ids[place]) if place else None, ids[place], None] for place in places
    ]
    assert meta_info["input_token_logprobs"] == shown
    assert meta_info["output_token_logprobs"] == [[logprob_of(5, 40), 40, None]]
    assert not {"input_top_logprobs", "output_top_logprobs"} & meta_info.keys()


async def test_generate_takes_lists_one_each(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with([40], finish=FinishReason("length"))
    body = {"text": ["ab", "cd", "ef"], "return_logprob": [True, False, True]}
    answers = await generate(
        worker, **body, logprob_start_len=[0, 7, -1], top_logprobs_num=[0, 1, 1]
    )
    assert [len(each["meta_info"].get("input_token_logprobs", "-")) for each in answers] == [
        2,
        1,
        0,
    ]
    assert ["input_top_logprobs" in each["meta_info"] for each in answers] == [False, False, True]
    asked = [request.logprobs for request in worker.scheduler.requests]
    assert asked == [LogprobOptions(prompt_start=0), None, LogprobOptions(top=1)]


@pytest.mark.parametrize("stream", [False, True])
async def test_samples_of_generate_have_the_same_prompt(
    worker: RunningWorker, stream: bool
) -> None:
    worker.scheduler.script = answer_with(worker.ids(TEXT))
    body = {"text": "the", "return_logprob": True, "logprob_start_len": 0, "stream": stream}
    response = await worker.http.post("/generate", json={**body, "sampling_params": {"n": 2}})
    events = events_of(response) if stream else response.json()
    for event in events:
        first, second = event["meta_info"]["input_token_logprobs"]
        assert (first[0], second[0]) == (None, logprob_of(1, second[1]))
        assert [first[1], second[1]] == worker.ids("the")
    ended = [event for event in events if event["meta_info"]["finish_reason"]]
    counts = [len(event["meta_info"]["output_token_logprobs"]) for event in ended]
    assert counts == [len(worker.ids(TEXT)) + 1] * 2
    asked = [request.logprobs.prompt_start for request in worker.scheduler.requests]
    assert asked == ([0, 0] if stream else [0, None])


async def test_generate_streams_all_so_far(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("abc"))
    response = await worker.http.post(
        "/generate", json={"text": "hi", "return_logprob": True, "stream": True}
    )
    ids = [*worker.ids("abc"), 2]
    shown = [event["meta_info"]["output_token_logprobs"] for event in events_of(response)]
    for entries in shown:
        assert [entry[1] for entry in entries] == ids[: len(entries)]
    assert [len(entries) for entries in shown] == [1, 2, 3, 4]


async def test_a_stop_string_cuts_what_came_after_it(worker: RunningWorker) -> None:
    ids = worker.ids("abSTOPcd")
    worker.scheduler.script = answer_with(ids, chunk_size=100, finish=None)
    answer = await generate(
        worker,
        text="hi",
        return_logprob=True,
        top_logprobs_num=1,
        return_hidden_states=True,
        sampling_params={"stop": "STOP"},
    )
    meta_info = answer["meta_info"]
    assert answer["text"] == "ab"
    assert meta_info["completion_tokens"] == len("abSTOP")
    for name in ("output_token_logprobs", "output_top_logprobs", "hidden_states"):
        assert len(meta_info[name]) == len("abSTOP")


@pytest.mark.parametrize("chunk_size", [1, 2, 100])
@pytest.mark.parametrize("stream", [False, True])
async def test_hidden_states_are_the_prompts_then_one_a_token(
    worker: RunningWorker, stream: bool, chunk_size: int
) -> None:
    ids = [40, 41, 42]
    finish = FinishReason("length")
    worker.scheduler.script = answer_with(ids, chunk_size=chunk_size, finish=finish)
    body = {"input_ids": [5, 6], "return_hidden_states": True, "stream": stream}
    response = await worker.http.post("/generate", json=body)
    *earlier, last = events_of(response) if stream else [response.json()]
    assert not any("hidden_states" in event["meta_info"] for event in earlier)
    prompt, *rest = last["meta_info"]["hidden_states"]
    assert prompt == [hidden_row(0), hidden_row(1)]
    assert rest == [hidden_row(2), hidden_row(3)]


async def test_hidden_states_of_a_prompt_alone(start_worker: Any) -> None:
    worker = await start_worker(return_hidden_states=True)
    worker.scheduler.script = answer_with([40], finish=FinishReason("length"))
    answer = await generate(worker, input_ids=[5, 6], sampling_params={"max_new_tokens": 0})
    assert answer["text"] == ""
    assert answer["meta_info"]["completion_tokens"] == 0
    assert answer["meta_info"]["hidden_states"] == [[hidden_row(0), hidden_row(1)]]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("return_logprob", 1, "a boolean or a list of booleans"),
        ("return_logprob", [True, True], "2 entries for 1 prompts"),
        ("logprob_start_len", 5, "the prompt has 2 tokens; .* not 5"),
        ("logprob_start_len", 2, "not 2"),
        ("logprob_start_len", -2, "not -2"),
        ("logprob_start_len", "0", "an integer or a list of integers"),
        ("top_logprobs_num", 129, "between 0 and 128, not 129"),
        ("top_logprobs_num", -1, "between 0 and 128, not -1"),
        ("top_logprobs_num", [1, 2], "2 entries for 1 prompts"),
        ("return_text_in_logprobs", "yes", "valid boolean"),
        ("return_hidden_states", 1, "valid boolean"),
    ],
)
async def test_generate_refuses(
    worker: RunningWorker, field: str, value: Any, message: str
) -> None:
    body = {"input_ids": [5, 6], "return_logprob": True, field: value}
    response = await worker.http.post("/generate", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field)
    assert re.search(message, error["message"])
    assert worker.scheduler.requests == []
