"""What log-probabilities cost, and how fast texts are embedded.

    python benchmarks/engine/details.py --model llama-3.1-8b

The rows of answers are measured in turn with the same prompts, so that their ratios hold; then
texts of several lengths go through the model as an embedding one. Dummy weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
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

_GREEDY = {"temperature": 0, "ignore_eos": True}

# What a request asks for, beside its tokens.
WISHES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "chosen": {"return_logprob": True},
    "top 5": {"return_logprob": True, "top_logprobs_num": 5},
    "top 20": {"return_logprob": True, "top_logprobs_num": 20},
}


@dataclass(frozen=True)
class Row:
    """Tokens a second; `ratio` is to the row of its kind that asks for nothing, if there is one."""

    what: str
    asked: str
    tokens_per_second: float
    ratio: float | None


def main(argv: Sequence[str] | None = None) -> None:
    parsed = _parse(argv)
    console = Console(width=130)
    facts = machine()
    console.print(", ".join(f"{key} {value}" for key, value in facts.items()), style="dim")
    sizes = Sizes(np.random.default_rng(parsed.seed), vocab_size(parsed.model))
    arguments = options.server_arguments(parsed)
    rows = [*_answers(parsed, arguments, sizes), *_embeddings(parsed, arguments, sizes)]
    _show(console, Path(parsed.model).name, rows)
    if parsed.output:
        model = Path(parsed.model).name
        write_document(parsed.output, facts, model=model, rows=[asdict(row) for row in rows])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser(__doc__)
    parser.add_argument("--requests", type=positive_int, default=64, help="that decode together")
    parser.add_argument("--answer", type=positive_int, default=256, help="tokens of an answer")
    parser.add_argument("--prompts", type=positive_int, default=16, help="that are scored")
    parser.add_argument("--prompt", type=positive_int, default=4096, help="tokens of such a prompt")
    parser.add_argument(
        "--texts", type=positive_int, nargs="+", default=[64, 512, 4096], help="tokens of texts"
    )
    parser.add_argument("--embed", type=positive_int, default=2**18, help="tokens of all texts")
    parser.add_argument("--repeats", type=positive_int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def _answers(parsed: argparse.Namespace, arguments: dict[str, Any], sizes: Sizes) -> Sequence[Row]:
    wrapped = Radixfleet(parsed.model, prefix_cache=False, **arguments)
    engine = wrapped.engine
    short = [sizes.prompt(128) for _ in range(parsed.requests)]
    long = [sizes.prompt(parsed.prompt) for _ in range(parsed.prompts)]

    def decode(wish: dict[str, Any]) -> None:
        engine.generate(
            input_ids=short, sampling_params={**_GREEDY, "max_new_tokens": parsed.answer}, **wish
        )

    def score(wish: dict[str, Any]) -> None:
        start = {"logprob_start_len": 0} if wish else {}
        engine.generate(
            input_ids=long, sampling_params={**_GREEDY, "max_new_tokens": 0}, **wish, **start
        )

    rows = _compared("decode", decode, parsed.requests * parsed.answer, parsed.repeats)
    rows += _compared("prompt", score, parsed.prompts * parsed.prompt, parsed.repeats)
    wrapped.close()
    return rows


def _compared(
    what: str, run: Callable[[dict[str, Any]], None], tokens: int, repeats: int
) -> list[Row]:
    """The median speed of every wish, each measured once in every round after an unmeasured one."""
    seconds: dict[str, list[float]] = {name: [] for name in WISHES}
    for _ in range(repeats + 1):
        for name, wish in WISHES.items():
            seconds[name].append(_timed(partial(run, wish)))
    speeds = {name: tokens / statistics.median(times[1:]) for name, times in seconds.items()}
    return [Row(what, name, speed, speed / speeds["nothing"]) for name, speed in speeds.items()]


def _embeddings(
    parsed: argparse.Namespace, arguments: dict[str, Any], sizes: Sizes
) -> Sequence[Row]:
    wrapped = Radixfleet(parsed.model, prefix_cache=False, is_embedding=True, **arguments)
    rows = []
    for length in parsed.texts:
        texts = [sizes.prompt(length) for _ in range(max(1, parsed.embed // length))]
        run = partial(wrapped.engine.encode, input_ids=texts)
        seconds = [_timed(run) for _ in range(parsed.repeats + 1)]
        speed = len(texts) * length / statistics.median(seconds[1:])
        rows.append(Row("embed", f"texts of {length}", speed, None))
    wrapped.close()
    return rows


def _timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _show(console: Console, model: str, rows: Sequence[Row]) -> None:
    table = Table("what", "asked for", "tokens/s", "of nothing", title=model, title_justify="left")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.what, row.asked, f"{row.tokens_per_second:,.0f}", ratio)
    console.print(table)


if __name__ == "__main__":
    main()
