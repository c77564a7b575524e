"""What it costs to hold answers to a JSON schema: decode speed beside that of free answers.

    python benchmarks/engine/structured.py                                # SmolLM2, its own weights
    python benchmarks/engine/structured.py --model llama-3.1-8b           # a shape, dummy weights

Every grammar backend has engines of its own, with and without jump-forward, in which both kinds of
answers take turns. All have equally many tokens: free ones go on past the end of text, the others
are lists that must be longer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that this file can be run as it is

from rich.console import Console
from rich.table import Table

from benchmarks.engine import options
from benchmarks.engine.models import CONFIGS
from benchmarks.report import machine, write_document
from radixfleet import Engine
from worker.config import positive_int
from worker.grammar.registry import BACKENDS

# Of an item; all must be there, so that it has eight tokens or more.
PROPERTIES = {
    "name": {"type": "string"},
    "age": {"type": "integer"},
    "email": {"type": ["string", "null"]},
    "languages": {"type": "array", "items": {"enum": ["English", "French", "German", "Hindi"]}},
}


@dataclass(frozen=True)
class Row:
    """Medians of all turns in tokens a second, and of the turns' own ratios."""

    backend: str
    jump_forward: bool
    free: float
    schema: float
    ratio: float
    turns: list[tuple[float, float]]


def main(argv: Sequence[str] | None = None) -> None:
    parsed = _parse(argv)
    console = Console(width=130)
    facts = machine()
    console.print(", ".join(f"{key} {value}" for key, value in facts.items()), style="dim")
    jumps = (False,) if parsed.disable_jump_forward else (False, True)
    rows = [_measured(parsed, backend, jump) for backend in parsed.backends for jump in jumps]
    model = Path(parsed.model).name
    _show(console, f"{model}, {parsed.requests} requests, {parsed.answer} tokens each", rows)
    if parsed.output:
        write_document(
            parsed.output,
            facts,
            model=model,
            requests=parsed.requests,
            answer=parsed.answer,
            rows=[asdict(row) for row in rows],
        )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser(__doc__, own_weights="smollm2-135m")
    parser.add_argument(
        "--tokenizer",
        default="smollm2-135m",
        help="its tokens are those that a grammar allows or not (default: %(default)s)",
    )
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--requests", type=positive_int, default=32, help="that decode together")
    parser.add_argument("--answer", type=positive_int, default=256, help="tokens of an answer")
    parser.add_argument("--repeats", type=positive_int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


def _measured(parsed: argparse.Namespace, backend: str, jump_forward: bool) -> Row:
    """After a turn that compiles and fills caches."""
    arguments = options.server_arguments(parsed)
    arguments |= {"grammar_backend": backend, "disable_jump_forward": not jump_forward}
    if Path(parsed.model).parent == CONFIGS:
        arguments["load_format"] = "dummy"
    prompts = [f"{i} people as JSON:" for i in range(parsed.requests)]
    free = {"max_new_tokens": parsed.answer, "ignore_eos": True}
    held = free | {"json_schema": json.dumps(_schema(least_items=parsed.answer // 8 + 1))}
    with Engine(model_path=parsed.model, tokenizer_path=parsed.tokenizer, **arguments) as engine:
        turns = [
            (_speed(engine, prompts, free), _speed(engine, prompts, held))
            for _ in range(parsed.repeats + 1)
        ][1:]
    return Row(
        backend,
        jump_forward,
        free=statistics.median(free for free, _ in turns),
        schema=statistics.median(schema for _, schema in turns),
        ratio=statistics.median(schema / free for free, schema in turns),
        turns=turns,
    )


def _schema(least_items: int) -> dict[str, Any]:
    item = {"type": "object", "properties": PROPERTIES, "required": list(PROPERTIES)}
    return {"type": "array", "items": item, "minItems": least_items}


def _speed(engine: Engine, prompts: list[str], sampling_params: dict[str, Any]) -> float:
    """Tokens a second of all answers together."""
    started = time.perf_counter()
    answers = engine.generate(prompts, sampling_params)
    seconds = time.perf_counter() - started
    made = [answer["meta_info"]["completion_tokens"] for answer in answers]
    assert made == [sampling_params["max_new_tokens"]] * len(prompts), "an answer ended early"
    return sum(made) / seconds


def _show(console: Console, title: str, rows: Sequence[Row]) -> None:
    columns = ("backend", "jump-forward", "free, tokens/s", "schema", "ratio")
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        jump = "on" if row.jump_forward else "off"
        table.add_row(
            row.backend, jump, f"{row.free:,.0f}", f"{row.schema:,.0f}", f"{row.ratio:.3f}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
