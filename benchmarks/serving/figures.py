"""What a run comes to: latencies, throughput and failures; as tables and for JSON.

Latencies count from when a request is sent. Time to first token (TTFT): to the first chunk with
text. Inter-token latency (ITL): between chunks, evenly over a chunk's tokens where the server says
how many. Time per output token (TPOT): from the first to the last chunk over the tokens but one.
End to end (E2E): to the last chunk. Only answers that came whole count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from rich.console import Group
from rich.table import Table

from .backends import Answer
from .load import Run

# From here on the latencies may be the client's own.
BUSY_CLIENT = 0.8


def input_tokens(answer: Answer) -> int:
    """As the server counts them, or as the prompt was meant."""
    return answer.request.input_length if answer.prompt_tokens is None else answer.prompt_tokens


def output_tokens(answer: Answer) -> int:
    """As the server counts them, or one for each chunk."""
    return sum(answer.chunk_tokens) if answer.output_tokens is None else answer.output_tokens


def time_to_first_token(answer: Answer) -> float:
    return answer.chunk_times[0] - answer.sent


def end_to_end(answer: Answer) -> float:
    return answer.chunk_times[-1] - answer.sent


def inter_token_latencies(answer: Answer) -> list[float]:
    """One for each token after the first chunk."""
    gaps = (after - before for before, after in pairwise(answer.chunk_times))
    return [
        gap / tokens
        for gap, tokens in zip(gaps, answer.chunk_tokens[1:], strict=True)
        for _ in range(tokens)
    ]


def time_per_output_token(answer: Answer) -> float | None:
    """None for an answer of one token."""
    tokens = output_tokens(answer) - 1
    return (answer.chunk_times[-1] - answer.chunk_times[0]) / tokens if tokens > 0 else None


@dataclass(frozen=True)
class Latencies:
    """Seconds of many requests or tokens, by SGLang's short name and in words."""

    name: str
    what: str
    seconds: list[float]

    def statistics(self) -> dict[str, float]:
        """In milliseconds; nothing where there were none."""
        if not self.seconds:
            return {}
        values = 1000 * np.asarray(self.seconds)
        p50, p90, p95, p99 = np.percentile(values, (50, 90, 95, 99))
        named = {"mean": values.mean(), "median": p50, "p90": p90, "p95": p95, "p99": p99}
        return {name: float(value) for name, value in named.items()}


