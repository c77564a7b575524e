"""Health, information, cache, keys, ids and the shape of errors."""

from __future__ import annotations

import httpx
import pytest

from worker.api import control
from worker.messages import FinishReason, GenerateRequest, LoadProgress, TokenChunk

from .conftest import RunningWorker, StartWorker, eventually
from .fake_scheduler import answer_with


def assert_error(response: httpx.Response, status: int, kind: str, code: str) -> None:
    assert response.status_code == status
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == (kind, code)


async def test_health_is_200_while_the_scheduler_answers(worker: RunningWorker) -> None:
    assert (await worker.http.get("/health")).status_code == 200


async def test_health_is_503_when_the_scheduler_is_silent(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(control, "ANSWER_SECONDS", 0.05)
    assert (await worker.http.get("/health")).status_code == 200
    worker.scheduler.answers_questions = False
    response = await worker.http.get("/health")
    assert_error(response, 503, "service_unavailable_error", "unavailable")


async def test_a_scheduler_that_loads_weights_is_well(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.scheduler.answers_questions = False
    engine = worker.service.engine
    engine._last_heard -= 60
    monkeypatch.setattr(control, "ANSWER_SECONDS", 0.05)
    assert (await worker.http.get("/health")).status_code == 503
    await worker.scheduler.send(LoadProgress("loading weights", 0.5))
    await eventually(lambda: engine.seconds_since_heard() < 30, "the scheduler is heard")
    assert (await worker.http.get("/health")).status_code == 200


async def test_health_generate_makes_one_token(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.scheduler.script = answer_with([5, 6, 7])
    assert (await worker.http.get("/health_generate")).status_code == 200
    assert worker.scheduler.requests[0].sampling.max_new_tokens == 1
    monkeypatch.setattr(control, "ANSWER_SECONDS", 0.05)
    worker.scheduler.script = answer_with([], finish=None)
    response = await worker.http.get("/health_generate")
    assert_error(response, 503, "service_unavailable_error", "unavailable")
    assert worker.scheduler.aborted == [worker.scheduler.requests[1].rid]


async def test_model_info_has_exactly_three_fields(start_worker: StartWorker) -> None:
    worker = await start_worker(tokenizer_path="elsewhere")
    assert (await worker.http.get("/get_model_info")).json() == {
        "model_path": "tiny",
        "tokenizer_path": "elsewhere",
        "is_generation": True,
    }


async def test_server_info_has_arguments_sizes_and_state(start_worker: StartWorker) -> None:
    worker = await start_worker(api_key="secret", schedule_policy="fcfs")
    response = await worker.http.get("/get_server_info", headers={"authorization": "Bearer secret"})
    info = response.json()
    assert info["schedule_policy"] == "fcfs"
    assert info["max_total_num_tokens"] == 4096
    assert info["engine"]["context_length"] == 512
    assert info["state"]["running_requests"] == 1
    assert info["state"]["held_tokens"] == 20
    assert "secret" not in response.text


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_flush_cache_says_whether_it_did(worker: RunningWorker, method: str) -> None:
    assert (await worker.http.request(method, "/flush_cache")).status_code == 200
    worker.scheduler.flush_succeeds = False
    response = await worker.http.request(method, "/flush_cache")
    assert_error(response, 400, "invalid_request_error", "busy")
    assert "requests are running" in response.json()["error"]["message"]


async def test_unknown_paths_and_methods_have_the_error_shape(worker: RunningWorker) -> None:
    assert_error(await worker.http.get("/nowhere"), 404, "not_found_error", "unknown_url")
    response = await worker.http.get("/v1/completions")
    assert_error(response, 405, "invalid_request_error", "method_not_allowed")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_a_full_queue_is_a_503_that_says_when_to_try_again(
    worker: RunningWorker, path: str, stream: bool
) -> None:
    full = FinishReason("abort", message="3 requests wait already", status=503)
    worker.scheduler.script = answer_with([], finish=full)
    prompt = {"text": "hi"} if path == "/generate" else {"model": "m", "prompt": "hi"}
    response = await worker.http.post(path, json={**prompt, "stream": stream})
    assert_error(response, 503, "service_unavailable_error", "unavailable")
    assert response.json()["error"]["message"] == "3 requests wait already"
    assert response.headers["retry-after"] == "1"


async def test_openai_client_tries_again_when_the_queue_was_full(worker: RunningWorker) -> None:
    def script(request: GenerateRequest) -> list[TokenChunk]:
        if len(worker.scheduler.requests) == 1:
            full = FinishReason("abort", message="full", status=503)
            return [TokenChunk(request.rid, [], 0, full)]
        return answer_with(worker.ids("ok"))(request)

    worker.scheduler.script = script
    client = worker.openai().with_options(max_retries=1)
    answer = await client.completions.create(model="m", prompt="hi")
    assert answer.choices[0].text == "ok"


async def test_body_that_is_too_large_is_413(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.api.http_exchange.MAX_BODY_BYTES", 100)
    response = await worker.http.post("/generate", json={"text": "x" * 200})
    assert_error(response, 413, "invalid_request_error", "request_too_large")


async def test_a_bug_is_a_500_in_the_error_shape(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(timeout_seconds: float) -> None:
        raise RuntimeError("secret details")

    monkeypatch.setattr(worker.service.engine, "state", broken)
    response = await worker.http.get("/get_server_info")
    assert_error(response, 500, "server_error", "internal_error")
    assert "secret details" not in response.text
    assert response.headers["x-request-id"]


async def test_api_key_guards_everything_but_health(start_worker: StartWorker) -> None:
    worker = await start_worker(api_key="sësame")
    assert (await worker.http.get("/health")).status_code == 200
    for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": "sësame".encode()}):
        for path in ("/v1/models", "/health_generate", "/nowhere"):
            response = await worker.http.get(path, headers=wrong)
            assert_error(response, 401, "authentication_error", "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
    right = {"authorization": "Bearer sësame".encode()}
    for path in ("/v1/models", "/health_generate"):
        assert (await worker.http.get(path, headers=right)).status_code == 200


async def test_request_id_is_taken_and_returned(worker: RunningWorker) -> None:
    headers = {"x-request-id": "abc-123"}
    assert (await worker.http.get("/health", headers=headers)).headers["x-request-id"] == "abc-123"
    made = {(await worker.http.get("/nowhere")).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    odd = {"x-request-id": "a b"}
    assert (await worker.http.get("/health", headers=odd)).headers["x-request-id"] != "a b"


async def test_pages_of_origins_that_are_named_are_let_in(start_worker: StartWorker) -> None:
    page = {"origin": "https://chat.example"}
    asked = {"access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "authorization"
    path, allowed = "/v1/chat/completions", "access-control-allow-origin"
    open_to = await start_worker(cors_allow_origins=["https://chat.example"], api_key="secret")
    preflight = await open_to.http.options(path, headers=page | asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-headers"] == "authorization"
    for headers in (page, page | {"authorization": "Bearer secret"}):
        answer = await open_to.http.get("/v1/models", headers=headers)
        assert answer.headers[allowed] == "https://chat.example"
    other = await open_to.http.get("/v1/models", headers={"origin": "https://other.example"})
    assert allowed not in other.headers


async def test_pages_of_other_origins_are_not_let_in(worker: RunningWorker) -> None:
    headers = {"origin": "http://elsewhere", "access-control-request-method": "POST"}
    for response in (
        await worker.http.options("/v1/chat/completions", headers=headers),
        await worker.http.get("/v1/models", headers=headers),
    ):
        assert not any(name.startswith("access-control") for name in response.headers)
