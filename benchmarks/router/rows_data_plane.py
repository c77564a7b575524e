"""Rows on what passing requests and answers on costs: CPU, time, memory."""

from __future__ import annotations

from .load import run_load
from .row import Bench, Contestant, Figures, Measure, Observed, Reach, row

PREFIX_POLICIES = ("cache_aware", "expected_cost")

# Below this share of its core in use, the load or the workers were the limit, not the router.
SATURATED = 0.9


def _all_answered(observed: Observed) -> None:
    failures = observed.result["failures"]
    if failures or not observed.result["count"]:
        first = observed.result["first_failure"]
        raise ValueError(f"{failures} failures, {observed.result['count']} answers; first: {first}")


def _cpu_per_thousand(
    bench: Bench, contestant: Contestant, policy: str, *load: str | int
) -> Figures:
    with bench.router(contestant, policy) as router:
        observed = bench.load(router, "closed", "--seconds", bench.seconds(3), *load)
    _all_answered(observed)
    return {
        "CPU per 1,000": observed.cpu_seconds / observed.result["count"] * 1e6,
        "requests/s": observed.result["per_second"],
    }


@row(
    "tiny",
    "tiny requests, 64 connections",
    Measure("CPU per 1,000", "ms", Reach(25, of_best_peer=0.5)),
    Measure("requests/s", "/s", more_is_better=True),
)
def tiny(bench: Bench, contestant: Contestant) -> Figures:
    return _cpu_per_thousand(bench, contestant, "round_robin", "--body", "tiny")


@row(
    "chat",
    "chat bodies of 2 KB, 64 connections, prefix-aware",
    Measure("CPU per 1,000", "ms", Reach(30)),
    Measure("requests/s", "/s", more_is_better=True),
    policies=PREFIX_POLICIES,
)
def chat(bench: Bench, contestant: Contestant) -> Figures:
    return _cpu_per_thousand(bench, contestant, "cache_aware", "--body", "chat")


@row(
    "http2",
    "tiny requests, 64 at once over 4 connections of HTTP/2",
    Measure("CPU per 1,000", "ms"),
    Measure("requests/s", "/s", more_is_better=True),
    only_ours=True,
)
def http2(bench: Bench, contestant: Contestant) -> Figures:
    return _cpu_per_thousand(bench, contestant, "round_robin", "--http2-connections", 4)


@row(
    "latency",
    "200 requests/s, beside requests straight to a worker",
    Measure("added p50", "µs", Reach(80, of_best_peer=0.5)),
    Measure("added p99", "µs", Reach(250)),
)
def latency(bench: Bench, contestant: Contestant) -> Figures:
    flags = ["--rate", "200", "--seconds", str(bench.seconds(4))]
    direct = f"127.0.0.1:{bench.workers.ports[0]}"
    straight = run_load(["open", "--target", direct, *flags], bench.cores.load)
    with bench.router(contestant, "round_robin") as router:
        observed = bench.load(router, "open", *flags)
    _all_answered(observed)
    return {
        "added p50": observed.result["p50_us"] - straight["p50_us"],
        "added p99": observed.result["p99_us"] - straight["p99_us"],
    }


def _paced_streams(bench: Bench, contestant: Contestant, *flags: str | int) -> Figures:
    bench.workers.settings(chunk_interval_us=10_000)
    with bench.router(contestant, "round_robin") as router:
        seconds = bench.seconds(4)
        observed = bench.load(router, "streams", "--count", 128, "--seconds", seconds, *flags)
    _all_answered(observed)
    return {
        "CPU per million chunks": observed.cpu_seconds / observed.result["count"] * 1e6,
        "chunk lag p99": observed.result["p99_us"] / 1e3,
    }


@row(
    "streams",
    "128 streams, a chunk each 10 ms",
    Measure("CPU per million chunks", "s", Reach(12, of_nginx=1.1)),
    Measure("chunk lag p99", "ms", Reach(0.6)),
)
def streams(bench: Bench, contestant: Contestant) -> Figures:
    return _paced_streams(bench, contestant)


