"""The worker's own OpenAPI document: complete, guarded, and kept to, as schemathesis finds out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import response_schema_conformance

from ...serving import FLEET
from .conftest import RunningWorker, StartWorker
from .tiny_worker import assert_nothing_is_held, idle_state, tiny_worker

# These change the worker for all others, or write where a body says.
EXCLUDED = [
    "/update_weights_from_disk",
    "/release_memory_occupation",
    "/resume_memory_occupation",
    "/start_profile",
    "/stop_profile",
]
WITHOUT_BODY = {
    "/flush_cache",
    "/release_memory_occupation",
    "/resume_memory_occupation",
    "/stop_profile",
    "/v1/batches/{batch_id}/cancel",
    "/v1/responses/{response_id}/cancel",
}
PROMPT = {"text": "in the end", "sampling_params": {"temperature": 0, "max_new_tokens": 16}}


def hold_to_document(
    document: dict[str, Any], url: str, *, examples: int = 15
) -> dict[str, set[int]]:
    """Call every operation with so many bodies that its schema allows, and as many others.

    No answer is a 5xx, and errors have the shape of all errors. Answers with the statuses seen.
    """
    statuses: dict[str, set[int]] = {}
    with requests.Session() as session:
        session.trust_env = False
        schema = schemathesis.openapi.from_dict(document)
        for found in schema.exclude(path=EXCLUDED).get_all_operations():
            operation = found.ok()
            modes = [GenerationMode.POSITIVE]
            if len(operation.body) or len(operation.query):
                modes.append(GenerationMode.NEGATIVE)
            for mode in modes:
                seen = statuses.setdefault(operation.label, set())
                cases = operation.as_strategy(generation_mode=mode)
                call_with(cases, examples, url, session, seen)
    return statuses


def call_with(
    cases: Any, examples: int, url: str, session: requests.Session, seen: set[int]
) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def holds(case: schemathesis.Case) -> None:
        answer = case.call(base_url=url, session=session, timeout=30)
        seen.add(answer.status_code)
        case.validate_response(answer, [not_a_server_error, response_schema_conformance])

    holds()


async def test_a_worker_that_generates_keeps_to_its_document(tmp_path: Path) -> None:
    with tiny_worker(tmp_path, "--enable-metrics", "--log-level", "error") as worker:
        async with httpx.AsyncClient(base_url=worker.url, timeout=60, trust_env=False) as http:
            before = (await http.post("/generate", json=PROMPT)).json()["text"]
            document = (await http.get("/openapi.json")).json()
            statuses = await asyncio.to_thread(hold_to_document, document, worker.url)
            assert_nothing_is_held(await idle_state(http))
            assert (await http.post("/generate", json=PROMPT)).json()["text"] == before
            assert worker.process.poll() is None
    assert set().union(*statuses.values()) == {200, 400, 404}
    assert {200, 400} <= statuses["POST /v1/chat/completions"]
    assert len(statuses) >= 35


def test_a_worker_that_embeds_keeps_to_its_document(tmp_path: Path) -> None:
    with tiny_worker(tmp_path, "--is-embedding", "--log-level", "error") as worker:
        document = httpx.get(f"{worker.url}/openapi.json", trust_env=False).json()
        statuses = hold_to_document(document, worker.url)
        assert worker.process.poll() is None
    assert set().union(*statuses.values()) == {200, 400, 404}
    assert {200, 400} <= statuses["POST /v1/embeddings"]


def test_a_fleet_keeps_to_the_document_of_its_workers(tmp_path: Path) -> None:
    flags = ["--dp-size", "2", "--router-prometheus-port", "0", "--log-level", "error"]
    with tiny_worker(tmp_path, *flags, "--enable-metrics", module=FLEET) as fleet:
        workers = httpx.get(f"{fleet.url}/list_workers", trust_env=False).json()["urls"]
        document = httpx.get(f"{workers[0]}/openapi.json", trust_env=False).json()
        statuses = hold_to_document(document, fleet.url, examples=4)
        listed = httpx.get(f"{fleet.url}/workers", trust_env=False).json()["workers"]
    assert set().union(*statuses.values()) == {200, 400, 404}
    assert {200, 400} <= statuses["POST /v1/chat/completions"]
    assert [worker["health"] for worker in listed] == ["healthy"] * 2


def operations_of(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield method, path, operation


def references(part: Any) -> Iterator[str]:
    """All that it refers to."""
    if isinstance(part, dict):
        reference = part.get("$ref")
        if isinstance(reference, str):
            yield reference
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from references(each)


async def test_the_document_says_what_every_route_takes(
    worker: RunningWorker, embeds: RunningWorker
) -> None:
    for http in (worker.http, embeds.http):
        document = (await http.get("/openapi.json")).json()
        known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
        assert set(references(document)) <= known
        for method, path, operation in operations_of(document):
            takes_body = "requestBody" in operation
            assert takes_body or method not in ("post", "put") or path in WITHOUT_BODY, path
    assert "rid" in document["components"]["schemas"]["AbortBody"]["properties"]


async def test_every_route_of_the_document_needs_the_key_but_health(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(api_key="secret", enable_metrics=True)
    assert (await worker.http.get("/openapi.json")).status_code == 401
    with_key = {"authorization": "Bearer secret"}
    document = (await worker.http.get("/openapi.json", headers=with_key)).json()
    open_to_all = set()
    for method, path, _ in operations_of(document):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            answer = await worker.http.request(method, path, headers=headers)
            if answer.status_code != 401:
                open_to_all.add(path)
                continue
            assert answer.json()["error"]["code"] == "invalid_api_key"
    assert open_to_all == {"/health"}
