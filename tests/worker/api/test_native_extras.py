"""/generate: prompts as embeddings, and custom logit processors, as they go to the engine."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from worker.api import native_requests

from .conftest import RunningWorker, StartWorker
from .fake_scheduler import answer_with

HIDDEN = 4
ROWS = [[0.5, -1.0, 2, 1e-3], [3.0, 0.0, -0.25, 7.0], [0.5, -1.0, 2, 1e-3]]


@pytest.fixture
async def worker(start_worker: StartWorker) -> RunningWorker:
    worker = await start_worker(
        ready={"hidden_size": HIDDEN, "context_length": 32}, enable_custom_logit_processor=True
    )
    worker.scheduler.script = answer_with([40])
    return worker


async def refusal(worker: RunningWorker, body: dict[str, Any] | bytes) -> dict[str, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await worker.http.post("/generate", content=content)
    assert response.status_code == 400, response.text
    return response.json()["error"]


# ===== input_embeds =====


async def test_embeddings_reach_the_engine_as_float32_rows(worker: RunningWorker) -> None:
    response = await worker.http.post("/generate", json={"input_embeds": ROWS})
    assert response.json()["meta_info"]["prompt_tokens"] == 3
    (request,) = worker.scheduler.requests
    assert len(request.input_ids) == 3
    assert request.input_embeds is not None
    rows = np.frombuffer(request.input_embeds.rows, dtype=np.float32).reshape(3, HIDDEN)
    assert (rows == np.array(ROWS, dtype=np.float32)).all()
    digests = request.input_embeds.digests
    first, second, third = (digests[start : start + 16] for start in (0, 16, 32))
    assert first == third != second


async def test_a_list_of_embeddings_is_answered_with_a_list(worker: RunningWorker) -> None:
    body = {"input_embeds": [ROWS[:2], ROWS[:1]], "sampling_params": {"n": 2}, "text": None}
    answers = (await worker.http.post("/generate", json=body)).json()
    assert [answer["meta_info"]["prompt_tokens"] for answer in answers] == [2, 2, 1, 1]
    alone = (await worker.http.post("/generate", json={"input_embeds": [ROWS]})).json()
    assert isinstance(alone, list)


@pytest.mark.parametrize(
    ("embeds", "message"),
    [
        ([[1.0, 2.0]], "row 0 has 2 numbers, and the model's hidden size is 4"),
        ([[1, 2, 3, 4], [1, 2, 3, "4"]], "Expected `float`, got `str`"),
        ([[1, 2, 3, 4], [1, 2, 3, 1e39]], "row 1 has a number that is not finite"),
        ([[ROWS], [ROWS]], "Expected `float`, got `array`"),
        ([ROWS, 5], "Expected `array`, got `int`"),
        ([], "has no tokens"),
        ([[]], "row 0 has 0 numbers"),
        (5, "Expected `array`, got `int`"),
        ("[[1, 2, 3, 4]]", "Expected `array`, got `str`"),
    ],
)
async def test_what_is_no_array_of_numbers_is_refused(
    worker: RunningWorker, embeds: Any, message: str
) -> None:
    error = await refusal(worker, {"input_embeds": embeds})
    assert message in error["message"]
    assert (error["param"], error["code"]) == ("input_embeds", "invalid_value")


async def test_embeddings_and_the_rest_of_the_body_are_both_checked(worker: RunningWorker) -> None:
    error = await refusal(worker, {"input_embeds": ROWS, "sampling_params": {"top_p": 2}})
    assert error["param"] == "sampling_params.top_p"
    error = await refusal(worker, {"input_embeds": ROWS, "text": "a"})
    assert "Give either" in error["message"]
    error = await refusal(worker, b'{"input_embeds": [[1, 2, 3, NaN]]}')
    assert error["code"] == "invalid_json"
    error = await refusal(worker, {"input_embeds": ROWS * 11})
    assert (error["param"], error["code"]) == ("input_embeds", "context_length_exceeded")
    error = await refusal(
        worker, {"input_embeds": ROWS, "return_logprob": True, "logprob_start_len": 0}
    )
    assert error["param"] == "logprob_start_len"
    session = (await worker.http.post("/open_session", json={"capacity_of_str_len": 9})).json()
    error = await refusal(worker, {"input_embeds": ROWS, "session_params": {"id": session}})
    assert error["param"] == "input_embeds"
    assert worker.scheduler.requests == []


async def test_embeddings_that_are_too_long_can_lose_their_beginning(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(
        ready={"hidden_size": 1, "context_length": 8}, allow_auto_truncate=True
    )
    worker.scheduler.script = answer_with([40])
    body = {"input_embeds": [[float(i)] for i in range(20)], "sampling_params": {"top_k": 1}}
    assert (await worker.http.post("/generate", json=body)).status_code == 200
    (request,) = worker.scheduler.requests
    assert request.input_embeds is not None
    rows = np.frombuffer(request.input_embeds.rows, dtype=np.float32).tolist()
    assert rows == [16.0, 17.0, 18.0, 19.0]
    assert len(request.input_ids) == len(request.input_embeds) == 4


async def test_samples_of_embeddings_are_bounded_by_what_the_engine_would_be_sent(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_requests, "MAX_BODY_BYTES", 100)
    body = {"input_embeds": ROWS, "sampling_params": {"n": 2}}
    assert (await worker.http.post("/generate", json=body)).status_code == 200
    body["sampling_params"] = {"n": 3}
    assert "144 bytes" in (await refusal(worker, body))["message"]


# ===== custom logit processors =====


async def test_processors_and_their_parameters_reach_the_engine(worker: RunningWorker) -> None:
    params = {"token_id": 5, "deep": [{"a": None}, 1.5, "é"]}
    body = {
        "text": ["a", "b"],
        "custom_logit_processor": ["code", None],
        "sampling_params": {"custom_params": params},
    }
    assert (await worker.http.post("/generate", json=body)).status_code == 200
    body["custom_logit_processor"] = "code"
    assert (await worker.http.post("/generate", json=body)).status_code == 200
    requests = worker.scheduler.requests
    assert [each.custom_logit_processor for each in requests] == ["code", None, "code", "code"]
    assert [each.sampling.custom_params for each in requests] == [params] * 4


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"custom_logit_processor": 5}, "custom_logit_processor"),
        ({"custom_logit_processor": ["a", "b"]}, "custom_logit_processor"),
        ({"custom_logit_processor": [{}]}, "custom_logit_processor"),
        ({"sampling_params": {"custom_params": {"a": 1}}}, "sampling_params.custom_params"),
        ({"sampling_params": {"custom_params": [1]}}, "sampling_params.custom_params"),
        (
            {"custom_logit_processor": "c", "sampling_params": {"custom_params": {"a": 2**70}}},
            "sampling_params.custom_params",
        ),
    ],
)
async def test_wrong_processors_and_parameters_are_refused(
    worker: RunningWorker, body: dict[str, Any], param: str
) -> None:
    assert (await refusal(worker, {"text": "a", **body}))["param"] == param


async def test_processors_are_refused_unless_the_operator_allows_them(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker()
    worker.scheduler.script = answer_with([40])
    for processor in ("code", ["code"]):
        text = ["a"] if isinstance(processor, list) else "a"
        error = await refusal(worker, {"text": text, "custom_logit_processor": processor})
        assert error["param"] == "custom_logit_processor"
        assert "--enable-custom-logit-processor" in error["message"]
    nothing = {"text": ["a"], "custom_logit_processor": [None]}
    assert (await worker.http.post("/generate", json=nothing)).status_code == 200
