"""Whatever a body holds, the answer is none of a broken server, and errors have the one shape."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from worker.api.control import AbortBody
from worker.api.encode import EncodeBody
from worker.api.errors import ApiError
from worker.api.fields import MOST_ITEMS, RequestModel
from worker.api.http_exchange import checked
from worker.api.label_score import LabelScoreBody
from worker.api.native_types import GenerateBody, SamplingFields
from worker.api.openai.embeddings import EmbeddingBody
from worker.api.openai.responses.types import InputTokensBody, ResponseBody
from worker.api.openai.tokenization import DetokenizeBody, TokenizeBody
from worker.api.openai.types import ChatBody, CompletionBody
from worker.api.pair_score import PairScoreBody
from worker.api.parsing import FunctionCallBody, SeparateReasoningBody
from worker.api.rerank import RerankBody
from worker.api.sessions import OpenBody

from .conftest import RunningWorker
from .fake_scheduler import answer_with

CHAT = [{"role": "user", "content": "hi"}]
CHAT_JSON = json.dumps(CHAT[0]).encode()
ROUTES: dict[str, tuple[type[RequestModel], dict[str, Any]]] = {
    "/generate": (
        GenerateBody,
        {
            "text": "hi",
            "return_logprob": True,
            "logprob_start_len": 0,
            "top_logprobs_num": 2,
            "return_hidden_states": True,
        },
    ),
    "/v1/chat/completions": (ChatBody, {"messages": CHAT, "logprobs": True, "top_logprobs": 2}),
    "/v1/completions": (CompletionBody, {"prompt": "hi", "logprobs": 2, "echo": True}),
    "/v1/responses": (ResponseBody, {"input": "hi"}),
    "/v1/responses/input_tokens": (InputTokensBody, {"input": CHAT}),
    "/v1/tokenize": (TokenizeBody, {"prompt": "hi"}),
    "/v1/detokenize": (DetokenizeBody, {"tokens": [5]}),
    "/function_call": (
        FunctionCallBody,
        {
            "text": "<tool_call>x</tool_call>",
            "tools": [{"type": "function", "function": {"name": "now"}}],
            "tool_call_parser": "qwen25",
        },
    ),
    "/separate_reasoning": (SeparateReasoningBody, {"text": "x", "reasoning_parser": "qwen3"}),
    "/abort_request": (AbortBody, {"rid": "a"}),
    "/open_session": (OpenBody, {"capacity_of_str_len": 9}),
    "/v1/score": (LabelScoreBody, {"query": "a", "items": ["b", "c"], "label_token_ids": [5]}),
}
OF_EMBEDDING: dict[str, tuple[type[RequestModel], dict[str, Any]]] = {
    "/v1/embeddings": (EmbeddingBody, {"input": ["cat", "dog"]}),
    "/encode": (EncodeBody, {"text": ["cat", "dog"]}),
    "/v1/rerank": (RerankBody, {"query": "cat", "documents": ["dog", {"text": "car"}]}),
    "/v1/score": (PairScoreBody, {"text_1": "cat", "text_2": ["dog", "car"]}),
}
CASES = [(False, path) for path in ROUTES] + [(True, path) for path in OF_EMBEDDING]
# A body can name what is not stored.
NOT_FOUND = ("previous_response_not_found", "item_not_found")

numbers = (
    st.integers(-2, 3)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([2**31, 2**63, -(2**63) - 1, 1e308, 511, 512, 300])
)
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8)
keys = st.sampled_from(["role", "content", "type", "text", "id", "include_usage", "5"]) | st.text(
    max_size=4
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


def bodies(model: type[RequestModel], valid: dict[str, Any]) -> st.SearchStrategy[Any]:
    """A valid body of which some fields, of those that there are, have any value."""
    known: dict[str, Any] = dict.fromkeys(model.model_fields, values)
    if model is GenerateBody:
        sampling = st.fixed_dictionaries(
            {}, optional=dict.fromkeys(SamplingFields.model_fields, values)
        )
        known["sampling_params"] = values | sampling | st.lists(sampling, max_size=2)
    some = st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True)
    changes = some.flatmap(lambda names: st.fixed_dictionaries({n: known[n] for n in names}))
    return values | changes.map(lambda changed: {**valid, **changed})


def examples(strategy: st.SearchStrategy[Any]) -> list[Any]:
    """The same at every run: an event loop is no place for hypothesis to choose the next one."""
    made: list[Any] = []

    @settings(max_examples=120, derandomize=True, deadline=None, database=None)
    @given(strategy)
    def collect(example: Any) -> None:
        made.append(example)

    collect()
    return made


@pytest.mark.parametrize(("of_embedding", "path"), CASES)
async def test_no_body_breaks_a_route(
    worker: RunningWorker, embeds: RunningWorker, of_embedding: bool, path: str
) -> None:
    worker.scheduler.script = answer_with([40, 41])
    http = embeds.http if of_embedding else worker.http
    routes = OF_EMBEDDING if of_embedding else ROUTES
    seen = set()
    for body in examples(bodies(*routes[path])):
        response = await http.post(path, content=json.dumps(body))
        if response.status_code == 404:
            assert response.json()["error"]["code"] in NOT_FOUND, (body, response.text)
            continue
        seen.add(response.status_code)
        assert response.status_code in (200, 400), (body, response.text)
        if response.status_code == 400:
            error = response.json()["error"]
            assert error["message"], body
            assert error["type"] == "invalid_request_error", (body, error)
            assert isinstance(error["code"], str), (body, error)
            assert isinstance(error["param"], str | None), (body, error)
    assert seen == {200, 400}


@pytest.mark.parametrize(("of_embedding", "path"), CASES)
async def test_deep_json_is_refused(
    worker: RunningWorker, embeds: RunningWorker, of_embedding: bool, path: str
) -> None:
    http = embeds.http if of_embedding else worker.http
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        body = opening * 100_000 + "1" + closing * 100_000
        response = await http.post(path, content=body)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "invalid_json"


async def test_broken_json_around_embeddings_is_refused(worker: RunningWorker) -> None:
    deep = b"[" * 100_000
    for rest in (b'"\xff": 2}', b'"a": ' + deep, b'"a": ' + deep + deep.replace(b"[", b"]") + b"}"):
        response = await worker.http.post("/generate", content=b'{"input_embeds": [[1]], ' + rest)
        assert response.status_code == 400, response.text
        assert response.json()["error"]["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("model", "body", "param"),
    [
        (ChatBody, b'{"messages": [%s1]}' % (b"1," * 999), "messages[0]"),
        (ChatBody, b'{"messages": [%s1]}' % (b"{}," * 999), "messages[0].role"),
        (CompletionBody, b'{"prompt": [%s1]}' % (b"{}," * 999), "prompt"),
        (ResponseBody, b'{"input": [%s1]}' % (b"1," * 999), "input[0]"),
        (GenerateBody, b'{"sampling_params": [%s1]}' % (b"1," * 999), "sampling_params[0]"),
        (
            GenerateBody,
            b'{"sampling_params": {"stop": [%s1]}}' % (b"1," * 999),
            "sampling_params.stop[0]",
        ),
    ],
)
def test_a_list_full_of_mistakes_is_read_up_to_the_first(
    model: type[RequestModel], body: bytes, param: str
) -> None:
    with pytest.raises(ValidationError) as found:
        model.model_validate_json(body)
    assert found.value.error_count() <= 2
    with pytest.raises(ApiError) as refused:
        checked(body, model)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("model", "body", "param"),
    [
        (GenerateBody, b'{"text": [%s""]}' % (b'"",' * MOST_ITEMS), "text"),
        (GenerateBody, b'{"input_ids": [%s[]]}' % (b"[]," * MOST_ITEMS), "input_ids"),
        (
            GenerateBody,
            b'{"sampling_params": [%s{}]}' % (b"{}," * MOST_ITEMS),
            "sampling_params",
        ),
        (CompletionBody, b'{"prompt": [%s""]}' % (b'"",' * MOST_ITEMS), "prompt"),
        (ResponseBody, b'{"input": [%s]}' % b",".join([CHAT_JSON] * (MOST_ITEMS + 1)), "input"),
    ],
)
def test_a_list_that_would_take_all_memory_is_refused(
    model: type[RequestModel], body: bytes, param: str
) -> None:
    with pytest.raises(ApiError, match=f"^{param}: must have at most 65536 items") as refused:
        checked(body, model)
    assert refused.value.param == param


def test_a_long_prompt_of_token_ids_is_no_long_list() -> None:
    ids = b"[%s1]" % (b"1," * MOST_ITEMS)
    assert len(cast(list[int], checked(b'{"input_ids": %s}' % ids, GenerateBody).input_ids)) > 65536
    assert len(checked(b'{"prompt": [%s]}' % ids, CompletionBody).prompt) == 1


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/generate", {"text": ["a"] * 1000, "sampling_params": {"n": 66}}, "sampling_params.n"),
        ("/v1/completions", {"prompt": ["a"] * 1000, "n": 66}, "n"),
        ("/v1/completions", {"prompt": ["a"] * 1000, "best_of": 66}, "best_of"),
    ],
)
async def test_a_call_for_more_answers_than_memory_holds_is_refused(
    worker: RunningWorker, path: str, body: dict[str, Any], param: str
) -> None:
    response = await worker.http.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert worker.scheduler.requests == []


def test_a_thousand_unknown_fields_are_counted_and_fewer_are_named() -> None:
    for count, reason in ((1000, "Unknown field: '0'"), (1001, "has 1001 unknown fields")):
        body = json.dumps({"model": "", "prompt": "a"} | {str(i): i for i in range(count)})
        with pytest.raises(ApiError, match=reason):
            checked(body.encode(), CompletionBody)
