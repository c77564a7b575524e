"""How requests say what their answers are held to, and what the engine is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel

from worker.messages import FinishReason, GrammarSpec

from .conftest import RunningWorker, StartWorker
from .fake_scheduler import answer_with

SCHEMA = {"type": "object", "properties": {"ü": {"type": "integer"}}, "required": ["ü"]}
NAMED = {"name": "thing", "schema": SCHEMA, "strict": True}
TAG: dict[str, Any] = {
    "type": "structural_tag",
    "structures": [{"begin": "<ü>", "schema": SCHEMA, "end": "</ü>"}],
    "triggers": ["<ü"],
}
OBJECT = GrammarSpec("json_schema", '{"type": "object"}')


def sent(worker: RunningWorker) -> GrammarSpec | None:
    (request,) = worker.scheduler.requests
    return request.sampling.grammar


CHAT = {"messages": [{"role": "user", "content": "hi"}]}
FORMAT = {"type": "json_object"}
ROUTES = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi"}),
]


@pytest.mark.parametrize(("route", "body"), ROUTES)
@pytest.mark.parametrize(
    "spec",
    [
        GrammarSpec("json_schema", json.dumps(SCHEMA)),
        GrammarSpec("regex", "a|b"),
        GrammarSpec("ebnf", 'root ::= "a"'),
        GrammarSpec("structural_tag", json.dumps(TAG)),
    ],
)
async def test_fields_of_sglang(
    worker: RunningWorker, route: str, body: dict[str, Any], spec: GrammarSpec
) -> None:
    response = await worker.http.post(route, json={**body, spec.kind: spec.text})
    assert response.status_code == 200, response.text
    assert sent(worker) == spec


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, OBJECT),
        ({"type": "json_schema"}, "the schema"),
        (TAG, GrammarSpec("structural_tag", json.dumps(TAG, ensure_ascii=False))),
    ],
)
@pytest.mark.parametrize(("route", "body"), ROUTES)
async def test_formats_of_openai(
    worker: RunningWorker,
    route: str,
    body: dict[str, Any],
    format: dict[str, Any] | None,
    expected: Any,
) -> None:
    is_response = route == "/v1/responses"
    if expected == "the schema":
        format = {"type": "json_schema", **(NAMED if is_response else {"json_schema": NAMED})}
    wanted = {"text": {"format": format}} if is_response else {"response_format": format}
    response = await worker.http.post(route, json={**body, **wanted})
    assert response.status_code == 200, response.text
    if expected == "the schema":
        grammar = sent(worker)
        assert grammar is not None
        assert grammar.kind == "json_schema"
        assert json.loads(grammar.text) == SCHEMA
    else:
        assert sent(worker) == expected
    if is_response:
        assert response.json()["text"]["format"] == (format or {"type": "text"})


async def test_the_clients_own_way_for_pydantic_models(worker: RunningWorker) -> None:
    class City(BaseModel):
        name: str
        population: int

    worker.scheduler.script = answer_with(worker.ids('{"name": "in", "population": 5}'))
    answer = await worker.openai().chat.completions.parse(
        model="tiny", messages=[{"role": "user", "content": "hi"}], response_format=City
    )
    assert answer.choices[0].message.parsed == City(name="in", population=5)
    again: list[Any] = [*CHAT["messages"], answer.choices[0].message, *CHAT["messages"]]
    await worker.openai().chat.completions.create(model="tiny", messages=again)
    grammar = worker.scheduler.requests[0].sampling.grammar
    assert grammar is not None
    assert list(json.loads(grammar.text)["properties"]) == ["name", "population"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        ("/v1/chat/completions", {**CHAT, "regex": "a"}, "regex"),
        ("/v1/completions", {"prompt": "hi", "response_format": FORMAT}, "response_format"),
        ("/v1/responses", {"input": "hi", "text": {"format": FORMAT}}, "text.format"),
        ("/generate", {"text": "hi", "sampling_params": {"ebnf": "a"}}, "sampling_params.ebnf"),
    ],
)
async def test_what_the_engine_refuses_is_a_400(
    worker: RunningWorker, route: str, body: dict[str, Any], param: str, stream: bool
) -> None:
    reason = "regex: it is too large"
    worker.scheduler.script = answer_with([], finish=FinishReason.bad_grammar(reason))
    response = await worker.http.post(route, json={**body, "stream": stream})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["message"], error["param"]) == (reason, param)


async def test_a_400_of_the_engine_that_is_not_for_the_grammar_names_no_field(
    worker: RunningWorker,
) -> None:
    finish = FinishReason("abort", message="no token is left", status=400)
    worker.scheduler.script = answer_with([], finish=finish)
    response = await worker.http.post("/v1/chat/completions", json={**CHAT, "regex": "a"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] is None


async def test_each_prompt_of_a_native_call_may_have_its_own(worker: RunningWorker) -> None:
    sampling = [{"regex": "a"}, {"json_schema": "{}"}, {}]
    body = {"text": ["a", "b", "c"], "sampling_params": sampling}
    assert (await worker.http.post("/generate", json=body)).status_code == 200
    assert [request.sampling.grammar for request in worker.scheduler.requests] == [
        GrammarSpec("regex", "a"),
        GrammarSpec("json_schema", "{}"),
        None,
    ]


@pytest.mark.parametrize(
    ("route", "body", "fields"),
    [
        (
            "/generate",
            {"text": "a", "sampling_params": {"regex": "a", "ebnf": "b"}},
            "regex and ebnf",
        ),
        ("/v1/completions", {"prompt": "a", "regex": "a", "json_schema": "{}"}, "json_schema and"),
        (
            "/v1/responses",
            {"input": "a", "regex": "a", "text": {"format": {"type": "json_object"}}},
            "regex and text.format",
        ),
    ],
)
async def test_more_than_one_is_refused(
    worker: RunningWorker, route: str, body: dict[str, Any], fields: str
) -> None:
    response = await worker.http.post(route, json=body)
    assert response.status_code == 400
    assert f"one of {fields}" in response.json()["error"]["message"]
    assert worker.scheduler.requests == []


@pytest.mark.parametrize(
    ("change", "param", "reason"),
    [
        ({"structures": []}, "structures", "at least 1 item"),
        ({"triggers": [""]}, "triggers[0]", "at least 1 character"),
        ({"triggers": "<"}, "triggers", "should be a valid"),
        ({"structures": [{"begin": "<", "end": ""}]}, "structures[0].schema", "required"),
        ({"separators": []}, "separators", "Unknown field"),
    ],
)
async def test_structural_tags_are_checked_where_they_come(
    worker: RunningWorker, change: dict[str, Any], param: str, reason: str
) -> None:
    body = {**CHAT, "response_format": TAG | change}
    error = (await worker.http.post("/v1/chat/completions", json=body)).json()["error"]
    assert error["param"] == f"response_format.{param}"
    assert reason in error["message"]
    sampling = {"structural_tag": json.dumps(TAG | change)}
    body = {"text": "a", "sampling_params": sampling}
    error = (await worker.http.post("/generate", json=body)).json()["error"]
    assert error["param"] == "sampling_params.structural_tag"
    assert f"{param}" in error["message"]
    assert reason in error["message"]
    assert worker.scheduler.requests == []


async def test_without_a_tokenizer_there_is_no_text_to_hold(start_worker: StartWorker) -> None:
    worker = await start_worker(skip_tokenizer_init=True, tokenizer=None)
    body = {"input_ids": [5], "sampling_params": {"regex": "a"}}
    response = await worker.http.post("/generate", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "sampling_params.regex"
