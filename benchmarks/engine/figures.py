"""What the offline benchmark found: kept as JSON, shown beside what others reached."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .engines import Radixfleet
from .published import PEERS, PUBLISHED
from .workloads import START, WORKLOADS


@dataclass(frozen=True)
class EngineFigure:
    """One workload of one engine; `details` has what is known beyond the speeds."""

    engine: str
    version: str
    model: str
    workload: str
    runs: list[float]
    arguments: dict[str, Any]
    details: dict[str, Any]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def what(self) -> str:
        """The workload in words, with its unit."""
        if self.workload == START:
            return "process start to ready, no caches, seconds"
        workload = WORKLOADS[self.workload]
        return f"{workload.what}, {workload.unit}"


def keep(path: Path, figures: Sequence[EngineFigure], date: str, machine: dict[str, str]) -> None:
    """Add `figures` to the file at `path`; those of other engines, models, workloads and
    arguments stay.
    """
    kept = json.loads(path.read_text())["figures"] if path.is_file() else []
    facts = {"date": date, "machine": machine}
    fresh = [asdict(figure) | {"median": figure.median} | facts for figure in figures]
    kept = [old for old in kept if all(_subject(old) != _subject(new) for new in fresh)]
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": path.stem, "figures": kept + fresh}
    path.write_text(json.dumps(document, indent=2) + "\n")


def _subject(figure: dict[str, Any]) -> list[Any]:
    """What was measured: of two such figures the later one counts."""
    return [figure[name] for name in ("engine", "model", "workload", "arguments")]


def show(console: Console, figures: Sequence[EngineFigure]) -> None:
    """The figures of one model: ours, what it is to reach, the peers, the limit of the chip."""
    by_workload: dict[str, dict[str, EngineFigure]] = {}
    for figure in figures:
        by_workload.setdefault(figure.workload, {})[figure.engine] = figure
    table = Table(
        "",
        *("ours", "least - most", "reach", "of reach", *PEERS.values(), "limit"),
        title=f"{figures[0].model}, dummy weights (in brackets: published, one H200)",
        title_justify="left",
    )
    for measured in by_workload.values():
        table.add_row(*_cells(measured))
    console.print(table)


def _cells(measured: dict[str, EngineFigure]) -> list[str]:
    """A row of the table: one workload, by engine."""
    some = next(iter(measured.values()))
    published = PUBLISHED.get((some.model, some.workload))
    ours = measured.get(Radixfleet.name)
    cells = dict.fromkeys(("ours", "spread", "reach", "share", *PEERS, "limit"), "")
    if ours:
        cells["ours"] = _number(ours.median)
        cells["spread"] = f"{_number(min(ours.runs))} - {_number(max(ours.runs))}"
    if published:
        theirs = {peer: getattr(published, peer) for peer in PEERS}
        cells |= {peer: f"({_number(speed)})" for peer, speed in theirs.items() if speed}
        cells["reach"] = _number(published.reach)
        cells["limit"] = _number(published.limit) if published.limit else ""
    if published and ours:
        cells["share"] = f"{_share(ours.median, published.reach, ours.workload):.0%}"
    cells |= {peer: _number(measured[peer].median) for peer in PEERS if peer in measured}
    return [some.what, *cells.values()]


def _share(ours: float, reach: float, workload: str) -> float:
    """Above 1 is better than wanted."""
    return reach / ours if workload == START else ours / reach


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
