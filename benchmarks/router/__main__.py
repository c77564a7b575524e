"""The router against its peers, the same load in the same run.

    python -m benchmarks.router

Builds the router and the load generator, installs the peers (from PyPI into
~/.cache/radixfleet/bench-peers, nginx from Debian), starts each router alone on one core with load
and mock workers on another, and prints medians, ratios and what was to be reached. A whole run
takes about 40 minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
from rich.console import Console

from .. import report
from . import peers, rows_data_plane, rows_faults, rows_routing, table
from .load import ROOT, LoadFailed, mock_workers
from .process import Cores
from .routers import BINARY, OURS, PEERS, DidNotStart, our_help
from .row import ROWS, Bench, Contestant, Row

# Importing them registers their rows.
ROW_FILES = (rows_data_plane, rows_faults, rows_routing)

OPEN_FILES = 65_536
WIDTH = 180


def main(argv: list[str] | None = None) -> None:
    arguments = parse(argv)
    _end_on_sigterm()
    _raise_open_files()
    if not arguments.no_build:
        build()
    versions = install([peer for peer in arguments.peers if peer != OURS])
    rows = [ROWS[key] for key in arguments.rows]
    results = measure(rows, list(versions), arguments)
    console = Console(width=WIDTH)
    facts = {
        "cpu": report.cpu(),
        "date": datetime.now(UTC).date().isoformat(),
        **versions,
    }
    console.print(", ".join(f"{key} {value}" for key, value in facts.items()), style="dim")
    title = "The router and its peers: medians"
    if arguments.quick:
        title += " (quick: too short to judge by; what waits gives up early)"
    console.print(table.render(title, results))
    for failure in table.failures(results):
        console.print(failure, style="yellow", markup=False)
    if path := json_path(arguments):
        document = {
            "benchmark": "router",
            "machine": facts,
            "quick": arguments.quick,
            "repetitions": arguments.repetitions,
            "rows": table.document(results),
        }
        path.write_text(json.dumps(document, indent=1) + "\n")
        console.print(f"written to {path}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.router",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    everyone = [*PEERS, OURS]
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--peers", nargs="+", choices=everyone, default=everyone, metavar="PEER")
    parser.add_argument(
        "--repetitions",
        type=int,
        default=3,
        help="of each measurement; slow rows are measured once",
    )
    parser.add_argument(
        "--quick", action="store_true", help="short loads, one repetition: to see that all works"
    )
    parser.add_argument(
        "--no-build", action="store_true", help="take the binaries of target/release as they are"
    )
    parser.add_argument(
        "--binary", type=Path, default=BINARY, help="our router's binary (default: %(default)s)"
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="where the figures go; a full run's go to benchmarks/results/router.json",
    )
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.repetitions = 1
    arguments.binary = arguments.binary.resolve()
    return arguments


def json_path(arguments: argparse.Namespace) -> Path | None:
    """Figures of a part or of a quick run are only kept where they were asked for."""
    whole = set(arguments.rows) == set(ROWS) and set(arguments.peers) == {*PEERS, OURS}
    return arguments.json or (
        report.RESULTS / "router.json" if whole and not arguments.quick else None
    )


def build() -> None:
    command = [
        "cargo",
        "build",
        "--release",
        "--locked",
        "-p",
        "radixfleet-router",
        "-p",
        "radixfleet-load",
        "--bins",
    ]
    subprocess.run(command, cwd=ROOT, check=True)


def install(wanted: list[str]) -> dict[str, str]:
    """Versions of the peers that are there; the others are named."""
    versions = {}
    for peer in wanted:
        try:
            versions[peer] = peers.install(peer)
        except peers.Missing as missing:
            print(f"{peer} is left out: {missing}", file=sys.stderr)
    return versions


def measure(
    rows: list[Row], present: list[str], arguments: argparse.Namespace
) -> dict[Row, table.Outcomes]:
    """All rows; repetitions interleave, so that a change of the machine is one for all."""
    cores = Cores.of_this_machine()
    policies = {policy for policy in rows_routing.POLICIES if policy in our_help(arguments.binary)}
    results: dict[Row, table.Outcomes] = {}
    with (
        tempfile.TemporaryDirectory(prefix="radixfleet-bench-") as name,
        mock_workers(rows_routing.WORKERS, cores.load, Path(name)) as workers,
    ):
        bench = Bench(workers, cores, Path(name), arguments.binary, arguments.quick)
        for row in rows:
            contestants = row.contestants(present, policies)
            if OURS not in arguments.peers:
                contestants = [one for one in contestants if one.router != OURS]
            outcomes = {contestant: table.Outcome() for contestant in contestants}
            for repetition in range(1 if row.slow else arguments.repetitions):
                for contestant, outcome in outcomes.items():
                    _measure_once(replace(bench, seed=repetition + 1), row, contestant, outcome)
            results[row] = outcomes
    return results


def _measure_once(bench: Bench, row: Row, contestant: Contestant, outcome: table.Outcome) -> None:
    bench.workers.all_serve()
    bench.workers.settings()
    try:
        figures = row.run(bench, contestant)
    except (DidNotStart, LoadFailed, ValueError, KeyError, httpx.HTTPError) as error:
        outcome.failures.append(f"{type(error).__name__}: {error}")
        _progress(f"{row.key:16} {contestant.name:24} {error}")
        return
    outcome.runs.append(figures)
    said = ", ".join(f"{name} {table.figure(value)}" for name, value in figures.items())
    _progress(f"{row.key:16} {contestant.name:24} {said}")


def _progress(line: str) -> None:
    print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)


def _end_on_sigterm() -> None:
    """SIGTERM unwinds as Ctrl-C does, so that no child is left."""
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(143))


def _raise_open_files() -> None:
    """For 10,000 streams; the routers inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
