"""Throughput of the engine without HTTP on dummy weights, beside vLLM and SGLang.

    python benchmarks/engine/offline.py --workload all --model llama-3.1-8b
    python benchmarks/engine/offline.py --workload one mixed256 --model qwen3-0.6b --peers vllm

Every engine runs in a process of its own; medians over several runs. The options of a worker are
taken too (--attention-backend, --disable-cuda-graph, ...), for ours alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # so that this file can be run as it is

from rich.console import Console

from benchmarks.engine import options
from benchmarks.engine.engines import Radixfleet
from benchmarks.engine.figures import EngineFigure, keep, show
from benchmarks.engine.job import Job, JobResult
from benchmarks.engine.processes import JobFailedError, run_in_process
from benchmarks.engine.published import PEERS
from benchmarks.engine.workloads import START, WORKLOADS
from benchmarks.report import RESULTS, machine
from worker.config import positive_int


def main(argv: Sequence[str] | None = None) -> None:
    """Exit code 1 if a process failed; the others' figures are kept and shown even so."""
    parsed = _parse(argv)
    console = Console(width=150)
    facts = machine()
    console.print(", ".join(f"{key} {value}" for key, value in facts.items()), style="dim")
    figures: list[EngineFigure] = []
    failures: list[str] = []
    for engine in [Radixfleet.name, *parsed.peers]:
        if importlib.util.find_spec(engine) is None:
            console.print(f"{engine} is not installed in this environment: left out")
            continue
        for measure in _measurements(engine, parsed):
            try:
                found = measure()
            except JobFailedError as error:
                failures.append(str(error))
                continue
            figures += found
            _print_details(console, found)
    if figures:
        keep(parsed.output, figures, datetime.now(UTC).date().isoformat(), facts)
        show(console, figures)
        console.print(f"written to {parsed.output}")
    for failure in failures:
        console.print(f"failed: {failure}", style="red")
    sys.exit(1 if failures else 0)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = options.parser(__doc__)
    options.add_profile(parser)
    names = [*WORKLOADS, START]
    parser.add_argument(
        "--workload",
        nargs="+",
        choices=["all", *names],
        default=["all"],
        metavar="NAME",
        help=f"all, or some of {', '.join(names)}; 'start' runs without caches",
    )
    parser.add_argument(
        "--peers",
        type=_peers,
        default=[],
        metavar="NAMES",
        help=f"engines to run beside ours where they are installed: {','.join(PEERS)}",
    )
    parser.add_argument("--repeats", type=positive_int, default=3)
    parser.add_argument("--warmups", type=int, default=1)
    parser.add_argument(
        "--shrink",
        type=positive_int,
        default=1,
        help="divide numbers of requests and tokens by this, to try the benchmark out",
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "engine_gpu.json")
    parsed = parser.parse_args(argv)
    if "all" in parsed.workload:
        parsed.workload = names
    return parsed


def _peers(text: str) -> list[str]:
    peers = text.split(",")
    for peer in peers:
        if peer not in PEERS:
            raise argparse.ArgumentTypeError(f"{peer!r} is none of {', '.join(PEERS)}")
    return peers


def _measurements(
    engine: str, parsed: argparse.Namespace
) -> Iterator[Callable[[], list[EngineFigure]]]:
    """Cold starts, then one process for all workloads with the same setting of the prefix cache."""
    job = Job(
        engine=engine,
        model=parsed.model,
        arguments=options.server_arguments(parsed) if engine == Radixfleet.name else {},
        warmups=parsed.warmups,
        repeats=parsed.repeats,
        seed=parsed.seed,
        shrink=parsed.shrink,
        trace=parsed.profile,
    )
    if START in parsed.workload:
        yield lambda: [_starts(job)]
    for prefix_cache in (False, True):
        wanted = [
            name
            for name, workload in WORKLOADS.items()
            if name in parsed.workload and workload.prefix_cache == prefix_cache
        ]
        if wanted:
            yield partial(_speeds, replace(job, workloads=wanted, prefix_cache=prefix_cache))


def _starts(job: Job) -> EngineFigure:
    """Each time in a new process, without what an earlier one has compiled."""
    results = [run_in_process(job, cold=True) for _ in range(job.repeats)]
    details = {
        "first_token_seconds": [result.first_token_seconds for result in results],
        "stages_seconds": results[-1].stages,
    }
    return _figure(job, results[0], START, [result.ready_seconds for result in results], details)


def _speeds(job: Job) -> list[EngineFigure]:
    result = run_in_process(job)
    return [
        _figure(job, result, workload, measured.runs, measured.details)
        for workload, measured in result.measured.items()
    ]


def _figure(
    job: Job, result: JobResult, workload: str, runs: list[float], details: dict[str, Any]
) -> EngineFigure:
    return EngineFigure(
        engine=job.engine,
        version=result.version,
        model=Path(job.model).name,
        workload=workload,
        runs=runs,
        arguments=job.arguments,
        details=details,
    )


def _print_details(console: Console, figures: list[EngineFigure]) -> None:
    """As soon as they are known: a run of everything takes minutes."""
    for figure in figures:
        details = ", ".join(f"{name} {_rounded(value)}" for name, value in figure.details.items())
        console.print(f"{figure.engine} {figure.workload}: {figure.median:.4g}; {details}")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return {name: _rounded(each) for name, each in value.items()}


if __name__ == "__main__":
    main()
