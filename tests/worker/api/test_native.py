"""POST /generate."""

from __future__ import annotations

import itertools
import json
from typing import Any

import httpx
import pytest

from worker.messages import FinishReason

from .conftest import RunningWorker, StartWorker
from .fake_scheduler import answer_with


def events_of(response: httpx.Response) -> list[Any]:
    """The JSON of each event before [DONE], which must come last."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_answer_has_text_and_meta_info(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("the café"), cached_tokens=3)
    response = await worker.http.post("/generate", json={"text": "hi there", "rid": "mine"})
    assert response.status_code == 200
    answer = response.json()
    assert answer["text"] == "the café"
    meta_info = answer["meta_info"]
    assert meta_info.pop("e2e_latency") > 0
    assert meta_info == {
        "id": "mine",
        "prompt_tokens": len(worker.ids("hi there")),
        "completion_tokens": len(worker.ids("the café")) + 1,
        "cached_tokens": 3,
        "finish_reason": {"type": "stop", "matched": 2},
    }


async def test_put_works_as_post_does(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("ok"))
    response = await worker.http.put("/generate", json={"text": "hi"})
    assert response.json()["text"] == "ok"


async def test_sampling_parameters_reach_the_engine(worker: RunningWorker) -> None:
    sampling = {
        "max_new_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "seed": -3,
        "stop_token_ids": [11, 12],
        "ignore_eos": True,
    }
    await worker.http.post("/generate", json={"input_ids": [5, 6], "sampling_params": sampling})
    request = worker.scheduler.requests[0]
    assert request.input_ids == [5, 6]
    sent = request.sampling
    assert (sent.max_new_tokens, sent.temperature, sent.top_p, sent.top_k) == (7, 0.5, 0.9, 5)
    assert (sent.min_p, sent.seed, sent.stop_token_ids, sent.ignore_eos) == (
        0.1,
        -3,
        (11, 12),
        True,
    )
    assert request.stream_interval == 0


async def test_defaults_are_those_of_the_reference(worker: RunningWorker) -> None:
    await worker.http.post("/generate", json={"text": "hi"})
    sent = worker.scheduler.requests[0].sampling
    assert (sent.max_new_tokens, sent.temperature, sent.top_p) == (128, 1.0, 1.0)
    assert (sent.top_k, sent.min_p, sent.seed) == (-1, 0.0, None)


async def test_list_of_prompts_gives_a_list_in_order(worker: RunningWorker) -> None:
    worker.scheduler.script = lambda request: answer_with(request.input_ids)(request)
    body = {
        "text": ["one", "two", "three"],
        "sampling_params": [{"max_new_tokens": 1}, {}, {"max_new_tokens": 2}],
        "rid": ["a", "b", "c"],
    }
    answers = (await worker.http.post("/generate", json=body)).json()
    assert [answer["text"] for answer in answers] == ["o", "two", "th"]
    assert [answer["meta_info"]["id"] for answer in answers] == ["a", "b", "c"]
    reasons = [answer["meta_info"]["finish_reason"] for answer in answers]
    assert reasons[0] == {"type": "length", "length": 1}
    assert reasons[1]["type"] == "stop"


async def test_list_of_one_gives_a_list(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("x"))
    for body in ({"text": ["one"]}, {"input_ids": [[5]]}):
        answers = (await worker.http.post("/generate", json=body)).json()
        assert [answer["text"] for answer in answers] == ["x"]


async def test_stream_has_the_text_so_far_and_never_half_a_character(worker: RunningWorker) -> None:
    text = "in é 😀 the 日本"
    worker.scheduler.script = answer_with(worker.ids(text))
    response = await worker.http.post("/generate", json={"text": "hi", "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    texts = [event["text"] for event in events_of(response)]
    assert texts[-1] == text
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert not any("\ufffd" in each for each in texts)
    assert len(texts) > 5
    assert worker.scheduler.requests[0].stream_interval == 1


async def test_stream_of_a_list_says_which_prompt_each_event_is_for(worker: RunningWorker) -> None:
    worker.scheduler.script = lambda request: answer_with(request.input_ids)(request)
    response = await worker.http.post("/generate", json={"text": ["ab", "cd"], "stream": True})
    last = {event["index"]: event for event in events_of(response)}
    assert {index: event["text"] for index, event in last.items()} == {0: "ab", 1: "cd"}
    assert all(event["meta_info"]["finish_reason"] for event in last.values())


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
@pytest.mark.parametrize("stream", [False, True])
async def test_stop_string_split_over_tokens_ends_the_answer(
    worker: RunningWorker, chunk_size: int, stream: bool
) -> None:
    ids = worker.ids("say STO and STOP here and more")
    worker.scheduler.script = answer_with(ids, chunk_size=chunk_size, finish=None)
    body = {"text": "hi", "stream": stream, "sampling_params": {"stop": ["STOP", "never"]}}
    response = await worker.http.post("/generate", json=body)
    if stream:
        events = events_of(response)
        assert not any("STOP" in event["text"] for event in events)
        answer = events[-1]
    else:
        answer = response.json()
    assert answer["text"] == "say STO and "
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": "STOP"}
    assert answer["meta_info"]["completion_tokens"] == len(worker.ids("say STO and STOP"))
    assert worker.scheduler.aborted == [answer["meta_info"]["id"]]


async def test_text_that_could_begin_a_stop_string_goes_out_at_the_end(
    worker: RunningWorker,
) -> None:
    worker.scheduler.script = answer_with(worker.ids("almost STO"))
    body = {"text": "hi", "sampling_params": {"stop": "STOP"}}
    answer = (await worker.http.post("/generate", json=body)).json()
    assert answer["text"] == "almost STO"
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": 2}


async def test_stop_token_is_counted_and_not_part_of_the_text(worker: RunningWorker) -> None:
    (dot,) = worker.ids(".")
    finish = FinishReason("stop", matched=dot)
    worker.scheduler.script = answer_with(worker.ids("end"), finish=finish)
    answer = (await worker.http.post("/generate", json={"text": "hi"})).json()
    assert answer["text"] == "end"
    assert answer["meta_info"]["completion_tokens"] == len(worker.ids("end")) + 1


async def test_special_tokens_show_only_when_asked_for(worker: RunningWorker) -> None:
    script = answer_with([1, *worker.ids("a")], finish=FinishReason("length"))
    worker.scheduler.script = script
    for skip, expected in ((True, "a"), (False, "<|im_start|>a")):
        body = {"text": "hi", "sampling_params": {"skip_special_tokens": skip}}
        assert (await worker.http.post("/generate", json=body)).json()["text"] == expected


async def test_answer_is_cut_to_what_the_context_leaves(worker: RunningWorker) -> None:
    body = {"input_ids": [5] * 500, "sampling_params": {"max_new_tokens": 100}}
    assert (await worker.http.post("/generate", json=body)).status_code == 200
    assert worker.scheduler.requests[0].sampling.max_new_tokens == 12


async def test_long_prompt_is_cut_to_its_end_when_allowed(start_worker: StartWorker) -> None:
    worker = await start_worker(allow_auto_truncate=True)
    ids = [index % 250 for index in range(1000)]
    body = {"input_ids": ids, "sampling_params": {"max_new_tokens": 12}}
    assert (await worker.http.post("/generate", json=body)).status_code == 200
    assert worker.scheduler.requests[0].input_ids == ids[-500:]
    assert worker.scheduler.requests[0].sampling.max_new_tokens == 12


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({}, "either text, input_ids or input_embeds", "text"),
        ({"text": "a", "input_ids": [5]}, "either text, input_ids or input_embeds", "text"),
        ({"text": ""}, "the prompt has no tokens", "text"),
        ({"text": ["a", ""]}, "the prompt has no tokens", "text"),
        ({"input_ids": []}, "the prompt has no tokens", "input_ids"),
        ({"text": []}, "list of prompts is empty", "text"),
        ({"text": 5}, "must be a string or a list of strings, not 5", "text"),
        ({"text": "hi", "rid": ["a" * 257]}, "of at most 256 characters", "rid"),
        ({"input_ids": [5, "a"]}, "a list of token ids or a list of such lists", "input_ids"),
        ({"input_ids": [5, 300]}, "300 is outside the vocabulary of 300", "input_ids"),
        ({"input_ids": [[5], [-1]]}, "-1 is outside the vocabulary", "input_ids"),
        ({"text": "a", "nonsense": 1}, "Unknown field: 'nonsense'", "nonsense"),
        ({"text": "a", "stream": "yes"}, 'valid boolean, not "yes"', "stream"),
        ({"text": "a", "rid": ["x", "y"]}, "2 entries for 1 prompts", "rid"),
        ({"text": ["a", "b"], "rid": "x"}, "must be a list", "rid"),
        ({"text": ["a", "b"], "rid": ["x", "x"]}, "a rid of its own", "rid"),
        ({"text": ["a", "b"], "sampling_params": [{}]}, "1 entries for 2", "sampling_params"),
        (
            {"text": ["a", "b"], "sampling_params": [{"n": 2}, {}]},
            "n must be the same for all prompts",
            "sampling_params",
        ),
        ({"text": "a", "image_data": "x.png"}, '"x.png" is not supported', "image_data"),
        ({"text": "a", "lora_path": "x"}, '"x" is not supported', "lora_path"),
    ],
)
async def test_wrong_body_is_refused(
    worker: RunningWorker, body: dict[str, Any], message: str, param: str
) -> None:
    response = await worker.http.post("/generate", json=body)
    error = response.json()["error"]
    assert response.status_code == 400
    assert message in error["message"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert error["code"] in ("invalid_value", "unknown_parameter")
    assert worker.scheduler.requests == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", 0),
        ("top_k", -2),
        ("top_k", 1.5),
        ("top_k", 2**64),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("max_new_tokens", -1),
        ("max_new_tokens", 2**40),
        ("seed", 2**63),
        ("stop", ""),
        ("stop", [""]),
        ("stop", 5),
        ("stop", "x" * 2000),
        ("stop_token_ids", ["a"]),
        ("stop_token_ids", [-1]),
        ("stop_token_ids", [300]),
        ("stop_token_ids", [5] * 1025),
        ("n", 0),
        ("n", 129),
        ("min_new_tokens", -1),
        ("min_new_tokens", 129),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", 2.5),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", {"300": 1}),
        ("json_schema", "{"),
        ("json_schema", {}),
        ("structural_tag", "["),
        ("structural_tag", {}),
        ("regex", 5),
        ("ebnf", ["a"]),
        ("nonsense", 1),
    ],
)
async def test_wrong_sampling_parameter_is_refused(
    worker: RunningWorker, field: str, value: Any
) -> None:
    body = {"text": "a", "sampling_params": {field: value}}
    response = await worker.http.post("/generate", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"].startswith(f"sampling_params.{field}")
    assert error["param"] in error["message"]
    if field not in ("nonsense", "stop", "stop_token_ids", "logit_bias"):
        assert json.dumps(value) in error["message"]
    assert worker.scheduler.requests == []


async def test_penalties_reach_the_engine(worker: RunningWorker) -> None:
    penalties = {"frequency_penalty": 0.5, "presence_penalty": -1, "repetition_penalty": 1.1}
    wanted = {**penalties, "min_new_tokens": 3, "logit_bias": {"7": -100, "12": 0.5}}
    body = {"text": "a", "sampling_params": wanted}
    assert (await worker.http.post("/generate", json=body)).status_code == 200
    sent = worker.scheduler.requests[0].sampling
    assert {name: getattr(sent, name) for name in penalties} == penalties
    assert sent.min_new_tokens == 3
    assert sent.logit_bias == ((7, -100.0), (12, 0.5))


async def test_neutral_values_of_what_is_not_supported_are_taken(worker: RunningWorker) -> None:
    body = {
        "text": "a",
        "return_logprob": False,
        "logprob_start_len": -1,
        "top_logprobs_num": 0,
        "lora_path": None,
        "log_metrics": False,
        "sampling_params": {
            "n": 1,
            "min_new_tokens": 0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0,
            "repetition_penalty": None,
            "logit_bias": {},
            "spaces_between_special_tokens": False,
            "regex": None,
            "stop": None,
            "stop_token_ids": None,
        },
    }
    assert (await worker.http.post("/generate", json=body)).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"[]",
        b'"text"',
        b'{"text": "a"',
        b'{"text": "\xff"}',
        b"null",
        b'{"text": "\\ud800"}',
    ],
)
async def test_broken_json_is_refused(worker: RunningWorker, content: bytes) -> None:
    response = await worker.http.post("/generate", content=content)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", None)
    assert error["code"] in ("invalid_json", "invalid_value")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_are_none_are_refused(worker: RunningWorker, value: str) -> None:
    content = '{"text": "a", "sampling_params": {"temperature": VALUE}}'.replace("VALUE", value)
    response = await worker.http.post("/generate", content=content)
    assert response.status_code == 400


async def test_prompt_longer_than_the_context_is_refused_with_numbers(
    worker: RunningWorker,
) -> None:
    response = await worker.http.post("/generate", json={"input_ids": [5] * 512})
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["code"] == "context_length_exceeded"
    assert error["message"] == (
        "The prompt has 512 tokens, but prompt and answer together can have at most 512 tokens "
        "(the context of the model)"
    )


async def test_prompt_that_the_kv_cache_cannot_hold_is_refused(start_worker: StartWorker) -> None:
    worker = await start_worker(ready={"max_total_tokens": 64})
    assert (await worker.http.post("/generate", json={"input_ids": [5] * 63})).status_code == 200
    response = await worker.http.post("/generate", json={"input_ids": [5] * 64})
    assert response.status_code == 400
    assert "the KV cache of this worker" in response.json()["error"]["message"]


async def test_rid_of_a_running_request_is_refused(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("a"), finish=None)
    body = {"text": "hi", "rid": "same", "stream": True}
    async with worker.http.stream("POST", "/generate", json=body) as first:
        await anext(first.aiter_lines())
        response = await worker.http.post("/generate", json={"text": "hi", "rid": "same"})
        assert response.status_code == 400
        assert "'same' is running" in response.json()["error"]["message"]
