"""What decoding gains by reading a shared prefix once, and what that costs where none is shared.

    python benchmarks/engine/prefix_sharing.py --model llama-3.1-8b
    python benchmarks/engine/prefix_sharing.py --parts layer --curve members --quick

Three parts, each with prefix sharing and without: `layer`, the attention of one layer (triton) over
groups of sequences, with the bytes that it reads beside the least possible and the CPU's time for
its plan; `engine`, the speed of all and the time of a decode step; `unshared`, decode steps of
requests that have nothing in common. The options of a worker are taken too (--kv-cache-dtype, ...).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that this file can be run as it is

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.engine import options
from benchmarks.engine.attention_layer import AttentionLayer, Groups
from benchmarks.engine.engines import Radixfleet
from benchmarks.engine.models import vocab_size
from benchmarks.engine.step_clock import DecodeTimes, StepClock
from benchmarks.engine.workloads import Batch, Sizes, total_speed
from benchmarks.report import RESULTS, machine
from worker.attention.base import AttentionSpec
from worker.config import positive_int
from worker.models.config import load_model_config
from worker.runtime.device import choose_device

COPY_BYTES_PER_SECOND = 4.3e12  # of an H200's memory, as it was measured

# Points of the curves: of one layer as (sequences, members of a group, shared, own tokens), of the
# engine as (groups, members, shared, own, output tokens), without groups as the batch size.
LAYER_CURVES = {
    "members": [(256, members, 2048, 256) for members in (1, 2, 4, 8, 16, 64)],
    "shared": [(256, 16, 256 << i, 256) for i in range(7)],
    "goal": [(1024, 16, 2048, 256)],
}
ENGINE_CURVES = {
    "members": [(256 // members, members, 2048, 128, 64) for members in (4, 16, 64)],
    "shared": [(16, 16, shared, 128, 64) for shared in (512, 2048, 8192)],
    "prefill": [(16, 16, 2048, 128, 1), (4, 64, 4096, 64, 1)],
    "goal": [(64, 16, 2048, 128, 256)],
}
UNSHARED = [1, 64, 256]
_UNSHARED_LENGTHS = (512, 64)  # prompt, answer


@dataclass(frozen=True)
class LayerRow:
    """One layer's attention in microseconds, with sharing and without; bytes that it has to read at
    least, that its plan reads, and that it reads without sharing; the plan's own microseconds.
    """

    sequences: int
    members: int
    shared: int
    own: int
    shared_us: float
    unshared_us: float
    least_bytes: int
    read_bytes: int
    unshared_bytes: int
    plan_grown_us: float
    plan_changed_us: float
    plan_unshared_us: float

    @property
    def terabytes_per_second(self) -> float:
        """Of those that have to be read."""
        return self.least_bytes / self.shared_us / 1e6

    @property
    def cells(self) -> list[str]:
        """A row of the table."""
        share = 1e12 * self.terabytes_per_second / COPY_BYTES_PER_SECOND
        return [
            f"{self.sequences // self.members} x {self.members}: {self.shared} + {self.own}",
            f"{self.unshared_us:.1f}",
            f"{self.shared_us:.1f}",
            f"{self.unshared_us / self.shared_us:.2f} x",
            *(f"{n / 1e6:,.0f}" for n in (self.unshared_bytes, self.read_bytes, self.least_bytes)),
            f"{self.terabytes_per_second:.2f}",
            f"{share:.0%}",
            f"{self.plan_grown_us:.0f} / {self.plan_changed_us:.0f} / {self.plan_unshared_us:.0f}",
        ]


@dataclass(frozen=True)
class Speed:
    """Prompt and generated tokens a second, and the median of steps in which all decode; None where
    answers have but one token.
    """

    total_tokens_per_second: float
    decode_step_ms: float | None


@dataclass(frozen=True)
class EngineRow:
    """The engine with prefix sharing and without; without groups, `members` is 1."""

    groups: int
    members: int
    shared: int
    own: int
    output: int
    sharing: Speed
    without: Speed

    @property
    def cells(self) -> list[str]:
        """A row of the table."""
        ours, other = self.sharing, self.without
        cells = [
            f"{self.groups} x {self.members}: {self.shared} + {self.own} -> {self.output}",
            f"{other.total_tokens_per_second:,.0f}",
            f"{ours.total_tokens_per_second:,.0f}",
            f"{ours.total_tokens_per_second / other.total_tokens_per_second:.3f} x",
        ]
        if ours.decode_step_ms is None or other.decode_step_ms is None:
            return cells
        return [
            *cells,
            f"{other.decode_step_ms:.3f}",
            f"{ours.decode_step_ms:.3f}",
            f"{other.decode_step_ms / ours.decode_step_ms:.3f} x",
        ]


def main(argv: Sequence[str] | None = None) -> None:
    parsed = _parse(argv)
    console = Console(width=150)
    facts = machine()
    console.print(", ".join(f"{key} {value}" for key, value in facts.items()), style="dim")
    if "layer" in parsed.parts:
        layers = list(_layer_rows(parsed))
        _show_layers(console, parsed.model, layers)
        _keep(parsed, facts, {"layer": layers})
    if wanted := [part for part in parsed.parts if part != "layer"]:
        found = _engine_rows(parsed, wanted)
        _show_engines(console, parsed.model, [row for part in wanted for row in found[part]])
        _keep(parsed, facts, found)
    console.print(f"written to {parsed.output}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser(__doc__)
    parts = ["layer", "engine", "unshared"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument(
        "--curve",
        nargs="+",
        choices=[*ENGINE_CURVES],
        default=[*ENGINE_CURVES],
        help="of layer and engine: over group sizes, over shared lengths, prompts alone (engine), "
        "the load to be reached",
    )
    parser.add_argument("--quick", action="store_true", help="the ends of each curve alone")
    parser.add_argument(
        "--shrink",
        type=positive_int,
        default=1,
        help="divide numbers of requests and tokens by this, to try the benchmark out",
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "prefix_sharing_gpu.json")
    return parser.parse_args(argv)


def _points(parsed: argparse.Namespace, curves: dict[str, list[tuple]]) -> list[tuple]:
    """Those of the wanted curves, each once."""
    wanted = [curves[name] for name in parsed.curve if name in curves]
    if parsed.quick:
        wanted = [[points[0], points[-1]] for points in wanted]
    return list(dict.fromkeys(point for points in wanted for point in points))


# ===== one layer =====


def _layer_rows(parsed: argparse.Namespace) -> Iterator[LayerRow]:
    config = load_model_config(parsed.model)
    heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
    spec = AttentionSpec(0, heads, kv_heads, head_dim, scale=head_dim**-0.5)
    device = choose_device(parsed.device)
    for sequences, members, shared, own in _points(parsed, LAYER_CURVES):
        sequences = max(1, sequences // parsed.shrink)
        groups = Groups(
            sequences,
            min(members, sequences),
            max(1, shared // parsed.shrink),
            max(1, own // parsed.shrink),
        )
        decoding = groups.decoding()
        layer = AttentionLayer(
            spec, decoding, device, dtype=parsed.dtype, kv_cache_dtype=parsed.kv_cache_dtype
        )
        plan, times = layer.plan(shares=True), layer.plan_times()
        yield LayerRow(
            **asdict(groups),
            shared_us=layer.microseconds(plan),
            unshared_us=layer.microseconds(layer.plan(shares=False)),
            least_bytes=layer.token_bytes * decoding.distinct_tokens,
            read_bytes=layer.token_bytes * layer.keys_read(plan),
            unshared_bytes=layer.token_bytes * int(decoding.seq_lens.sum()),
            plan_grown_us=times.grown,
            plan_changed_us=times.changed,
            plan_unshared_us=times.unshared,
        )


def _show_layers(console: Console, model: str, rows: Sequence[LayerRow]) -> None:
    columns = ["without us", "sharing us", "faster", "MB without", "MB read", "MB at least"]
    columns += ["TB/s of the least", f"of {COPY_BYTES_PER_SECOND / 1e12}"]
    columns += ["plan us: grown / changed / unshared"]
    title = f"{Path(model).name}: one layer's decode attention; groups x members: shared + own"
    table = Table("tokens", *columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row.cells)
    console.print(table)


# ===== the engine =====


def _engine_rows(parsed: argparse.Namespace, parts: Sequence[str]) -> dict[str, list[EngineRow]]:
    """By part; one engine measures all points with sharing, another without."""
    length, output = _UNSHARED_LENGTHS
    points = {
        "engine": _points(parsed, ENGINE_CURVES),
        "unshared": [(count, 1, 0, length, output) for count in UNSHARED],
    }
    speeds: dict[bool, dict[tuple, Speed]] = {}
    for shares in (True, False):
        arguments = options.server_arguments(parsed) | {"disable_prefix_sharing": not shares}
        engine = Radixfleet(parsed.model, prefix_cache=True, **arguments)
        sizes = Sizes(np.random.default_rng(parsed.seed), vocab_size(parsed.model), parsed.shrink)
        # Compiles what the first of these would wait for.
        total_speed(engine, sizes.groups(2, 16, shared_length=512, own_length=64, output_length=8))
        speeds[shares] = {
            point: _speed(engine, _batch(sizes, point)) for part in parts for point in points[part]
        }
        engine.close()
    return {
        part: [
            EngineRow(*point, speeds[True][point], speeds[False][point]) for point in points[part]
        ]
        for part in parts
    }


def _batch(sizes: Sizes, point: tuple[int, int, int, int, int]) -> Batch:
    groups, members, shared, own, output = point
    if members == 1:
        return sizes.equal(groups, shared + own, output)
    return sizes.groups(groups, members, shared_length=shared, own_length=own, output_length=output)


def _speed(engine: Radixfleet, batch: Batch) -> Speed:
    """Raises ValueError if no two steps decoded all requests."""
    engine.clear_prefix_cache()
    with StepClock(engine.engine.scheduler) as clock:
        speed = total_speed(engine, batch)
    if max(batch.output_lengths) == 1:
        return Speed(speed, None)
    decodes = DecodeTimes.of(clock.times, at_least=len(batch.prompts))
    if decodes is None:
        raise ValueError(f"{len(batch.prompts)} requests never decoded at the same time")
    return Speed(speed, decodes.period)


def _show_engines(console: Console, model: str, rows: Sequence[EngineRow]) -> None:
    columns = ["total tokens/s without", "sharing", "", "decode step ms without", "sharing", ""]
    title = f"{Path(model).name}, dummy weights; groups x members: shared + own -> output"
    table = Table("tokens", *columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row.cells)
    console.print(table)


def _keep(
    parsed: argparse.Namespace,
    facts: dict[str, str],
    found: Mapping[str, Sequence[LayerRow | EngineRow]],
) -> None:
    """Write the rows of each part; other models and other parts stay in the file."""
    path: Path = parsed.output
    document = {"benchmark": path.stem, "models": {}}
    if path.is_file():
        document = json.loads(path.read_text())
    parts = document["models"].setdefault(Path(parsed.model).name, {})
    for part, rows in found.items():
        parts[part] = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": facts,
            "arguments": options.server_arguments(parsed),
            "rows": [asdict(row) for row in rows],
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
