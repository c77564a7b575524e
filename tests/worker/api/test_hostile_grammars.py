"""Hostile grammars through a real worker: each is a 400 of its own, and free answers go on."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from .tiny_worker import assert_nothing_is_held, idle_state, tiny_worker

CHAIN = {f"l{i}": {"$ref": f"#/$defs/l{(i + 1) % 50}"} for i in range(50)}
SCHEMAS = {
    "nested lists": '{"items":' * 10_000 + "{}" + "}" * 10_000,
    "nested allOf": '{"allOf":[' * 10_000 + "{}" + "]}" * 10_000,
    "a nested value": '{"const":' + "[" * 10_000 + "]" * 10_000 + "}",
    "references in a circle": json.dumps({"$ref": "#/$defs/l0", "$defs": CHAIN}),
    "allOf of itself": '{"allOf": [{"$ref": "#"}, {"type": "object"}]}',
    "a remote reference": '{"$ref": "http://127.0.0.1:9/schema"}',
    "no JSON": '{"type": "object"',
    "no object": "[]",
    "false": "false",
    "NUL": "{\0}",
    "half of a pair": '{"enum": ["\\ud800"]}',
    "infinity": '{"type": "integer", "minimum": 1e999}',
    "five thousand digits": '{"type": "integer", "minimum": ' + "9" * 5000 + "}",
    "no type": '{"type": {"a": 1}}',
    "names of no text": '{"required": [{}]}',
    "too long": json.dumps({"enum": ["x" * (10 << 20)]}),
}
PATTERNS = {
    "brackets": "(" * 20_000 + ")" * 20_000,
    "nested choices": "(a|" * 5_000 + ")" * 5_000,
    "look-ahead": "(?=a)b",
    "back-reference": r"(a+)\1",
    "no characters": r"[^\s\S]",
    "half of a pair": "\ud800",
}
GRAMMARS = {
    "left recursion": 'root ::= root "a"',
    "an undefined rule": "root ::= nope",
    "no root": 'x ::= "a"',
    "open brackets": "root ::= " + "(" * 100_000,
    "half of a pair": 'root ::= "\ud800"',
    "NUL": 'root ::= "\0',
    "nothing": "",
}
HOSTILE = [
    *({"json_schema": text} for text in SCHEMAS.values()),
    *({"regex": text} for text in PATTERNS.values()),
    *({"ebnf": text} for text in GRAMMARS.values()),
]
SLOW = r"(([a-z]{1,999}[A-Z]){1,999}[0-9]){1,999}"


@pytest.fixture(scope="module", params=["xgrammar", "llguidance", "outlines"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("worker")
    with tiny_worker(folder, "--grammar-backend", request.param) as worker:
        yield worker.url


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        yield client


async def generate(http: httpx.AsyncClient, **sampling: Any) -> httpx.Response:
    body = {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 8, **sampling}}
    content = json.dumps(body)  # which writes halves of pairs as escapes
    headers = {"content-type": "application/json"}
    return await http.post("/generate", content=content, headers=headers)


async def test_each_is_a_400_and_free_answers_are_what_they_are_alone(http) -> None:
    free = {"temperature": 0, "max_new_tokens": 200, "ignore_eos": True}
    alone = (await generate(http, **free)).json()["text"]
    hostile = random.Random(0).choices(HOSTILE, k=100 - len(HOSTILE)) + HOSTILE
    answers = [asyncio.create_task(generate(http, **grammar)) for grammar in hostile]
    assert (await generate(http, **free)).json()["text"] == alone
    for grammar, answer in zip(hostile, await asyncio.gather(*answers), strict=True):
        assert answer.status_code == 400, (str(grammar)[:200], answer.text)
        assert 10 < len(answer.json()["error"]["message"]) < 400
    assert (await generate(http, regex="ab")).json()["text"] == "ab"
    assert_nothing_is_held(await idle_state(http))


async def test_clients_that_leave_take_their_grammars_along(http) -> None:
    answers = [asyncio.create_task(generate(http, regex=SLOW + "x" * i)) for i in range(20)]
    # LLGuidance is never slow to compile these: then some have their answers when the others leave.
    while not any(answer.done() for answer in answers):
        state = (await http.get("/get_server_info")).json()["state"]
        if state["waiting_requests"] == len(answers):
            break
        await asyncio.sleep(0.01)
    for answer in answers:
        answer.cancel()
    assert_nothing_is_held(await idle_state(http))
    assert (await generate(http, regex="a[bc]")).json()["text"] in ("ab", "ac")
