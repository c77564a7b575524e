"""GET /metrics: SGLang 0.4.3's families, and figures that say what has happened."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.api import metrics as worker_metrics
from worker.messages import FinishReason, TokenChunk, TokenChunks

from .conftest import RunningWorker, StartWorker, eventually
from .fake_scheduler import answer_with
from .test_control import assert_error

# From the reference's own example, in its order.
FAMILIES = {
    "sglang:prompt_tokens": "counter",
    "sglang:generation_tokens": "counter",
    "sglang:time_to_first_token_seconds": "histogram",
    "sglang:e2e_request_latency_seconds": "histogram",
    "sglang:time_per_output_token_seconds": "histogram",
    "sglang:func_latency_seconds": "histogram",
    "sglang:num_running_reqs": "gauge",
    "sglang:num_used_tokens": "gauge",
    "sglang:gen_throughput": "gauge",
    "sglang:num_queue_reqs": "gauge",
    "sglang:token_usage": "gauge",
    "sglang:cache_hit_rate": "gauge",
    "radixfleet_worker_forced_tokens": "counter",
}
BOUNDS = {
    "time_to_first_token_seconds": "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1.0 2.5 "
    "5.0 7.5 10.0 15.0 20.0 25.0 30.0 +Inf",
    "e2e_request_latency_seconds": "0.3 0.5 0.8 1.0 1.5 2.0 2.5 5.0 10.0 15.0 20.0 30.0 40.0 50.0 "
    "60.0 +Inf",
    "time_per_output_token_seconds": "0.005 0.01 0.015 0.02 0.025 0.03 0.04 0.05 0.075 0.1 0.15 "
    "0.2 0.3 0.4 0.5 0.75 1.0 2.5 +Inf",
    "func_latency_seconds": "0.05 0.07500000000000001 0.1125 0.16875 0.253125 0.3796875 0.56953125 "
    "0.8542968750000001 1.2814453125 1.9221679687500002 2.8832519531250003 4.3248779296875 "
    "6.487316894531251 9.730975341796876 14.596463012695313 21.89469451904297 32.84204177856446 "
    "49.26306266784668 +Inf",
}
LATENCIES = ("time_to_first_token", "e2e_request_latency", "time_per_output_token")


class Figures:
    """What one scrape says: samples by name, without the prefix `sglang:`."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def __getitem__(self, name: str) -> float:
        (value,) = (each.value for each in self.samples if each.name == f"sglang:{name}")
        return value

    def counts(self) -> tuple[float, ...]:
        """How many requests are in each histogram of latencies."""
        return tuple(self[f"{name}_seconds_count"] for name in LATENCIES)


async def scrape(worker: RunningWorker) -> Figures:
    response = await worker.http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return Figures(response.text)


@pytest.fixture
async def measured(start_worker: StartWorker) -> RunningWorker:
    """A worker with metrics, whose model is served under a name of its own."""
    return await start_worker(enable_metrics=True, served_model_name="mine")


async def test_there_are_none_unless_asked_for(worker: RunningWorker) -> None:
    assert_error(await worker.http.get("/metrics"), 404, "not_found_error", "unknown_url")


async def test_families_labels_and_buckets_are_those_of_the_reference(
    measured: RunningWorker,
) -> None:
    await measured.http.post("/generate", json={"text": "hi"})
    figures = await scrape(measured)
    assert {family.name: family.type for family in figures.families} == FAMILIES
    for sample in figures.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        function = sample.name.startswith("sglang:func_latency_seconds")
        assert labels == ({"name": "generate_request"} if function else {"model_name": "mine"})
    for name, bounds in BOUNDS.items():
        buckets = [s for s in figures.samples if s.name == f"sglang:{name}_bucket"]
        assert [s.labels["le"] for s in buckets] == bounds.split()


async def test_gauges_are_what_the_scheduler_says_at_that_moment(measured: RunningWorker) -> None:
    figures = await scrape(measured)
    assert (figures["num_running_reqs"], figures["num_queue_reqs"]) == (1, 2)
    assert (figures["num_used_tokens"], figures["token_usage"]) == (25, 0.25)
    assert (figures["gen_throughput"], figures["cache_hit_rate"]) == (12.5, 0.25)


async def test_forced_tokens_are_counted_once(measured: RunningWorker) -> None:
    for figures in [await scrape(measured), await scrape(measured)]:
        name = "radixfleet_worker_forced_tokens_total"
        assert [sample.value for sample in figures.samples if sample.name == name] == [6]


