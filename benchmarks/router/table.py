"""What came of the measurements: medians, ratios, what was reached; as a table and as JSON."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from .peers import MODULES
from .routers import OURS, PEERS
from .row import PERFECT, Contestant, Figures, Measure, Reach, Row


@dataclass
class Outcome:
    """All repetitions of one contestant in one row."""

    runs: list[Figures] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def median(self, measure: str) -> float | None:
        values = [run[measure] for run in self.runs]
        return statistics.median(values) if values else None


Outcomes = dict[Contestant, Outcome]


@dataclass(frozen=True)
class Line:
    """One figure of ours beside the peers'."""

    measure: Measure
    contestant: Contestant
    ours: float | None
    peers: dict[str, float | None]
    perfect: float | None

    @property
    def nginx(self) -> float | None:
        return self.peers.get("nginx")

    @property
    def best_peer(self) -> float | None:
        """The best of the LLM routers; nginx knows no prefixes and is no peer in that."""
        known = [self.peers[peer] for peer in MODULES if self.peers.get(peer) is not None]
        figures = [figure for figure in known if figure is not None]
        if not figures:
            return None
        return max(figures) if self.measure.more_is_better else min(figures)

    @property
    def reached(self) -> bool | None:
        """None where nothing is asked for, or what it is compared with is missing."""
        reach = self.measure.reach
        limits = [
            reach.limit,
            _share(reach.of_best_peer, self.best_peer),
            _share(reach.of_nginx, self.nginx),
        ]
        missing = (reach.of_best_peer is not None and self.best_peer is None) or (
            reach.of_nginx is not None and self.nginx is None
        )
        asked = [limit for limit in limits if limit is not None]
        if not asked or missing or self.ours is None:
            return None
        if self.measure.more_is_better:
            return all(self.ours >= limit for limit in asked)
        return all(self.ours <= limit for limit in asked)


def _share(share: float | None, figure: float | None) -> float | None:
    return None if share is None or figure is None else share * figure


def lines(row: Row, outcomes: Outcomes) -> list[Line]:
    """A line for each of ours and each measure."""

    def median(contestant: Contestant, measure: Measure) -> float | None:
        outcome = outcomes.get(contestant)
        return outcome.median(measure.name) if outcome else None

    ours = [contestant for contestant in outcomes if contestant.router == OURS]
    return [
        Line(
            measure,
            contestant,
            median(contestant, measure),
            {peer: median(Contestant(peer), measure) for peer in PEERS},
            median(PERFECT, measure),
        )
        for contestant in ours or [Contestant(OURS)]
        for measure in row.measures
    ]


def figure(value: float | None) -> str:
    if value is None:
        return "-"
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def ratio(ours: float | None, other: float | None) -> str:
    if ours is None or not other or math.isinf(ours) or math.isinf(other):
        return ""
    return f"{ours / other:.2f}"


def reach_text(reach: Reach, more_is_better: bool) -> str:
    sign = "≥" if more_is_better else "≤"
    parts = [
        figure(reach.limit) if reach.limit is not None else "",
        f"{reach.of_best_peer:g} x best peer" if reach.of_best_peer is not None else "",
        f"{reach.of_nginx:g} x nginx" if reach.of_nginx is not None else "",
    ]
    return ", ".join(f"{sign} {part}" for part in parts if part)


def render(title: str, results: dict[Row, Outcomes]) -> Table:
    table = Table(title=title, title_justify="left", show_lines=False)
    table.add_column("", overflow="fold")
    for name in (*PEERS, OURS, "/ best peer", "/ nginx"):
        table.add_column(name, justify="right")
    table.add_column("to reach")
    table.add_column("")
    verdicts = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}
    for row, outcomes in results.items():
        table.add_section()
        table.add_row(f"[bold]{row.title}[/]")
        for line in lines(row, outcomes):
            measure = line.measure
            table.add_row(
                _label(line),
                *(figure(line.peers[peer]) for peer in PEERS),
                figure(line.ours),
                ratio(line.ours, line.best_peer),
                ratio(line.ours, line.nginx),
                reach_text(measure.reach, measure.more_is_better),
                verdicts[line.reached],
            )
    return table


def _label(line: Line) -> str:
    unit = f", {line.measure.unit}" if line.measure.unit else ""
    policy = f" ({line.contestant.policy})" if line.contestant.policy else ""
    perfect = f" [perfect placement: {figure(line.perfect)}]" if line.perfect is not None else ""
    # A bracket would be markup to rich.
    return f"  {line.measure.name}{unit}{policy}{perfect}".replace("[", "\\[")


def failures(results: dict[Row, Outcomes]) -> list[str]:
    """Every measurement that did not come about, and why."""
    return [
        f"{row.key}, {contestant.name}: {reason}"
        for row, outcomes in results.items()
        for contestant, outcome in outcomes.items()
        for reason in outcome.failures
    ]


def document(results: dict[Row, Outcomes]) -> list[dict[str, Any]]:
    """The rows as JSON: every run, medians, and what was reached. What never happened is null."""
    return [
        {
            "row": row.key,
            "title": row.title,
            "runs": {
                contestant.name: [_finite(run) for run in outcome.runs]
                for contestant, outcome in outcomes.items()
            },
            "failures": {
                contestant.name: outcome.failures
                for contestant, outcome in outcomes.items()
                if outcome.failures
            },
            "figures": [_line_document(line) for line in lines(row, outcomes)],
        }
        for row, outcomes in results.items()
    ]


def _line_document(line: Line) -> dict[str, Any]:
    return {
        "figure": line.measure.name,
        "unit": line.measure.unit,
        "of": line.contestant.name,
        "ours": _finite({"": line.ours})[""],
        "peers": _finite(line.peers),
        "best_peer": _finite({"": line.best_peer})[""],
        "perfect_placement": line.perfect,
        "reach": asdict(line.measure.reach),
        "reached": line.reached,
    }


def _finite(figures: dict[str, Any]) -> dict[str, float | None]:
    return {
        name: None if value is None or math.isinf(value) else value
        for name, value in figures.items()
    }
