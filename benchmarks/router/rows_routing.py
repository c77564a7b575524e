"""Rows on who is sent where: eight workers with a model of prefill and of a small prefix cache."""

from __future__ import annotations

from .load import run_load
from .row import PERFECT, Bench, Contestant, Figures, Measure, Reach, row

WORKERS = 8
POLICIES = ("cache_aware", "expected_cost")

# A worker: about 100,000 tokens of prefill a second, and 1 ms for every request.
PREFILL = {"bytes_per_second": 400_000, "overhead_us": 1000}
CHUNK_INTERVAL_US = 5000

CHATS = 200
TURNS = 8
FIRST_BYTES = 8192
TURN_BYTES = 400
ANSWER_CHUNKS = 8
CHAT_ARRIVAL_SECONDS = 5.0
THINK_MS = 180
# What a worker keeps of a whole chat: its texts, their roles, and answers of 17 bytes a chunk.
CHAT_BYTES = FIRST_BYTES + TURNS * (TURN_BYTES + ANSWER_CHUNKS * 17 + 20)

SYSTEM_PROMPTS = 40
QUESTIONS = 1600
QUESTION_ARRIVAL_SECONDS = 5.0


def _conversations(
    bench: Bench, contestant: Contestant, cache_bytes: int, *flags: str | float
) -> tuple[dict[str, float], list[dict[str, int]]]:
    """Replays conversations; returns times to the first token, and what each worker saw."""
    settings = {
        "chunk_interval_us": CHUNK_INTERVAL_US,
        "prefill": {**PREFILL, "cache_bytes": cache_bytes},
    }
    bench.workers.settings(**settings)
    arguments = ["--turn-bytes", TURN_BYTES, "--first-bytes", FIRST_BYTES]
    arguments += ["--answer-chunks", ANSWER_CHUNKS, "--seed", bench.seed, *flags]
    if contestant == PERFECT:
        targets = [f"127.0.0.1:{port}" for port in bench.workers.ports[:WORKERS]]
        command = ["conversations", "--targets", *targets, *map(str, arguments)]
        result = run_load(command, bench.cores.load)
    else:
        with bench.router(contestant, "cache_aware", WORKERS) as router:
            # The request that showed it ready counts for no worker.
            bench.workers.settings(**settings)
            result = bench.load(router, "conversations", *arguments).result
    if result["failures"]:
        raise ValueError(f"{result['failures']} conversations failed: {result['first_failure']}")
    return result, bench.workers.stats()


def max_over_mean(values: list[int]) -> float:
    return max(values) * len(values) / sum(values)


def _placement(result: dict[str, float], workers: list[dict[str, int]]) -> Figures:
    computed = [worker["prompt_bytes"] - worker["hit_bytes"] for worker in workers]
    hit = sum(worker["hit_bytes"] for worker in workers)
    ideal = sum(worker["ideal_hit_bytes"] for worker in workers)
    return {
        "hit rate": 100 * hit / ideal,
        "prefill max/mean": max_over_mean(computed),
        "TTFT p50": result["p50_us"] / 1e3,
        "TTFT p99": result["p99_us"] / 1e3,
    }


def _measures(hit: float, balance: float, p50: float, p99: float) -> tuple[Measure, ...]:
    return (
        Measure("hit rate", "% of ideal", Reach(hit), more_is_better=True),
        Measure("prefill max/mean", "", Reach(balance)),
        Measure("TTFT p50", "ms", Reach(p50)),
        Measure("TTFT p99", "ms", Reach(p99)),
    )


@row(
    "chats",
    f"{CHATS} chats of {TURNS} turns, 8 workers, each caches 1/16 of all",
    *_measures(98, 1.1, 4.4, 30),
    policies=POLICIES,
    with_perfect=True,
)
def chats(bench: Bench, contestant: Contestant) -> Figures:
    flags = ("--conversations", CHATS, "--turns", TURNS, "--think-ms", THINK_MS)
    arrival = ("--arrival-seconds", CHAT_ARRIVAL_SECONDS)
    cache_bytes = CHATS * CHAT_BYTES // 16
    return _placement(*_conversations(bench, contestant, cache_bytes, *flags, *arrival))


def _questions(shared_texts: int) -> tuple[str | float, ...]:
    flags = ("--conversations", QUESTIONS, "--turns", 1, "--shared-texts", shared_texts)
    return (*flags, "--arrival-seconds", QUESTION_ARRIVAL_SECONDS)


@row(
    "system-prompts",
    f"{SYSTEM_PROMPTS} system prompts (Zipf), one turn, 8 workers, each caches 1/4 of them",
    *_measures(97, 1.2, 2.5, 30),
    policies=POLICIES,
)
def system_prompts(bench: Bench, contestant: Contestant) -> Figures:
    cache_bytes = SYSTEM_PROMPTS * FIRST_BYTES // 4
    flags = _questions(SYSTEM_PROMPTS)
    return _placement(*_conversations(bench, contestant, cache_bytes, *flags))


@row(
    "one-prompt",
    "one system prompt for all, one turn, 8 workers",
    Measure("busiest/mean", "", Reach(1.05)),
    policies=POLICIES,
)
def one_prompt(bench: Bench, contestant: Contestant) -> Figures:
    cache_bytes = SYSTEM_PROMPTS * FIRST_BYTES // 4
    _, workers = _conversations(bench, contestant, cache_bytes, *_questions(1))
    return {"busiest/mean": max_over_mean([worker["requests"] for worker in workers])}
