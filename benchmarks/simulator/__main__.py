"""Replays traces through the router's policies over simulated fleets, and prints how each did.

    python -m benchmarks.simulator                          every trace, fleets of 2, 8 and 64
    python -m benchmarks.simulator --trace my.jsonl --workers 4 --policies expected_cost,cache_aware

A trace of your own has a JSON object a line: timestamp (milliseconds), input_length, output_length
(tokens), hash_ids (one for every 512 tokens of the prompt; equal ids are equal text). Without
--load it keeps its pace.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from router_py import _core

from ..report import RESULTS
from .placements import PerfectSessions, RouterPolicy
from .plots import write_plots
from .replay import Outcome, Placement, at_load, replay, specs
from .traces import SYNTHETIC, Trace, read_trace
from .worker import WorkerSpec

REPOSITORY = Path(__file__).parents[2]
MOONCAKE = REPOSITORY.parent / "shared" / "data" / "mooncake_synthetic_trace.jsonl"
ORACLE = "perfect sessions"
POLICIES = tuple(
    next(option["choices"] for option in _core.options() if option["name"] == "policy")
)
MIXED = ", mixed GPUs"
"""Behind a trace's name: every other worker has half the speed."""
ON_MIXED = ("chats", "mooncake", "unique")


@dataclass(frozen=True)
class Scene:
    """A trace over a fleet."""

    name: str
    trace: Trace
    fleet: list[WorkerSpec]


@dataclass(frozen=True)
class Result:
    """A policy in a scene."""

    scene: str
    workers: int
    requests: int
    outcome: Outcome


def scenes(args: argparse.Namespace, workers: int) -> Iterator[Scene]:
    """What is to be replayed with so many workers."""
    length = 0.2 if args.quick else min(1.0, 16 / workers)
    for name in args.traces:
        base = name.removesuffix(MIXED)
        if base in SYNTHETIC:
            trace = SYNTHETIC[base](workers, length, args.seed)
        elif base == "mooncake":
            trace = replace(read_trace(MOONCAKE), name="mooncake")
        else:
            trace = read_trace(Path(base))
        if args.kv_tokens:
            trace = replace(trace, kv_tokens=args.kv_tokens)
        fleet = specs(trace, workers, mixed=name.endswith(MIXED))
        keeps_pace = base not in SYNTHETIC and base != "mooncake" and args.load is None
        if not keeps_pace:
            trace = at_load(replace(trace, load=args.load or trace.load), fleet)
        yield Scene(name, trace, fleet)


def run(scene: Scene, policy: str, seed: int) -> Result:
    workers = len(scene.fleet)
    placement: Placement
    if policy == ORACLE:
        placement = PerfectSessions(workers)
    else:
        placement = RouterPolicy(policy, workers, seed)
    outcome = replay(policy, scene.trace, scene.fleet, placement)
    return Result(scene.name, workers, len(scene.trace.requests), outcome)


def table_of(results: list[Result]) -> Table:
    first = results[0]
    workers = f"{first.workers} workers, {first.requests:,} requests"
    table = Table(title=f"{first.scene}: {workers}", title_justify="left")
    for heading in (
        "policy",
        "hits, % of ideal",
        "requests max/mean",
        "prefill max/mean",
        "TTFT p50, ms",
        "TTFT p99, ms",
    ):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    rows = [result.outcome for result in results]
    policies = [row for row in rows if row.policy != ORACLE]
    best_hits = max(row.hit_rate for row in policies)
    best_p99 = min(row.ttft_p99 for row in policies)
    for row in rows:
        p99 = f"{1000 * row.ttft_p99:,.1f}"
        hits = f"{100 * row.hit_rate:.1f}"
        table.add_row(
            row.policy,
            f"[bold]{hits}[/]" if row.hit_rate == best_hits else hits,
            f"{row.load_max_to_mean:.2f}",
            f"{row.prefill_max_to_mean:.2f}",
            f"{1000 * row.ttft_p50:,.1f}",
            f"[bold]{p99}[/]" if row.ttft_p99 == best_p99 else p99,
            style="dim" if row.policy == ORACLE else None,
        )
    return table


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = [*SYNTHETIC, "mooncake"]
    known += [name + MIXED for name in ON_MIXED]
    parser.add_argument(
        "--trace",
        dest="traces",
        action="append",
        metavar="NAME|FILE",
        help=f"a trace file, or one of: {'; '.join(known)}; may be repeated (default: all of them)",
    )
    parser.add_argument("--workers", default="2,8,64", help="sizes of fleets (default: 2,8,64)")
    parser.add_argument(
        "--policies", default=",".join(POLICIES), help="policies of the router (default: all)"
    )
    parser.add_argument("--load", type=float, help="share of time for prefill, such as 0.5")
    parser.add_argument("--kv-tokens", type=int, help="tokens that a worker's KV memory holds")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a fifth of the requests")
    parser.add_argument("--plots", type=Path, help="a folder for plots as SVG")
    args = parser.parse_args(argv)
    try:
        args.workers = [int(count) for count in args.workers.split(",")]
    except ValueError:
        parser.error(f"--workers {args.workers}: give numbers such as 2,8")
    if min(args.workers) < 1:
        parser.error("--workers: at least 1")
    args.policies = args.policies.split(",")
    for policy in args.policies:
        if policy not in POLICIES:
            parser.error(f"--policies: {policy} is none of {', '.join(POLICIES)}")
    if args.load is not None and args.load <= 0:
        parser.error(f"--load {args.load}: must be above 0")
    args.everything = args.traces is None
    if args.everything and not MOONCAKE.exists():
        print(f"the mooncake trace is left out: {MOONCAKE} is not there")
        known = [name for name in known if not name.startswith("mooncake")]
    args.traces = args.traces or known
    for name in args.traces:
        if name in known or Path(name).is_file():
            continue
        parser.error(f"--trace {name}: no such file, and none of {'; '.join(known)}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    console = Console(width=110)
    results: list[Result] = []
    begun = time.monotonic()
    for workers in args.workers:
        for scene in scenes(args, workers):
            policies = list(args.policies)
            if scene.trace.requests[0].session is not None:
                policies.append(ORACLE)
            todo = track(policies, scene.name, console=Console(stderr=True), transient=True)
            rows = [run(scene, policy, args.seed) for policy in todo]
            results += rows
            console.print(table_of(rows))
    console.print(f"{len(results)} simulations in {time.monotonic() - begun:.0f} s", style="dim")
    if args.everything and not args.quick:
        document = {
            "benchmark": "simulator",
            "date": datetime.now(UTC).date().isoformat(),
            "seed": args.seed,
            "worker": asdict(WorkerSpec()),
            "results": [asdict(result) for result in results],
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / "simulator.json"
        path.write_text(json.dumps(document, indent=1) + "\n")
        console.print(f"written to benchmarks/results/{path.name}")
    if args.plots:
        for path in write_plots(args.plots, [asdict(result) for result in results]):
            console.print(f"written: {path}")


if __name__ == "__main__":
    main()
