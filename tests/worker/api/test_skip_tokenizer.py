"""A worker under --skip-tokenizer-init: token ids in, token ids out, and no text."""

from __future__ import annotations

from typing import Any

import pytest

from worker.messages import FinishReason

from .conftest import RunningWorker, StartWorker
from .fake_scheduler import answer_with
from .test_native import events_of

CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def tokens_only(start_worker: StartWorker) -> RunningWorker:
    worker = await start_worker(skip_tokenizer_init=True, tokenizer=None, log_requests=True)
    worker.scheduler.script = answer_with([40, 41, 42])
    return worker


async def test_tokens_come_in_and_go_out(tokens_only: RunningWorker) -> None:
    body: dict[str, Any] = {"input_ids": [5, 6], "sampling_params": {"stop_token_ids": [2]}}
    answer = (await tokens_only.http.post("/generate", json=body)).json()
    assert answer["token_ids"] == [40, 41, 42, 2]
    assert answer["meta_info"]["completion_tokens"] == 4
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": 2}
    assert "text" not in answer
    body["input_ids"] = [[5, 6], [7]]
    answers = (await tokens_only.http.post("/generate", json=body)).json()
    assert [each["token_ids"] for each in answers] == [[40, 41, 42, 2]] * 2


async def test_a_stream_has_all_tokens_so_far(tokens_only: RunningWorker) -> None:
    body = {"input_ids": [5, 6], "return_logprob": True, "stream": True}
    events = events_of(await tokens_only.http.post("/generate", json=body))
    ids = [40, 41, 42, 2]
    assert [event["token_ids"] for event in events] == [ids[:count] for count in range(1, 5)]
    for event in events:
        entries = event["meta_info"]["output_token_logprobs"]
        assert [(token, text) for _, token, text in entries] == [
            (token, None) for token in event["token_ids"]
        ]
    assert events[-1]["meta_info"]["finish_reason"] == {"type": "stop", "matched": 2}


async def test_a_prompt_alone_has_no_tokens(tokens_only: RunningWorker) -> None:
    tokens_only.scheduler.script = answer_with([40], finish=FinishReason("length"))
    body = {"input_ids": [5, 6], "sampling_params": {"max_new_tokens": 0}}
    answer = (await tokens_only.http.post("/generate", json=body)).json()
    assert answer["token_ids"] == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/generate", {"text": "hi"}, None),
        ("/generate", {"input_ids": [5], "return_text_in_logprobs": True}, None),
        (
            "/generate",
            {"input_ids": [5], "sampling_params": {"stop": "x"}},
            "sampling_params.stop",
        ),
        ("/v1/chat/completions", {"messages": CHAT}, None),
        ("/v1/chat/completions", {"messages": CHAT, "stream": True}, None),
        ("/v1/completions", {"prompt": "hi"}, None),
        ("/v1/completions", {"prompt": [5]}, None),
        ("/v1/responses", {"input": "hi"}, None),
        ("/v1/tokenize", {"prompt": "hi"}, None),
        ("/v1/detokenize", {"tokens": [5]}, None),
    ],
)
async def test_text_is_refused(
    tokens_only: RunningWorker, path: str, body: dict[str, Any], param: str | None
) -> None:
    response = await tokens_only.http.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert "--skip-tokenizer-init" in error["message"]
    assert error["param"] == param
    assert tokens_only.scheduler.requests == []


async def test_health_needs_no_tokenizer(tokens_only: RunningWorker) -> None:
    assert (await tokens_only.http.get("/health_generate")).status_code == 200