@row(
    "streams-http2",
    "the same over 4 connections of HTTP/2",
    Measure("CPU per million chunks", "s"),
    Measure("chunk lag p99", "ms"),
    only_ours=True,
)
def streams_http2(bench: Bench, contestant: Contestant) -> Figures:
    return _paced_streams(bench, contestant, "--http2-connections", 4)


def _open_streams(bench: Bench, contestant: Contestant, count: int) -> Observed:
    bench.workers.settings(chunk_interval_us=1_000_000)
    with bench.router(contestant, "round_robin") as router:
        bench.warm_up(router)
        seconds = bench.seconds(2)
        observed = bench.load(router, "streams", "--count", count, "--seconds", seconds)
    _all_answered(observed)
    return observed


@row("stream-memory", "2,000 open streams", Measure("memory per stream", "KB", Reach(20)))
def stream_memory(bench: Bench, contestant: Contestant) -> Figures:
    count = bench.count(2000)
    return {"memory per stream": _open_streams(bench, contestant, count).growth_bytes / 1e3 / count}


@row(
    "10000-streams",
    "10,000 streams at once, a chunk each second",
    Measure("opened", "", Reach(10_000), more_is_better=True),
    Measure("memory per stream", "KB", Reach(20)),
    Measure("chunk lag p99", "ms"),
    only_ours=True,
)
def ten_thousand_streams(bench: Bench, contestant: Contestant) -> Figures:
    observed = _open_streams(bench, contestant, 10_000)
    return {
        "opened": observed.result["opened"],
        "memory per stream": observed.growth_bytes / 1e3 / 10_000,
        "chunk lag p99": observed.result["p99_us"] / 1e3,
    }


@row("unread", "20 clients that do not read, 6 s", Measure("memory growth", "MB", Reach(2)))
def unread(bench: Bench, contestant: Contestant) -> Figures:
    with bench.router(contestant, "round_robin") as router:
        bench.warm_up(router)
        flags = ("--count", 20, "--unread", "--seconds", bench.seconds(6))
        observed = bench.load(router, "streams", *flags)
    if observed.result["opened"] < 20:
        raise ValueError(f"only {observed.result['opened']} of 20 streams opened")
    return {"memory growth": observed.growth_bytes / 1e6}


def _large(bench: Bench, contestant: Contestant, prompt_bytes: int) -> Figures:
    with bench.router(contestant, "cache_aware") as router:
        flags = ("--connections", 16, "--body", prompt_bytes, "--seconds", bench.seconds(2))
        observed = bench.load(router, "closed", *flags)
    _all_answered(observed)
    return {
        "requests/s": observed.result["per_second"],
        "core in use": 100 * observed.cpu_seconds / observed.result["seconds"],
    }


@row(
    "32KB",
    "distinct prompts of 32 KB, 16 connections, prefix-aware",
    Measure("requests/s", "/s", Reach(20_000, of_best_peer=3), more_is_better=True),
    Measure("core in use", "%"),
    policies=PREFIX_POLICIES,
)
def prompts_32_kb(bench: Bench, contestant: Contestant) -> Figures:
    return _large(bench, contestant, 32 << 10)


@row(
    "256KB",
    "distinct prompts of 256 KB, 16 connections, prefix-aware",
    Measure("requests/s", "/s", Reach(5_000, of_best_peer=3), more_is_better=True),
    Measure("core in use", "%"),
    policies=PREFIX_POLICIES,
)
def prompts_256_kb(bench: Bench, contestant: Contestant) -> Figures:
    return _large(bench, contestant, 256 << 10)


@row(
    "prompt-memory",
    "20,000 distinct prompts of 2 KB, prefix-aware",
    Measure("memory per prompt", "bytes", Reach(1_500)),
    policies=PREFIX_POLICIES,
)
def prompt_memory(bench: Bench, contestant: Contestant) -> Figures:
    count = bench.count(20_000)
    with bench.router(contestant, "cache_aware") as router:
        bench.warm_up(router)
        flags = ("--requests", count, "--warm-up-seconds", 0, "--seconds", 60)
        observed = bench.load(router, "closed", "--connections", 16, "--body", 2048, *flags)
    _all_answered(observed)
    return {"memory per prompt": observed.growth_bytes / observed.result["count"]}
