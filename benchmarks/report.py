"""What every benchmark prints: the machine, medians, ratios, and the same as JSON."""

from __future__ import annotations

import json
import platform
import statistics
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One measured quantity: the runs' median, and its ratio to a peer of the same run."""

    what: str
    unit: str
    runs: list[float]
    ratio: float | None = None
    ratio_to: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.runs)


def cpu() -> str:
    """How many cores of which model."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return f"{len(lines)} x {lines[0].split(':', 1)[1].strip()}"


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "cpu": cpu(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "radixfleet": version("radixfleet"),
    }


def publish(name: str, title: str, figures: list[Figure]) -> None:
    """Print the table, and write it to `results/NAME.json`."""
    console = Console(width=110)
    facts = machine()
    console.print(", ".join(f"{key} {value}" for key, value in facts.items()), style="dim")
    table = Table("", "median", "least - most", "ratio", title=title, title_justify="left")
    for figure in figures:
        spread = f"{min(figure.runs):.3g} - {max(figure.runs):.3g}"
        ratio = f"{figure.ratio:.2f} x {figure.ratio_to}" if figure.ratio is not None else ""
        table.add_row(figure.what, f"{figure.median:.4g} {figure.unit}", spread, ratio)
    console.print(table)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {
        "benchmark": name,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": facts,
        "figures": [asdict(figure) | {"median": figure.median} for figure in figures],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"written to benchmarks/results/{path.name}")
