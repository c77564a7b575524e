"""GET /metrics under `--enable-metrics`: Prometheus families with SGLang 0.4.3's names.

Requests are measured here, in the HTTP process. What the scheduler knows it is asked for when
somebody scrapes, so that a step costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import prometheus_client
from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics import MetricWrapperBase
from starlette.types import ASGIApp, Receive, Scope, Send

from ..messages import Embedding, EmbedRequest, GenerateRequest, SchedulerState, TokenChunk
from .errors import ApiError
from .http_exchange import arrival
from .service import WorkerService

logger = logging.getLogger(__name__)

_Family = TypeVar("_Family", bound=MetricWrapperBase)

# A scheduler that has not answered by then is in a long step: its last figures are shown.
_ANSWER_SECONDS = 2.0

# Upper bounds of buckets, in seconds.
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75)
_FIRST_TOKEN += (1, 2.5, 5, 7.5, 10, 15, 20, 25, 30)
_END_TO_END = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60)
_OUTPUT_TOKEN = (0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)
_OUTPUT_TOKEN += (0.4, 0.5, 0.75, 1, 2.5)
_FUNCTION = tuple(0.05 * 1.5**power for power in range(18))

# The label `name` of function latency, by path.
_FUNCTIONS = {
    "/generate": "generate_request",
    "/v1/chat/completions": "openai_v1_chat_completions",
    "/v1/completions": "openai_v1_completions",
    "/v1/responses": "openai_v1_responses",
    "/encode": "encode_request",
    "/classify": "classify_request",
    "/v1/embeddings": "openai_v1_embeddings",
    "/v1/rerank": "v1_rerank_request",
    "/rerank": "v1_rerank_request",
    "/v1/score": "v1_score_request",
    "/score": "v1_score_request",
}


@dataclass
class _Life:
    """A request that runs. Times are seconds of a monotonic clock."""

    arrived: float
    prompt_tokens: int
    generated_tokens: int = 0
    first_token: float | None = None


class WorkerMetrics:
    """The families, and the lives of the requests that run."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model_name = model_name
        self._lives: dict[str, _Life] = {}
        self._prompt_tokens = self._of_model(
            Counter, "prompt_tokens_total", "Number of prefill tokens processed."
        )
        self._generation_tokens = self._of_model(
            Counter, "generation_tokens_total", "Number of generation tokens processed."
        )
        self._first_token = self._of_model(
            Histogram,
            "time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            buckets=_FIRST_TOKEN,
        )
        self._end_to_end = self._of_model(
            Histogram,
            "e2e_request_latency_seconds",
            "Histogram of End-to-end request latency in seconds",
            buckets=_END_TO_END,
        )
        self._output_token = self._of_model(
            Histogram,
            "time_per_output_token_seconds",
            "Histogram of time per output token in seconds.",
            buckets=_OUTPUT_TOKEN,
        )
        self.function_latency = Histogram(
            "sglang:func_latency_seconds",
            "Function latency in seconds",
            ["name"],
            buckets=_FUNCTION,
            registry=self.registry,
        )
        self._forced_tokens = Counter(
            "radixfleet_worker_forced_tokens",
            "Number of generation tokens that a grammar forced, without a step for each.",
            ["model_name"],
            registry=self.registry,
        ).labels(self._model_name)
        self._forced_tokens_shown = 0
        self._running = self._of_model(Gauge, "num_running_reqs", "The number of running requests")
        self._used_tokens = self._of_model(Gauge, "num_used_tokens", "The number of used tokens")
        self._throughput = self._of_model(
            Gauge, "gen_throughput", "The generate throughput (token/s)"
        )
        self._queued = self._of_model(
            Gauge, "num_queue_reqs", "The number of requests in the waiting queue"
        )
        self._token_usage = self._of_model(Gauge, "token_usage", "The token usage")
        self._hit_rate = self._of_model(Gauge, "cache_hit_rate", "The cache hit rate")

    def _of_model(
        self, kind: type[_Family], name: str, documentation: str, **options: Any
    ) -> _Family:
        family = kind(
            f"sglang:{name}", documentation, ["model_name"], registry=self.registry, **options
        )
        return family.labels(self._model_name)

    # ===== what the engine's client reports =====

    def opened(self, requests: Sequence[GenerateRequest] | Sequence[EmbedRequest]) -> None:
        """These are on their way to the scheduler."""
        arrived = arrival.get() or time.monotonic()
        for request in requests:
            self._lives[request.rid] = _Life(arrived, len(request.input_ids))

    def received(self, chunks: Sequence[TokenChunk]) -> None:
        """Tokens of some requests have come."""
        now = time.monotonic()
        prompt_tokens = generated_tokens = 0
        for chunk in chunks:
            life = self._lives.get(chunk.rid)
            if life is None:
                continue
            if life.first_token is None and chunk.token_ids:
                life.first_token = now
                self._first_token.observe(now - life.arrived)
                prompt_tokens += life.prompt_tokens
            life.generated_tokens += len(chunk.token_ids)
            generated_tokens += len(chunk.token_ids)
            if chunk.finish is not None:
                complete = chunk.finish.kind != "abort"
                if complete and life.first_token is None:  # the prompt alone was wanted
                    prompt_tokens += life.prompt_tokens
                self.ended(chunk.rid, complete=complete)
        self._prompt_tokens.inc(prompt_tokens)
        self._generation_tokens.inc(generated_tokens)

    def embedded(self, embeddings: Sequence[Embedding]) -> None:
        """Some texts have been embedded, or given up."""
        done = {each.rid: each.failure is None for each in embeddings if each.rid in self._lives}
        tokens = sum(self._lives[rid].prompt_tokens for rid, complete in done.items() if complete)
        self._prompt_tokens.inc(tokens)
        for rid, complete in done.items():
            self.ended(rid, complete=complete)

    def ended(self, rid: str, *, complete: bool) -> None:
        """A request runs no more. Without its `complete` answer its latencies say nothing."""
        life = self._lives.pop(rid, None)
        if life is None or not complete:
            return
        now = time.monotonic()
        self._end_to_end.observe(now - life.arrived)
        if life.first_token is not None and life.generated_tokens > 1:
            self._output_token.observe((now - life.first_token) / (life.generated_tokens - 1))

    # ===== what the scheduler says =====

    def show(self, state: SchedulerState) -> None:
        """Set the gauges, and count what the scheduler counts."""
        self._running.set(state.running_requests)
        self._queued.set(state.waiting_requests)
        self._used_tokens.set(state.used_tokens)
        self._token_usage.set(state.used_tokens / state.total_tokens)
        self._throughput.set(state.generation_throughput)
        self._forced_tokens.inc(state.forced_tokens_total - self._forced_tokens_shown)
        self._forced_tokens_shown = state.forced_tokens_total
        self._hit_rate.set(state.cached_prompt_tokens_total / max(state.prompt_tokens_total, 1))


def install_metrics(app: FastAPI, service: WorkerService) -> None:
    """Measure the requests of `service` from now on, and serve what was found."""
    prometheus_client.disable_created_metrics()
    metrics = WorkerMetrics(service.model_name)
    service.engine.report_to(metrics)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics(request: Request) -> Response:
        """Metrics in Prometheus's text format."""
        try:
            metrics.show(await service.engine.state(_ANSWER_SECONDS))
        except ApiError as error:
            logger.warning("metrics of an earlier time are shown: %s", error)
        body = prometheus_client.generate_latest(metrics.registry)
        return Response(body, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    app.add_middleware(_FunctionLatency, histogram=metrics.function_latency)


class _FunctionLatency:
    """Observes how long an answer took, the sending of a stream included."""

    def __init__(self, app: ASGIApp, histogram: Histogram) -> None:
        self._app = app
        self._histogram = histogram

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = _FUNCTIONS.get(scope["path"]) if scope["type"] == "http" else None
        if name is None:
            await self._app(scope, receive, send)
            return
        with self._histogram.labels(name).time():
            await self._app(scope, receive, send)
