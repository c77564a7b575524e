"""/v1/embeddings through the `openai` client, /encode and /classify, on a scripted scheduler."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Any

import numpy as np
import openai
import pytest

from worker.messages import Embedding, FinishReason

from .conftest import RunningWorker, StartWorker, eventually
from .embedding_models import (
    CAT,
    CLASSIFIES,
    CLS,
    DOG,
    EMBEDS,
    REWARDS,
    SEP,
    THE,
)
from .fake_scheduler import embed_with
from .test_control import assert_error
from .test_disconnect import open_request
from .test_metrics import scrape

VALUES = [0.6, -0.8, 1e-7, 0.0]
FLOATS = [float(value) for value in np.float32(VALUES)]


async def create(worker: RunningWorker, **arguments: Any) -> Any:
    return await worker.openai().embeddings.create(model="any", **arguments)


# ===== /v1/embeddings =====


@pytest.mark.parametrize("encoding", ["float", "base64", None])
async def test_the_client_gets_the_numbers_of_the_engine(
    start_embedding: StartWorker, encoding: Any
) -> None:
    worker = await start_embedding()
    worker.scheduler.embed_script = embed_with(lambda request: VALUES)
    given = {} if encoding is None else {"encoding_format": encoding}
    answer = await create(worker, input="the cat", user="somebody", **given)
    assert (answer.object, answer.model) == ("list", "any")
    (found,) = answer.data
    assert (found.object, found.index) == ("embedding", 0)
    values = found.embedding
    if encoding == "base64":
        values = list(struct.unpack("<4f", base64.b64decode(values)))
    assert values == pytest.approx(FLOATS, rel=1e-7)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (4, 4)
    (request,) = worker.scheduler.texts
    assert request.input_ids == [CLS, THE, CAT, SEP]
    assert request.token_type_ids is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["cat", "the dog"], [[CLS, CAT, SEP], [CLS, THE, DOG, SEP]]),
        ([CAT, DOG], [[CAT, DOG]]),
        ([[CAT], [DOG, DOG]], [[CAT], [DOG, DOG]]),
    ],
)
async def test_texts_and_token_ids_are_embedded_in_their_order(
    embeds: RunningWorker, given: Any, expected: list[list[int]]
) -> None:
    answer = await create(embeds, input=given)
    assert [request.input_ids for request in embeds.scheduler.texts] == expected
    assert [each.index for each in answer.data] == list(range(len(expected)))
    largest = [int(np.argmax(each.embedding)) for each in answer.data]
    assert largest == [0, 1][: len(expected)]
    assert answer.usage.prompt_tokens == sum(map(len, expected))


async def test_answers_that_come_in_another_order_are_sorted(
    start_embedding: StartWorker,
) -> None:
    worker = await start_embedding()
    held: list[Embedding] = []

    def backwards(request: Any) -> list[Embedding]:
        held.extend(embed_with(lambda each: [len(each.input_ids), 0, 0, 0])(request))
        return held[::-1] if len(held) == 3 else []

    worker.scheduler.embed_script = backwards
    answer = await create(worker, input=[[5], [5, 6], [5, 6, 7]])
    assert [each.embedding[0] for each in answer.data] == [1, 2, 3]


async def test_numbers_are_as_short_as_float32_can_be(start_embedding: StartWorker) -> None:
    worker = await start_embedding()
    worker.scheduler.embed_script = embed_with(lambda request: [0.1, 0.2, 0.3, 0.4])
    response = await worker.http.post("/v1/embeddings", json={"input": "cat"})
    assert b'"embedding":[0.1,0.2,0.3,0.4]' in response.content


async def test_2048_texts_are_one_call_and_2049_are_too_many(embeds: RunningWorker) -> None:
    answer = await create(embeds, input=["cat"] * 2048)
    assert len(answer.data) == len(embeds.scheduler.texts) == 2048
    for path, field in (("/v1/embeddings", "input"), ("/encode", "text")):
        response = await embeds.http.post(path, json={field: ["cat"] * 2049})
        assert_error(response, 400, "invalid_request_error", "invalid_value")
        assert "1 to 2048 entries, not 2049" in response.json()["error"]["message"]


async def test_dimensions_cut_and_make_the_length_one_again(embeds: RunningWorker) -> None:
    whole = (await create(embeds, input="cat dog dog car")).data[0].embedding
    cut = (await create(embeds, input="cat dog dog car", dimensions=2)).data[0].embedding
    assert cut == pytest.approx(np.array(whole[:2]) / np.linalg.norm(whole[:2]), rel=1e-5)
    assert np.linalg.norm(cut) == pytest.approx(1)
    assert (await create(embeds, input="cat dog dog car", dimensions=4)).data[0].embedding == whole


async def test_dimensions_of_vectors_of_any_length_only_cut(
    start_embedding: StartWorker,
) -> None:
    worker = await start_embedding(type(EMBEDS)("embedding", 4))
    worker.scheduler.embed_script = embed_with(lambda request: [3.0, 4.0, 5.0, 6.0])
    assert (await create(worker, input="cat", dimensions=2)).data[0].embedding == [3, 4]


async def test_dimensions_that_cannot_be_are_refused(start_embedding: StartWorker) -> None:
    for info, dimensions, reason in (
        (EMBEDS, 5, "embeddings have 4, not 5"),
        (CLASSIFIES, 2, "classification model"),
        (EMBEDS, 0, "greater than or equal to 1"),
    ):
        worker = await start_embedding(info)
        with pytest.raises(openai.BadRequestError, match=reason) as caught:
            await create(worker, input="cat", dimensions=dimensions)
        assert caught.value.param == "dimensions"
        assert worker.scheduler.texts == []


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": ["cat", ""]}, "input", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": [[]]}, "input[0]", "invalid_value"),
        ({"input": [[5], [5, 300]]}, "input[1]", "invalid_value"),
        ({"input": [5, "cat"]}, "input", "invalid_value"),
        ({"input": {"text": "cat"}}, "input", "invalid_value"),
        ({"input": "cat", "encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"input": "cat", "truncate": True}, "truncate", "unknown_parameter"),
        ({"input": [["cat"]]}, "input", "invalid_value"),
    ],
)
async def test_wrong_bodies_are_refused(
    embeds: RunningWorker, body: Any, param: str, code: str
) -> None:
    response = await embeds.http.post("/v1/embeddings", json=body)
    assert_error(response, 400, "invalid_request_error", code)
    assert response.json()["error"]["param"] == param
    assert embeds.scheduler.texts == []


async def test_a_text_may_fill_the_context_and_no_more(embeds: RunningWorker) -> None:
    await create(embeds, input=[[5] * 512])
    response = await embeds.http.post("/v1/embeddings", json={"input": ["cat", [5]]})
    assert response.status_code == 400
    response = await embeds.http.post("/v1/embeddings", json={"input": ["cat", "cat " * 511]})
    assert_error(response, 400, "invalid_request_error", "context_length_exceeded")
    error = response.json()["error"]
    assert error["param"] == "input[1]"
    assert "513 tokens" in error["message"]
    assert "at most 512 (the context of the model)" in error["message"]


async def test_a_long_text_loses_its_end_where_that_is_allowed(
    start_embedding: StartWorker,
) -> None:
    worker = await start_embedding(allow_auto_truncate=True, ready={"context_length": 6})
    await create(worker, input="the cat dog dog dog dog dog")
    await create(worker, input=list(range(5, 15)))
    first, second = (request.input_ids for request in worker.scheduler.texts)
    assert first == [CLS, THE, CAT, DOG, DOG, SEP]
    assert second == list(range(5, 11))


async def test_usage_reports_cached_tokens_when_asked(start_embedding: StartWorker) -> None:
    worker = await start_embedding(enable_cache_report=True)
    answer = await create(worker, input=["cat", "dog"])
    assert answer.usage.prompt_tokens_details == {"cached_tokens": 2}


# ===== /encode and /classify =====


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("path", ["/encode", "/classify"])
async def test_native_routes_answer_one_text_or_a_list(
    start_embedding: StartWorker, path: str, method: str
) -> None:
    worker = await start_embedding()
    worker.scheduler.embed_script = embed_with(lambda request: VALUES)
    body = {"model": "any", "text": "the cat", "rid": "mine"}
    answer = (await worker.http.request(method, path, json=body)).json()
    assert answer["embedding"] == pytest.approx(FLOATS, rel=1e-7)
    meta_info = answer["meta_info"]
    assert meta_info.pop("e2e_latency") > 0
    reason = {"type": "length", "length": 0}
    expected = {"id": "mine", "prompt_tokens": 4, "cached_tokens": 1, "finish_reason": reason}
    assert meta_info == expected
    answers = (await worker.http.request(method, path, json={"text": ["cat"]})).json()
    assert [each["meta_info"]["prompt_tokens"] for each in answers] == [3]


async def test_native_routes_take_token_ids(embeds: RunningWorker) -> None:
    lists = {"input_ids": [[5], [5, 6, 7]], "rid": ["a", "b"]}
    answers = (await embeds.http.post("/encode", json=lists)).json()
    found = [(each["meta_info"]["id"], each["meta_info"]["prompt_tokens"]) for each in answers]
    assert found == [("a", 1), ("b", 3)]
    answer = (await embeds.http.post("/encode", json={"input_ids": [5, 6]})).json()
    assert answer["meta_info"]["prompt_tokens"] == 2
    assert [each.input_ids for each in embeds.scheduler.texts] == [[5], [5, 6, 7], [5, 6]]


async def test_scores_of_a_classification_are_raw(start_embedding: StartWorker) -> None:
    worker = await start_embedding(CLASSIFIES)
    worker.scheduler.embed_script = embed_with(lambda request: [-3.5, 0.25, 12.0])
    answer = (await worker.http.post("/classify", json={"text": "cat"})).json()
    assert answer["embedding"] == [-3.5, 0.25, 12]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text"),
        ({"text": "cat", "input_ids": [5]}, "text"),
        ({"text": ["a", "b"], "rid": ["x"]}, "rid"),
        ({"text": ["a", "b"], "rid": "x"}, "rid"),
        ({"text": ["a", "b"], "rid": ["x", "x"]}, "rid"),
        ({"text": "cat", "image_data": "x.png"}, "image_data"),
        ({"text": "cat", "sampling_params": {"temperature": 1}}, "sampling_params"),
        ({"input_ids": [[5], [400]]}, "input_ids[1]"),
    ],
)
async def test_wrong_native_bodies_are_refused(
    embeds: RunningWorker, body: Any, param: str
) -> None:
    response = await embeds.http.post("/encode", json=body)
    assert_error(response, 400, "invalid_request_error", "invalid_value")
    assert response.json()["error"]["param"] == param


async def test_without_a_tokenizer_token_ids_are_embedded(start_worker: StartWorker) -> None:
    worker = await start_worker(ready={"embedding": EMBEDS}, tokenizer=None)
    for path, field in (("/encode", "input_ids"), ("/v1/embeddings", "input")):
        assert (await worker.http.post(path, json={field: [5, 6]})).status_code == 200
    response = await worker.http.post("/encode", json={"text": "cat"})
    assert_error(response, 400, "invalid_request_error", "invalid_value")
    assert "/encode with input_ids" in response.json()["error"]["message"]


async def test_texts_are_logged_when_asked(
    start_embedding: StartWorker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for log_requests in (True, False):
        worker = await start_embedding(log_requests=log_requests)
        await worker.http.post("/encode", json={"text": "the cat", "rid": "mine"})
        lines = [each.getMessage() for each in caplog.records if "mine" in each.getMessage()]
        assert lines == ["request rid=mine tokens=4 text=' [CLS] the cat [SEP]'"]


# ===== what can happen on the way =====


@pytest.mark.parametrize(
    ("path", "body", "count"),
    [
        ("/v1/embeddings", {"input": ["cat"] * 3}, 3),
        ("/encode", {"text": "cat"}, 1),
        ("/v1/rerank", {"query": "cat", "documents": ["dog", "car"]}, 3),
        ("/v1/score", {"text_1": "cat", "text_2": "dog"}, 2),
    ],
)
async def test_a_client_that_leaves_ends_its_texts(
    embeds: RunningWorker, path: str, body: dict[str, Any], count: int
) -> None:
    scheduler = embeds.scheduler
    scheduler.embed_script = lambda request: []
    writer = await open_request(embeds, path, body)
    await eventually(lambda: len(scheduler.texts) == count, "all texts arrive")
    assert (await embeds.http.get("/get_load")).json() == {"load": count}
    writer.close()
    await eventually(lambda: len(scheduler.aborted) == count, "all texts are aborted")
    assert set(scheduler.aborted) == {request.rid for request in scheduler.texts}
    assert (await embeds.http.get("/get_load")).json() == {"load": 0}


async def test_a_text_that_the_engine_gives_up_is_an_error_of_the_call(
    embeds: RunningWorker,
) -> None:
    scheduler = embeds.scheduler
    full = FinishReason("abort", message="The queue is full", status=503)
    answer = scheduler.embed_script

    def script(request: Any) -> list[Embedding]:
        if DOG in request.input_ids:
            return [Embedding(request.rid, failure=full)]
        return answer(request) if len(scheduler.texts) == 1 else []

    scheduler.embed_script = script
    response = await embeds.http.post("/encode", json={"text": ["cat", "dog", "car"]})
    assert_error(response, 503, "service_unavailable_error", "unavailable")
    assert "queue is full" in response.json()["error"]["message"]
    await eventually(lambda: len(scheduler.aborted) == 1, "what still runs is aborted")
    assert scheduler.aborted == [scheduler.texts[2].rid]


async def test_abort_request_ends_texts_with_an_error(embeds: RunningWorker) -> None:
    scheduler = embeds.scheduler
    scheduler.embed_script = lambda request: []
    body = {"text": ["cat", "dog"], "rid": ["mine-0", "mine-1"]}
    call = asyncio.ensure_future(embeds.http.post("/encode", json=body))
    await eventually(lambda: len(scheduler.texts) == 2, "both arrive")
    response = await embeds.http.post("/abort_request", json={"rid": "mine"})
    assert response.json() == {"aborted": 2}
    assert_error(await call, 400, "invalid_request_error", "aborted")
    await eventually(lambda: sorted(scheduler.aborted) == ["mine-0", "mine-1"], "they end")


async def test_a_text_that_takes_too_long_is_a_504(start_embedding: StartWorker) -> None:
    worker = await start_embedding(request_timeout=0.1)
    worker.scheduler.embed_script = lambda request: []
    response = await worker.http.post("/encode", json={"text": ["cat", "dog"]})
    assert_error(response, 504, "timeout_error", "timeout")
    await eventually(lambda: len(worker.scheduler.aborted) == 2, "the engine is told")


async def test_an_engine_that_goes_ends_texts_with_an_error(embeds: RunningWorker) -> None:
    embeds.scheduler.embed_script = lambda request: []
    call = asyncio.ensure_future(embeds.http.post("/encode", json={"text": ["cat", "dog"]}))
    await eventually(lambda: len(embeds.scheduler.texts) == 2, "both arrive")
    embeds.service.engine.fail("The engine is gone: it died")
    assert_error(await call, 500, "server_error", "internal_error")


async def test_metrics_count_texts_and_their_tokens(start_embedding: StartWorker) -> None:
    worker = await start_embedding(enable_metrics=True)
    await create(worker, input=["the cat", "dog"])
    assert (await worker.http.get("/health_generate")).status_code == 200
    figures = await scrape(worker)
    assert figures["prompt_tokens_total"] == 4 + 3
    assert figures["generation_tokens_total"] == 0
    assert figures.counts() == (0, 2, 0)
    names = {each.labels["name"] for each in figures.samples if "func_latency" in each.name}
    assert names == {"openai_v1_embeddings"}


# ===== which model answers what =====


async def test_a_model_that_generates_says_how_to_embed_with_it(worker: RunningWorker) -> None:
    for path in ("/v1/embeddings", "/encode", "/classify", "/v1/rerank", "/rerank"):
        response = await worker.http.post(path, json={"input": "cat"})
        assert_error(response, 400, "invalid_request_error", "unsupported_model")
        assert "--is-embedding" in response.json()["error"]["message"]
    with pytest.raises(openai.BadRequestError, match="--is-embedding"):
        await create(worker, input="cat")


@pytest.mark.parametrize(
    ("info", "kind"), [(EMBEDS, "an embedding model"), (REWARDS, "a classification model")]
)
async def test_a_model_that_embeds_says_that_it_generates_no_text(
    start_embedding: StartWorker, info: Any, kind: str
) -> None:
    worker = await start_embedding(info, api_key="key")
    with pytest.raises(openai.BadRequestError, match=f"{kind}, which generates no text"):
        await worker.openai("key").completions.create(model="any", prompt="hi")
    headers = {"authorization": "Bearer key"}
    for path in ("/generate", "/v1/chat/completions", "/v1/completions"):
        response = await worker.http.post(path, json={}, headers=headers)
        assert_error(response, 400, "invalid_request_error", "unsupported_model")
        assert (await worker.http.post(path, json={})).status_code == 401


async def test_the_openapi_document_has_the_routes_of_the_model(
    worker: RunningWorker, embeds: RunningWorker
) -> None:
    generates = (await worker.http.get("/openapi.json")).json()["paths"].keys()
    other = (await embeds.http.get("/openapi.json")).json()["paths"].keys()
    assert generates - other >= {"/generate", "/v1/chat/completions", "/v1/completions"}
    assert other - generates == {"/v1/embeddings", "/encode", "/classify", "/v1/rerank"}
    assert {"/v1/score", "/v1/tokenize", "/health"} <= generates & other


async def test_information_says_what_the_model_is(
    worker: RunningWorker, start_embedding: StartWorker
) -> None:
    assert (await worker.http.get("/get_model_info")).json()["is_generation"] is True
    classifies = await start_embedding(CLASSIFIES)
    assert (await classifies.http.get("/get_model_info")).json()["is_generation"] is False
    engine = (await classifies.http.get("/get_server_info")).json()["engine"]
    assert engine["embedding"] == {
        "kind": "classification",
        "size": 3,
        "normalized": False,
        "labels": ["no", "maybe", "yes"],
        "pairs": False,
    }