async def test_a_silent_scheduler_leaves_the_rest_and_what_it_said(
    measured: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scrape(measured)
    monkeypatch.setattr(worker_metrics, "_ANSWER_SECONDS", 0.05)
    measured.scheduler.answers_questions = False
    assert (await scrape(measured))["num_used_tokens"] == 25


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_are_counted_however_they_are_asked_for(
    measured: RunningWorker, stream: bool
) -> None:
    measured.scheduler.script = answer_with([5, 6, 7])
    client = measured.openai()
    messages = [{"role": "user", "content": "hello"}]
    chat = await client.chat.completions.create(model="m", messages=messages, stream=stream)
    prompt = "one two"
    text = await client.completions.create(model="m", prompt=prompt, stream=stream)
    if stream:
        for answer in (chat, text):
            async for _ in answer:
                pass
    await measured.http.post("/generate", json={"text": prompt, "stream": stream})
    asked = sum(len(request.input_ids) for request in measured.scheduler.requests)
    figures = await scrape(measured)
    assert figures["prompt_tokens_total"] == asked
    assert figures["generation_tokens_total"] == 3 * 4
    assert figures.counts() == (3, 3, 3)
    functions = [s for s in figures.samples if s.name == "sglang:func_latency_seconds_count"]
    assert {sample.labels["name"]: sample.value for sample in functions} == {
        "generate_request": 1,
        "openai_v1_chat_completions": 1,
        "openai_v1_completions": 1,
    }


async def test_a_prompt_alone_is_counted_and_has_no_first_token(measured: RunningWorker) -> None:
    measured.scheduler.script = answer_with([5], finish=FinishReason("length"))
    body = {"input_ids": [5, 6, 7], "sampling_params": {"max_new_tokens": 0}}
    assert (await measured.http.post("/generate", json=body)).status_code == 200
    figures = await scrape(measured)
    assert figures["prompt_tokens_total"] == 3
    assert figures["generation_tokens_total"] == 0
    assert figures.counts() == (0, 1, 0)


async def test_latencies_are_those_of_the_first_token_the_others_and_all(
    measured: RunningWorker,
) -> None:
    measured.scheduler.script = lambda request: []
    asking = asyncio.ensure_future(
        measured.http.post("/generate", json={"text": "hi", "rid": "r"}),
    )
    await eventually(lambda: bool(measured.scheduler.requests), "the request arrives")
    await asyncio.sleep(0.06)
    await measured.scheduler.send(TokenChunks([TokenChunk("r", [5], 0)]))
    await asyncio.sleep(0.12)
    await measured.scheduler.send(
        TokenChunks([TokenChunk("r", [6, 7, 8], 0, FinishReason("length"))])
    )
    await asking
    figures = await scrape(measured)
    first, whole, each = (figures[f"{name}_seconds_sum"] for name in LATENCIES)
    assert first > 0.05
    assert whole > first + 0.1
    assert each == pytest.approx((whole - first) / 3)


async def test_a_stop_string_completes_an_answer(measured: RunningWorker) -> None:
    ids = measured.ids("say STOP and more")
    measured.scheduler.script = answer_with(ids, finish=None)
    sampling = {"stop": "STOP"}
    await measured.http.post("/generate", json={"text": "hi", "sampling_params": sampling})
    assert (await scrape(measured)).counts() == (1, 1, 1)


async def test_a_client_that_leaves_has_no_latency_of_an_answer(measured: RunningWorker) -> None:
    measured.scheduler.script = answer_with([5, 6], finish=None)
    body = {"text": "hi", "stream": True}
    async with measured.http.stream("POST", "/generate", json=body) as response:
        await anext(response.aiter_lines())
    await eventually(lambda: bool(measured.scheduler.aborted), "the request is aborted")
    figures = await scrape(measured)
    assert figures.counts() == (1, 0, 0)
    assert figures["generation_tokens_total"] == 2


async def test_refused_requests_have_no_latencies(measured: RunningWorker) -> None:
    measured.scheduler.script = answer_with([], finish=FinishReason("abort", message="no"))
    response = await measured.http.post("/generate", json={"text": "hi"})
    assert response.status_code == 500
    assert (await scrape(measured)).counts() == (0, 0, 0)


async def test_probes_and_requests_that_do_not_want_to_are_not_counted(
    measured: RunningWorker,
) -> None:
    measured.scheduler.script = answer_with([5, 6])
    assert (await measured.http.get("/health_generate")).status_code == 200
    await measured.http.post("/generate", json={"text": "hi", "log_metrics": False})
    figures = await scrape(measured)
    assert figures.counts() == (0, 0, 0)
    assert figures["prompt_tokens_total"] == figures["generation_tokens_total"] == 0


async def test_the_key_guards_them(start_worker: StartWorker) -> None:
    worker = await start_worker(enable_metrics=True, api_key="secret")
    assert_error(await worker.http.get("/metrics"), 401, "authentication_error", "invalid_api_key")
    right = {"authorization": "Bearer secret"}
    response: httpx.Response = await worker.http.get("/metrics", headers=right)
    assert response.status_code == 200
    assert "secret" not in response.text
