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
    def key(self) -> tuple[str, str, str]:
        """A later figure of the same key takes this one's place."""
        return (self.engine, self.model, self.workload)

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
    """Add `figures` to the file at `path`; those of other engines, models and workloads stay."""
    known: dict[tuple[str, str, str], dict[str, Any]] = {}
    if path.is_file():
        for each in json.loads(path.read_text())["figures"]:
            known[each["engine"], each["model"], each["workload"]] = each
    for figure in figures:
        facts = {"date": date, "median": figure.median, "machine": machine}
        known[figure.key] = asdict(figure) | facts
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": path.stem, "figures": [*known.values()]}
    path.write_text(json.dumps(document, indent=2) + "\n")


def show(console: Console, figures: Sequence[EngineFigure]) -> None:
    """One table a model: ours, what it is to reach, the peers (in brackets: published), the limit
    of the chip.
    """
    measured = {figure.key: figure for figure in figures}
    for model in dict.fromkeys(figure.model for figure in figures):
        columns = ["ours", "least - most", "reach", "of reach", *PEERS.values(), "limit"]
        table = Table("", *columns, title=f"{model}, dummy weights", title_justify="left")
        for workload in dict.fromkeys(f.workload for f in figures if f.model == model):
            figure = next(f for f in figures if (f.model, f.workload) == (model, workload))
            published = PUBLISHED.get((model, workload))
            ours = measured.get((Radixfleet.name, model, workload))
            row = [figure.what, "", "", "", ""]
            if ours:
                spread = f"{_number(min(ours.runs))} - {_number(max(ours.runs))}"
                row = [figure.what, _number(ours.median), spread, "", ""]
            if published:
                row[3] = _number(published.reach)
                if ours:
                    row[4] = f"{_share(ours.median, published.reach, workload):.0%}"
            for peer in PEERS:
                run = measured.get((peer, model, workload))
                if run:
                    row.append(_number(run.median))
                else:
                    row.append(f"({_number(getattr(published, peer))})" if published else "")
            row.append(_number(published.limit) if published and published.limit else "")
            table.add_row(*row)
        console.print(table)


def _share(ours: float, reach: float, workload: str) -> float:
    """Above 1 is better than wanted."""
    return reach / ours if workload == START else ours / reach


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
