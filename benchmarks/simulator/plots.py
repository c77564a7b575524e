"""Results as bar charts in SVG: a group of bars a trace, a bar a policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

COLOURS = ("#c2410c", "#2563eb", "#0f766e", "#7c3aed", "#a16207", "#64748b", "#94a3b8", "#111827")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 1100, 360, 70, 60, 60


@dataclass(frozen=True)
class Chart:
    title: str
    value: Callable[[dict[str, Any]], float]
    label: Callable[[float], str]
    logarithmic: bool


TTFT = Chart(
    "time to first token, p99", lambda o: 1000 * o["ttft_p99"], lambda v: f"{v:g} ms", True
)
HITS = Chart("cache hits, % of ideal", lambda o: 100 * o["hit_rate"], lambda v: f"{v:g} %", False)


def write_plots(folder: Path, results: list[dict[str, Any]]) -> list[Path]:
    """One file for each chart and size of fleet; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for workers in dict.fromkeys(result["workers"] for result in results):
        chosen = [result for result in results if result["workers"] == workers]
        for name, chart in (("ttft-p99", TTFT), ("hits", HITS)):
            path = folder / f"policies-{name}-{workers}-workers.svg"
            path.write_text(draw(chart, chosen, f"{chart.title}: {workers} workers"))
            written.append(path)
    return written


def draw(chart: Chart, results: list[dict[str, Any]], title: str) -> str:
    """The chart as a document. A result without a value, as hits of unique prompts, is left out."""
    groups: dict[str, dict[str, float]] = {}
    for result in results:
        value = chart.value(result["outcome"])
        if value > 0:
            groups.setdefault(result["scene"], {})[result["outcome"]["policy"]] = value
    policies = list(dict.fromkeys(result["outcome"]["policy"] for result in results))
    values = [value for group in groups.values() for value in group.values()]
    scale, ticks = _scale(values, chart.logarithmic)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>',
    ]
    for index, policy in enumerate(policies):
        x = LEFT + 128 * index
        parts.append(f'<rect x="{x}" y="32" width="10" height="10" fill="{COLOURS[index]}"/>')
        parts.append(f'<text x="{x + 14}" y="41">{escape(policy)}</text>')
    for tick in ticks:
        y = scale(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - 10}" stroke="#e5e7eb"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{chart.label(tick)}</text>'
        )
    width = (WIDTH - LEFT - 10) / max(1, len(groups))
    bar = 0.85 * width / len(policies)
    for number, (scene, group) in enumerate(groups.items()):
        left = LEFT + number * width
        middle = left + 0.425 * width
        name, _, detail = scene.partition(", ")
        for line, text in enumerate((name, detail)):
            y = HEIGHT - BOTTOM + 16 + 13 * line
            parts.append(
                f'<text x="{middle:.1f}" y="{y}" text-anchor="middle">{escape(text)}</text>'
            )
        for index, policy in enumerate(policies):
            if policy in group:
                y = scale(group[policy])
                parts.append(
                    f'<rect x="{left + index * bar:.1f}" y="{y:.1f}" width="{bar - 1:.1f}" '
                    f'height="{HEIGHT - BOTTOM - y:.1f}" fill="{COLOURS[index]}">'
                    f"<title>{escape(policy)}: {group[policy]:.1f}</title></rect>"
                )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _scale(values: list[float], logarithmic: bool) -> tuple[Callable[[float], float], list[float]]:
    """From a value to its height on the page, and the values at which to draw lines."""
    height = HEIGHT - TOP - BOTTOM
    if not logarithmic:
        ticks = [0.0, 25.0, 50.0, 75.0, 100.0]
        return lambda value: TOP + height * (1 - value / 100), ticks
    low = math.floor(math.log10(min(values)))
    high = max(low + 1, math.ceil(math.log10(max(values))))

    def position(value: float) -> float:
        return TOP + height * (1 - (math.log10(value) - low) / (high - low))

    return position, [10.0**power for power in range(low, high + 1)]