@dataclass(frozen=True)
class Figures:
    """`completed` are the answers that came whole."""

    completed: list[Answer]
    failures: Counter[str]
    duration_seconds: float
    client_cpu_share: float
    latencies: list[Latencies]
    delays: list[Latencies]
    """How long after they were due requests were sent, where they had times to arrive at."""

    @classmethod
    def of(cls, run: Run, paced: bool) -> Self:
        """`paced` says that requests had times to arrive at."""
        completed = [answer for answer in run.answers if answer.failure is None]
        per_token = (time_per_output_token(answer) for answer in completed)
        gaps = (gap for answer in completed for gap in inter_token_latencies(answer))
        latencies = [
            Latencies("ttft", "time to first token", [*map(time_to_first_token, completed)]),
            Latencies("tpot", "time per output token", [s for s in per_token if s is not None]),
            Latencies("itl", "inter-token latency", [*gaps]),
            Latencies("e2e_latency", "end to end", [*map(end_to_end, completed)]),
        ]
        late = [answer.sent - answer.due for answer in run.answers]
        delays = [Latencies("send_delay", "sent after it was due", late)] if paced else []
        return cls(
            completed,
            Counter(answer.failure for answer in run.answers if answer.failure is not None),
            run.duration_seconds,
            run.client_cpu_seconds / run.duration_seconds,
            latencies,
            delays,
        )

    def totals(self) -> dict[str, Any]:
        """Counts and throughput by the names of SGLang's bench_serving, then what it does not know.

        `concurrency` is the mean number of whole answers under way. `total_cached_tokens` is None
        where no server reports them.
        """
        counts = {
            "input": sum(map(input_tokens, self.completed)),
            "output": sum(map(output_tokens, self.completed)),
        }
        cached = [a.cached_tokens for a in self.completed if a.cached_tokens is not None]
        chunks = sum(len(answer.chunk_times) for answer in self.completed)
        seconds = self.duration_seconds
        return {
            "duration": seconds,
            "completed": len(self.completed),
            "failed": self.failures.total(),
            "total_input_tokens": counts["input"],
            "total_output_tokens": counts["output"],
            "total_cached_tokens": sum(cached) if cached else None,
            "request_throughput": len(self.completed) / seconds,
            "input_throughput": counts["input"] / seconds,
            "output_throughput": counts["output"] / seconds,
            "total_throughput": sum(counts.values()) / seconds,
            "concurrency": sum(map(end_to_end, self.completed)) / seconds,
            "tokens_per_chunk": counts["output"] / chunks if chunks else None,
            "client_cpu_share": self.client_cpu_share,
        }

    def document(self) -> dict[str, Any]:
        """All figures, flat: `p99_ttft_ms` and the like."""
        latencies = {
            f"{statistic}_{latency.name}_ms": value
            for latency in [*self.latencies, *self.delays]
            for statistic, value in latency.statistics().items()
        }
        return {**self.totals(), **latencies, "failures": dict(self.failures)}

    def render(self, title: str) -> Group:
        """Two tables, and whatever must not be overlooked below them."""
        return Group(self._throughput(title), self._latencies(), *self._warnings())

    def _throughput(self, title: str) -> Table:
        totals = self.totals()
        table = Table("", "requests", "input", "output", "input + output", title=title)
        table.title_justify = "left"
        tokens = [totals["total_input_tokens"], totals["total_output_tokens"]]
        counts = [totals["completed"], *tokens, sum(tokens)]
        table.add_row("whole answers, tokens", *(f"{count:,}" for count in counts))
        speeds = [totals[f"{name}_throughput"] for name in ("request", "input", "output", "total")]
        table.add_row("a second", *(f"{speed:,.2f}" for speed in speeds))
        if totals["total_cached_tokens"] is not None:
            share = totals["total_cached_tokens"] / max(1, tokens[0])
            table.add_row("cached", "", f"{totals['total_cached_tokens']:,} ({share:.1%})")
        table.caption = f"{self.duration_seconds:.2f} s, concurrency {totals['concurrency']:.2f}"
        if totals["tokens_per_chunk"] is not None:
            table.caption += f", {totals['tokens_per_chunk']:.2f} tokens a chunk"
        table.caption += f"; client: {self.client_cpu_share:.0%} of a core"
        return table

    def _latencies(self) -> Table:
        table = Table("ms", "mean", "median", "p90", "p95", "p99")
        for latency in [*self.latencies, *self.delays]:
            values = latency.statistics().values()
            table.add_row(latency.what, *(f"{value:,.2f}" for value in values))
        return table

    def _warnings(self) -> list[str]:
        lines = []
        if self.failures:
            lines.append(f"[red]{self.failures.total()} requests failed:[/]")
            lines += [
                f"  {count} x {_plain(reason)}" for reason, count in self.failures.most_common()
            ]
        uncounted = sum(answer.output_tokens is None for answer in self.completed)
        if uncounted:
            lines.append(f"{uncounted} answers had no usage: a chunk was counted as a token")
        if self.client_cpu_share > BUSY_CLIENT:
            lines.append("[red]this client was busy: latencies may be its own[/]")
        return lines


def _plain(text: str) -> str:
    """A bracket would be markup to rich."""
    return text.replace("[", "\\[")


def request_documents(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """A line for each request, in the order in which they were sent. Times in seconds."""
    return [
        {
            "sent": answer.sent,
            "ttft": time_to_first_token(answer) if answer.failure is None else None,
            "e2e_latency": end_to_end(answer) if answer.failure is None else None,
            "input_tokens": input_tokens(answer),
            "output_tokens": output_tokens(answer),
            "cached_tokens": answer.cached_tokens,
            "failure": answer.failure,
        }
        for answer in sorted(answers, key=lambda answer: answer.sent)
    ]
