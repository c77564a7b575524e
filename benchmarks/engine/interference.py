"""How running requests feel the long prompts of others: gaps between tokens, by scheduling options.

    python benchmarks/engine/interference.py --model llama-3.1-8b

So many requests decode all the time, while a long prompt arrives every so often. Each row of the
table is an engine of its own with other options, on dummy weights.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that this file can be run as it is

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.engine import options
from benchmarks.engine.engines import Radixfleet
from benchmarks.engine.models import vocab_size
from benchmarks.engine.workloads import Sizes
from benchmarks.report import machine, write_document
from worker.config import positive_int
from worker.messages import GenerateRequest, SamplingParams

_WARM_UP_SECONDS = 1.0

# Rows of the table: options on top of what the command line says.
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "mixed": {"enable_mixed_chunk": True},
    "chunks of 8192": {"chunked_prefill_size": 8192},
    "chunks of 2048": {"chunked_prefill_size": 2048},
    "chunks of 2048, mixed": {"chunked_prefill_size": 2048, "enable_mixed_chunk": True},
    "chunks of 1024, mixed": {"chunked_prefill_size": 1024, "enable_mixed_chunk": True},
}


@dataclass(frozen=True)
class Load:
    """`decoders` requests, each begun again when it ends; every so many seconds a long prompt."""

    decoders: int
    prompt: int
    every: float
    seconds: float


@dataclass(frozen=True)
class Feel:
    """Gaps between the tokens of a decoding request, and time to a long prompt's first token."""

    settings: str
    gap_p50_ms: float
    gap_p99_ms: float
    gap_max_ms: float
    first_token_p50_ms: float
    first_token_max_ms: float
    decode_tokens_per_second: float


def main(argv: Sequence[str] | None = None) -> None:
    parsed = _parse(argv)
    load = Load(parsed.decoders, parsed.prompt, parsed.every, parsed.seconds)
    console = Console(width=130)
    facts = machine()
    console.print(", ".join(f"{key} {value}" for key, value in facts.items()), style="dim")
    feels = []
    for name in parsed.settings:
        arguments = options.server_arguments(parsed) | SETTINGS[name]
        engine = Radixfleet(parsed.model, prefix_cache=False, **arguments)
        sizes = Sizes(np.random.default_rng(parsed.seed), vocab_size(parsed.model))
        feels.append(measure(engine, name, load, sizes))
        engine.close()
    _show(console, parsed.model, load, feels)
    if parsed.output:
        rows = [asdict(feel) for feel in feels]
        model = Path(parsed.model).name
        write_document(parsed.output, facts, model=model, load=asdict(load), rows=rows)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser(__doc__)
    parser.add_argument("--decoders", type=positive_int, default=64, help="requests that decode")
    parser.add_argument(
        "--prompt", type=positive_int, default=16384, help="tokens of a long prompt"
    )
    parser.add_argument("--every", type=float, default=1.0, help="seconds from one to the next")
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring, a row")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def measure(engine: Radixfleet, name: str, load: Load, sizes: Sizes) -> Feel:
    """Run the load for a moment unmeasured, then for `load.seconds`.

    Raises ValueError if a request does not fit, or no long prompt is answered in that time.
    """
    scheduler = engine.engine.scheduler
    arrivals: dict[str, float] = {}
    firsts: list[float] = []
    times: dict[str, list[float]] = defaultdict(list)

    def ask(rid: str, tokens: int, answer: int) -> None:
        params = SamplingParams(answer, temperature=0.0, ignore_eos=True)
        if refused := scheduler.add(GenerateRequest(rid, sizes.prompt(tokens), params)):
            raise ValueError(f"{rid} of {tokens} tokens is refused: {refused[0].finish}")

    started = time.perf_counter()
    measured = started + _WARM_UP_SECONDS
    ends = measured + load.seconds
    decoders = itertools.count()

    def ask_decoder() -> None:
        ask(f"decoder {next(decoders)}", 64, engine.engine.info.context_length - 65)

    for _ in range(load.decoders):
        ask_decoder()
    next_arrival = started + _WARM_UP_SECONDS / 2
    while (now := time.perf_counter()) < ends:
        if now >= next_arrival:
            rid = f"prompt {len(arrivals)}"
            arrivals[rid] = next_arrival
            next_arrival += load.every
            ask(rid, load.prompt, 1)
        chunks = scheduler.step()
        now = time.perf_counter()
        for chunk in chunks:
            if chunk.rid not in arrivals:
                times[chunk.rid].append(now)
                if chunk.finish is not None:
                    ask_decoder()
            elif arrivals[chunk.rid] >= measured:
                firsts.append(now - arrivals[chunk.rid])
    gaps = np.array(
        [later - at for ats in times.values() for at, later in pairwise(ats) if at >= measured]
    )
    if not firsts:
        raise ValueError(f"no long prompt was answered within {load.seconds} s; measure longer")
    return Feel(
        name,
        *(1e3 * np.quantile(gaps, [0.5, 0.99, 1.0])),
        *(1e3 * np.quantile(firsts, [0.5, 1.0])),
        len(gaps) / load.seconds,
    )


def _show(console: Console, model: str, load: Load, feels: Sequence[Feel]) -> None:
    title = (
        f"{Path(model).name}: {load.decoders} requests decode, a prompt of {load.prompt} tokens "
        f"every {load.every} s"
    )
    columns = ["gap p50 ms", "p99", "max", "first token p50 ms", "max", "decode tokens/s"]
    table = Table("options", *columns, title=title, title_justify="left")
    for feel in feels:
        name, *figures = asdict(feel).values()
        table.add_row(name, *(f"{figure:,.1f}" for figure in figures))
    console.print(table)


if __name__ == "__main__":
    main()
