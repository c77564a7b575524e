"""/v1/tokenize and /v1/detokenize."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import RunningWorker

CHAT = [{"role": "user", "content": "hi"}]


async def post(worker: RunningWorker, path: str, **body: Any) -> Any:
    response = await worker.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def test_text_becomes_tokens_and_text_again(worker: RunningWorker) -> None:
    answer = await post(worker, "/v1/tokenize", model="m", prompt="the é")
    ids = worker.ids("the é")
    assert answer == {"tokens": ids, "count": len(ids), "max_model_len": 512}
    assert await post(worker, "/v1/detokenize", tokens=ids) == {"text": "the é"}


@pytest.mark.parametrize("texts", [["ab", "the é", ""], ["x" * 9000], []])
async def test_lists_become_lists(worker: RunningWorker, texts: list[str]) -> None:
    answer = await post(worker, "/v1/tokenize", prompt=texts)
    assert answer["tokens"] == [worker.ids(text) for text in texts]
    assert answer["count"] == [len(worker.ids(text)) for text in texts]
    if texts:
        assert await post(worker, "/v1/detokenize", tokens=answer["tokens"]) == {"text": texts}


async def test_messages_become_the_prompt_of_their_chat(worker: RunningWorker) -> None:
    answer = await post(worker, "/v1/tokenize", messages=CHAT)
    await worker.http.post("/v1/chat/completions", json={"messages": CHAT})
    assert answer["tokens"] == worker.scheduler.requests[0].input_ids
    assert answer["count"] == len(answer["tokens"])


async def test_special_tokens_show_when_asked_for(worker: RunningWorker) -> None:
    ids = [1, *worker.ids("a")]
    assert await post(worker, "/v1/detokenize", tokens=ids) == {"text": "a"}
    answer = await post(worker, "/v1/detokenize", tokens=ids, skip_special_tokens=False)
    assert answer == {"text": "<|im_start|>a"}


@pytest.mark.parametrize(
    ("path", "body", "message", "param"),
    [
        ("/v1/tokenize", {}, "either prompt or messages", "prompt"),
        ("/v1/tokenize", {"prompt": "a", "messages": CHAT}, "either prompt or messages", "prompt"),
        ("/v1/tokenize", {"prompt": 5}, "a string or a list of strings", "prompt"),
        ("/v1/detokenize", {}, "required", "tokens"),
        ("/v1/detokenize", {"tokens": [300]}, "300 is outside the vocabulary", "tokens"),
        ("/v1/detokenize", {"tokens": [[1], [-1]]}, "-1 is outside the vocabulary", "tokens"),
        ("/v1/detokenize", {"tokens": "a"}, "a list of token ids", "tokens"),
    ],
)
async def test_wrong_body_is_refused(
    worker: RunningWorker, path: str, body: dict[str, Any], message: str, param: str
) -> None:
    response = await worker.http.post(path, json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert message in error["message"]
    assert error["param"] == param
