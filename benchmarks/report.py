"""What every benchmark prints: the machine, medians, ratios, and the same as JSON."""

from __future__ import annotations

import contextlib
import json
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from worker import __version__

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
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    if not names:  # not Linux, or not x86
        return platform.processor() or platform.machine()
    return f"{len(names)} x {names[0]}"


def gpu() -> dict[str, str]:
    """Names of the GPUs and version of their driver; nothing where there is none."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        return {}
    names, drivers = zip(*(line.split(", ") for line in lines if line), strict=True)
    return {"gpu": f"{len(names)} x {names[0]}", "driver": drivers[0]}


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    facts = {"cpu": cpu(), **gpu(), "python": platform.python_version(), "radixfleet": __version__}
    for package in ("torch", "transformers", "triton", "flashinfer-python"):
        with contextlib.suppress(PackageNotFoundError):
            facts[package] = version(package)
    return facts


def write_document(path: Path, facts: dict[str, str], **parts: Any) -> None:
    """Write `parts` as JSON, below the benchmark's name, which is the file's, date and `facts`."""
    today = datetime.now(UTC).date().isoformat()
    document = {"benchmark": path.stem, "date": today, "machine": facts, **parts}
    path.write_text(json.dumps(document, indent=2) + "\n")


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
    medians = [asdict(figure) | {"median": figure.median} for figure in figures]
    write_document(path, facts, figures=medians)
    console.print(f"written to benchmarks/results/{path.name}")
