"""/v1/rerank and /v1/score: documents and pairs on models that embed, classify or generate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from worker.messages import FinishReason, TokenChunk, TokenLogprobs

from .conftest import RunningWorker, StartWorker
from .embedding_models import (
    CAR,
    CAT,
    CLASSIFIES,
    CLS,
    CROSS_ENCODER,
    DOG,
    REWARDS,
    SEP,
    THE,
    animals,
)
from .fake_scheduler import embed_with
from .test_control import assert_error

DOCUMENTS = ["the car", "cat cat dog", {"text": "the cat"}, "the car"]


def cosine(first: list[int], second: list[int]) -> float:
    points = [
        np.array([ids.count(each) for each in (CAT, DOG, CAR)] + [0.1]) for ids in (first, second)
    ]
    return float(points[0] @ points[1] / np.linalg.norm(points[0]) / np.linalg.norm(points[1]))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


async def post(worker: RunningWorker, path: str, **body: Any) -> Any:
    response = await worker.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


# ===== /v1/rerank =====


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
async def test_documents_stand_in_the_order_of_their_cosines(
    embeds: RunningWorker, path: str
) -> None:
    answer = await post(embeds, path, model="any", query="the cat", documents=DOCUMENTS)
    assert answer["id"].startswith("rerank-")
    assert answer["model"] == "any"
    assert [each["index"] for each in answer["results"]] == [2, 1, 0, 3]
    texts = [each["document"] for each in answer["results"]]
    expected = ["the cat", "cat cat dog", "the car", "the car"]
    assert texts == [{"text": text} for text in expected]
    scores = [each["relevance_score"] for each in answer["results"]]
    far = cosine([CAT], [CAR])
    assert scores == pytest.approx([1, cosine([CAT], [CAT, CAT, DOG]), far, far], abs=1e-6)
    assert len(embeds.scheduler.texts) == 3  # a text that comes twice is computed once
    assert answer["usage"] == {"prompt_tokens": 4 + 4 + 5, "total_tokens": 13}


async def test_as_many_documents_come_back_as_asked_for(embeds: RunningWorker) -> None:
    body = {"query": "cat", "documents": DOCUMENTS, "return_documents": False}
    results = (await post(embeds, "/v1/rerank", **body, top_n=2))["results"]
    assert [each.keys() for each in results] == [{"index", "relevance_score"}] * 2
    assert len((await post(embeds, "/v1/rerank", **body, top_n=9))["results"]) == 4


async def test_a_cross_encoder_reads_pairs(start_embedding: StartWorker) -> None:
    worker = await start_embedding(CROSS_ENCODER)
    logits = {CAT: 2.0, DOG: -100.0, CAR: 800.0}
    worker.scheduler.embed_script = embed_with(lambda request: [logits[request.input_ids[-2]]])
    body = {"query": "the cat", "documents": ["dog", "the cat", "car"]}
    answer = await post(worker, "/v1/rerank", **body)
    scores = {each["index"]: each["relevance_score"] for each in answer["results"]}
    assert list(scores) == [2, 1, 0]
    assert [scores[i] for i in range(3)] == pytest.approx([sigmoid(-100), sigmoid(2), 1], rel=1e-6)
    first, second, _ = worker.scheduler.texts
    assert first.input_ids == [CLS, THE, CAT, SEP, DOG, SEP]
    assert first.token_type_ids == [0, 0, 0, 0, 1, 1]
    assert second.token_type_ids == [0, 0, 0, 0, 1, 1, 1]
    assert answer["usage"]["prompt_tokens"] == 6 + 7 + 6


async def test_a_reward_model_reads_the_pair_as_one_text(start_embedding: StartWorker) -> None:
    worker = await start_embedding(REWARDS)
    worker.scheduler.embed_script = embed_with(lambda request: [0.5])
    answer = await post(worker, "/v1/score", text_1="cat", text_2="dog")
    assert answer["data"][0]["score"] == pytest.approx(sigmoid(0.5))
    (request,) = worker.scheduler.texts
    assert request.input_ids == [CLS, CAT, SEP, DOG, SEP]
    assert request.token_type_ids is None


async def test_several_scores_for_a_text_rank_nothing(start_embedding: StartWorker) -> None:
    worker = await start_embedding(CLASSIFIES)
    for path, body in (
        ("/v1/rerank", {"query": "cat", "documents": ["dog"]}),
        ("/v1/score", {"text_1": "cat", "text_2": "dog"}),
    ):
        response = await worker.http.post(path, json=body)
        assert_error(response, 400, "invalid_request_error", "unsupported_model")
        assert "3 scores" in response.json()["error"]["message"]
    assert worker.scheduler.texts == []


async def test_a_pair_that_is_too_long_is_cut_where_that_is_allowed(
    start_embedding: StartWorker,
) -> None:
    arguments: dict[str, Any] = {"ready": {"context_length": 8}}
    body = {"query": "the cat", "documents": ["car", "dog dog dog dog dog dog"]}
    refuses = await start_embedding(CROSS_ENCODER, **arguments)
    response = await refuses.http.post("/v1/rerank", json=body)
    assert_error(response, 400, "invalid_request_error", "context_length_exceeded")
    assert response.json()["error"]["param"] == "documents[1]"
    cuts = await start_embedding(CROSS_ENCODER, **arguments, allow_auto_truncate=True)
    cuts.scheduler.embed_script = embed_with(lambda request: [0.0])
    await post(cuts, "/v1/rerank", **body)
    assert cuts.scheduler.texts[1].input_ids == [CLS, THE, CAT, SEP, DOG, DOG, DOG, SEP]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"query": "cat"}, "documents"),
        ({"documents": ["cat"]}, "query"),
        ({"query": "cat", "documents": []}, "documents"),
        ({"query": "cat", "documents": "dog"}, "documents"),
        ({"query": "cat", "documents": [5]}, "documents[0]"),
        ({"query": "cat", "documents": ["a", {"title": "b"}]}, "documents[1].title"),
        ({"query": ["cat"], "documents": ["dog"]}, "query"),
        ({"query": "cat", "documents": ["dog"], "top_n": 0}, "top_n"),
        ({"query": "cat", "documents": ["dog"] * 2049}, "documents"),
        ({"query": "cat", "documents": ["dog"], "max_chunks_per_doc": 1}, "max_chunks_per_doc"),
    ],
)
async def test_wrong_rankings_are_refused(embeds: RunningWorker, body: Any, param: str) -> None:
    response = await embeds.http.post("/v1/rerank", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert embeds.scheduler.texts == []


# ===== /v1/score of pairs =====


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
@pytest.mark.parametrize(
    ("text_1", "text_2", "pairs"),
    [
        ("cat", "dog", [([CAT], [DOG])]),
        ("cat", ["dog", "cat"], [([CAT], [DOG]), ([CAT], [CAT])]),
        (["cat"], ["dog", "cat"], [([CAT], [DOG]), ([CAT], [CAT])]),
        (["cat", "car"], ["cat dog", "dog"], [([CAT], [CAT, DOG]), ([CAR], [DOG])]),
    ],
)
async def test_pairs_are_scored_in_their_order(
    embeds: RunningWorker, path: str, text_1: Any, text_2: Any, pairs: Any
) -> None:
    answer = await post(embeds, path, model="any", text_1=text_1, text_2=text_2)
    assert (answer["object"], answer["model"]) == ("list", "any")
    assert [each["index"] for each in answer["data"]] == list(range(len(pairs)))
    assert {each["object"] for each in answer["data"]} == {"score"}
    scores = [each["score"] for each in answer["data"]]
    assert scores == pytest.approx([cosine(*pair) for pair in pairs], abs=1e-6)
    usage = answer["usage"]
    assert usage["total_tokens"] == sum(len(each.input_ids) for each in embeds.scheduler.texts)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"text_1": "a"}, "text_2", "required"),
        ({"text_1": ["a", "b"], "text_2": ["c", "d", "e"]}, "text_1", "2 entries and text_2 3"),
        ({"text_1": ["a", "b"], "text_2": "c"}, "text_1", "2 entries and text_2 1"),
        ({"text_1": [], "text_2": []}, "text_1", "1 to 2048"),
        ({"text_1": 5, "text_2": "c"}, "text_1", "a string or a list"),
        ({"query": "a", "items": ["b"], "label_token_ids": [5]}, "query", "give text_1 and text_2"),
        ({"text_1": "a", "text_2": "b", "apply_softmax": False}, "apply_softmax", "generate text"),
    ],
)
async def test_wrong_pairs_are_refused(
    embeds: RunningWorker, body: Any, param: str, message: str
) -> None:
    response = await embeds.http.post("/v1/score", json=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert message in error["message"]


async def test_a_text_too_long_is_named(embeds: RunningWorker) -> None:
    body = {"text_1": "cat", "text_2": ["dog", "dog " * 600]}
    response = await embeds.http.post("/v1/score", json=body)
    assert_error(response, 400, "invalid_request_error", "context_length_exceeded")
    assert response.json()["error"]["param"] == "text_2[1]"


async def test_points_of_any_length_have_a_cosine(start_embedding: StartWorker) -> None:
    worker = await start_embedding()
    lengths = {CAT: 1000.0, DOG: 0.001, CAR: 0.0}
    worker.scheduler.embed_script = embed_with(
        lambda request: [lengths[request.input_ids[1]] * each for each in animals(request)]
    )
    answer = await post(worker, "/v1/score", text_1="cat", text_2=["cat cat", "dog", "car"])
    scores = [each["score"] for each in answer["data"]]
    expected = [cosine([CAT], [CAT, CAT]), cosine([CAT], [DOG]), 0]
    assert scores == pytest.approx(expected, abs=1e-6)


# ===== /v1/score of labels =====


def label_script(worker: RunningWorker, *rows: list[float]) -> None:
    """Answer the requests with these log-probabilities of the labels, one row each."""
    left = list(rows)

    def script(request: Any) -> list[TokenChunk]:
        logprobs = TokenLogprobs([-0.5], wanted=[left.pop(0)])
        length = FinishReason("length")
        return [TokenChunk(request.rid, [9], 0, length, logprobs=logprobs)]

    worker.scheduler.script = script


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
async def test_labels_are_scored_by_their_probability(worker: RunningWorker, path: str) -> None:
    label_script(worker, [math.log(0.5), math.log(0.25)], [math.log(0.1), -200.0])
    body = {"query": "is it", "items": [" the", " in"], "label_token_ids": [7, 8]}
    answer = await post(worker, path, model="any", **body)
    assert (answer["object"], answer["model"]) == ("scoring", "any")
    first, second = answer["scores"]
    assert first == pytest.approx([0.5, 0.25])
    assert second == pytest.approx([0.1, 0], abs=1e-12)
    one, two = worker.scheduler.requests
    assert one.input_ids == worker.ids("is it the")
    assert two.input_ids == worker.ids("is it in")
    assert one.logprobs is not None
    assert one.logprobs.token_ids == (7, 8)
    assert one.sampling.max_new_tokens == 1
    tokens = len(one.input_ids) + len(two.input_ids)
    usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    assert answer["usage"] == usage


async def test_labels_may_share_one_probability(worker: RunningWorker) -> None:
    label_script(worker, [math.log(0.03), math.log(0.01)], [-900.0, -900.0])
    body = {"query": [5], "items": [[6, 7], [8]], "label_token_ids": [7, 8]}
    answer = await post(worker, "/v1/score", **body, apply_softmax=True, item_first=True)
    first, second = answer["scores"]
    assert first == pytest.approx([0.75, 0.25])
    assert second == [0.5, 0.5]
    assert [request.input_ids for request in worker.scheduler.requests] == [[6, 7, 5], [8, 5]]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"query": [5]}, "items"),
        ({"items": [[5]]}, "items"),
        ({"items": []}, "items"),
        ({"items": None}, "items"),
        ({"label_token_ids": []}, "label_token_ids"),
        ({"label_token_ids": [300]}, "label_token_ids"),
        ({"label_token_ids": [-1]}, "label_token_ids[0]"),
        ({"items": ["a", "b" * 600]}, "items[1]"),
        ({"text_1": "a"}, "text_1"),
        ({"logprobs": True}, "logprobs"),
    ],
)
async def test_wrong_labels_are_refused(
    worker: RunningWorker, change: dict[str, Any], param: str
) -> None:
    body = {"query": "is it", "items": "a", "label_token_ids": [5], **change}
    response = await worker.http.post("/v1/score", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert worker.scheduler.requests == []


async def test_a_prompt_that_the_engine_gives_up_is_an_error(worker: RunningWorker) -> None:
    body = {"query": "is it", "items": ["a", "b"], "label_token_ids": [5]}
    for status, expected in ((503, 503), (200, 400)):
        end = FinishReason("abort", message="No more", status=status)
        worker.scheduler.script = lambda request, end=end: [TokenChunk(request.rid, [], 0, end)]
        response = await worker.http.post("/v1/score", json=body)
        assert response.status_code == expected
        assert response.json()["error"]["message"] == "No more"
    assert (await worker.http.get("/get_load")).json() == {"load": 0}
