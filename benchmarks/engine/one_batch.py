"""Latency of one batch at a time: prefill, each decode step, and the CPU's part of it.

    python benchmarks/engine/one_batch.py --model llama-3.1-8b --batch-size 1 64 256
    python benchmarks/engine/one_batch.py --decode-only --batch-size 1 2 4 8 16 64 256

All requests of a batch start at once, with dummy weights and without the prefix cache. The options
of a worker are taken too (--attention-backend, --disable-overlap-schedule, ...).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that this file can be run as it is

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.engine import options
from benchmarks.engine.engines import Radixfleet
from benchmarks.engine.models import vocab_size
from benchmarks.engine.step_clock import DecodeTimes, StepClock
from benchmarks.engine.step_trace import trace_batch
from benchmarks.engine.workloads import Batch, Sizes, seconds
from benchmarks.report import machine, write_document
from worker.config import positive_int


@dataclass(frozen=True)
class Latency:
    """Medians of one shape of batch. `decode` is None if no two steps only decoded; the seconds are
    None where decode steps alone were measured.
    """

    batch_size: int
    input_length: int
    output_length: int
    decode: DecodeTimes | None
    prefill_seconds: float | None = None
    total_seconds: float | None = None

    @property
    def cells(self) -> list[str]:
        """A row of the table."""
        prompts = self.batch_size * self.input_length
        answers = self.batch_size * self.output_length
        cells = [f"{self.batch_size} x ({self.input_length} -> {self.output_length})"]
        decode = ["", "", ""]
        if self.decode:
            speed = 1e3 * self.batch_size / self.decode.period
            decode = [f"{self.decode.period:.3f}", f"{speed:,.0f}", f"{self.decode.cpu:.3f}"]
        cells += decode
        if self.prefill_seconds is not None and self.total_seconds is not None:
            cells += [f"{1e3 * self.prefill_seconds:.2f}", f"{prompts / self.prefill_seconds:,.0f}"]
            cells += [f"{answers / self.total_seconds:,.0f}"]
        return cells


def main(argv: Sequence[str] | None = None) -> None:
    parsed = _parse(argv)
    console = Console(width=130)
    facts = machine()
    console.print(", ".join(f"{key} {value}" for key, value in facts.items()), style="dim")
    sizes = Sizes(np.random.default_rng(parsed.seed), vocab_size(parsed.model))
    engine = Radixfleet(parsed.model, prefix_cache=False, **options.server_arguments(parsed))
    latencies = []
    for batch_size in parsed.batch_size:
        for input_length in parsed.input_len:
            batch = sizes.equal(batch_size, input_length, parsed.output_len)
            if parsed.decode_only:
                latencies.append(measure_decode(engine, batch))
            else:
                latencies.append(measure(engine, batch, parsed.repeats))
            if parsed.profile:
                _trace(engine, batch, Path(parsed.profile), decode_only=parsed.decode_only)
    engine.close()
    _show(console, Path(parsed.model).name, latencies)
    if parsed.output:
        rows = [asdict(latency) for latency in latencies]
        write_document(parsed.output, facts, model=Path(parsed.model).name, latencies=rows)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser(__doc__)
    options.add_profile(parser)
    parser.add_argument("--batch-size", type=positive_int, nargs="+", default=[1, 8, 64, 256])
    parser.add_argument("--input-len", type=positive_int, nargs="+", default=[1024], help="tokens")
    parser.add_argument("--output-len", type=positive_int, default=64, help="tokens, at least 3")
    parser.add_argument("--repeats", type=positive_int, default=3)
    parser.add_argument(
        "--decode-only",
        action="store_true",
        help="measure nothing but decode steps, in one run of each batch: seconds instead of "
        "minutes",
    )
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def measure(engine: Radixfleet, batch: Batch, repeats: int) -> Latency:
    """One run to warm up, then medians over `repeats`; steps count where all requests decode."""
    first = _first_tokens(batch)
    seconds(engine, batch)
    prefills = [seconds(engine, first) for _ in range(repeats)]
    with StepClock(engine.engine.scheduler) as clock:
        totals = [seconds(engine, batch) for _ in range(repeats)]
    return _latency(batch, clock, statistics.median(prefills), statistics.median(totals))


def measure_decode(engine: Radixfleet, batch: Batch) -> Latency:
    """Steps of one run in which all requests decode."""
    with StepClock(engine.engine.scheduler) as clock:
        seconds(engine, batch)
    return _latency(batch, clock)


def _latency(batch: Batch, clock: StepClock, *prefill_and_total: float) -> Latency:
    return Latency(
        len(batch.prompts),
        len(batch.prompts[0]),
        batch.output_lengths[0],
        DecodeTimes.of(clock.times, at_least=len(batch.prompts)),
        *prefill_and_total,
    )


def _first_tokens(batch: Batch) -> Batch:
    return Batch(batch.prompts, [1] * len(batch.prompts))


def _trace(engine: Radixfleet, batch: Batch, folder: Path, *, decode_only: bool) -> None:
    """Some steps of the prefill, and some where all requests decode."""
    shape = f"{len(batch.prompts)}x{len(batch.prompts[0])}"
    if not decode_only:
        trace_batch(engine, _first_tokens(batch), folder / f"prefill-{shape}.json.gz")
    trace_batch(engine, batch, folder / f"decode-{shape}.json.gz")


def _show(console: Console, model: str, latencies: Sequence[Latency]) -> None:
    columns = ["decode step ms", "decode tokens/s", "CPU ms a decode step"]
    if any(latency.total_seconds is not None for latency in latencies):
        columns += ["prefill ms", "input tokens/s", "output tokens/s in all"]
    table = Table("batch", *columns, title=f"{model}, dummy weights", title_justify="left")
    for latency in latencies:
        table.add_row(*latency.cells)
    console.print(table)


if __name__ == "__main__":
    main()
