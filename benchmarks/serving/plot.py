"""A run as a picture in SVG: distributions of the latencies, throughput and load over time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from ..simulator.plots import COLOURS
from .backends import Answer
from .figures import Figures

WIDTH, HEIGHT, TOP, BOTTOM = 420, 340, 56, 300
LEFT, RIGHT = 64, 404
QUANTILES = 200
TIME_BINS = 60
# A latency of nothing (two chunks in one packet) has no place on a logarithmic axis.
LEAST_MILLISECONDS = 0.1


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with the values at which to draw lines."""

    low: float
    high: float
    ticks: list[float]
    logarithmic: bool = False

    @staticmethod
    def linear(most: float) -> Axis:
        """From 0, by steps of 1, 2 or 5 times a power of ten."""
        most = most or 1.0
        rough = most / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough)
        count = math.ceil(most / step)
        return Axis(0.0, count * step, [number * step for number in range(count + 1)])

    @staticmethod
    def powers(least: float, most: float) -> Axis:
        """Whole powers of ten around `least` and `most`, at least one step."""
        low = math.floor(math.log10(least))
        high = max(low + 1, math.ceil(math.log10(most)))
        ticks = [10.0**power for power in range(low, high + 1)]
        return Axis(ticks[0], ticks[-1], ticks, logarithmic=True)

    def share(self, value: float) -> float:
        """Where it lies, from 0 to 1."""
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Panel:
    """Lines over common axes: by name, x and y of their points."""

    title: str
    x_label: str
    lines: dict[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    logarithmic: bool = False

    def draw(self, left: float) -> Iterator[str]:
        """SVG elements, shifted to the right by `left`."""
        points = [line for line in self.lines.values() if len(line[0])]
        xs = [value for line in points for value in line[0]] or [1.0]
        ys = [value for line in points for value in line[1]] or [1.0]
        across = Axis.powers(min(xs), max(xs)) if self.logarithmic else Axis.linear(max(xs))
        up = Axis.linear(max(ys))

        def x(value: float) -> float:
            return LEFT + across.share(value) * (RIGHT - LEFT)

        def y(value: float) -> float:
            return BOTTOM - up.share(value) * (BOTTOM - TOP)

        yield f'<g transform="translate({left:g})">{_text(LEFT, 18, self.title, size=14)}'
        for tick in up.ticks:
            yield f'<path d="M{LEFT} {y(tick):.1f}H{RIGHT}" stroke="#e5e7eb"/>'
            yield _text(LEFT - 6, y(tick) + 4, f"{tick:,.10g}", anchor="end")
        for tick in across.ticks:
            yield f'<path d="M{x(tick):.1f} {TOP}V{BOTTOM}" stroke="#e5e7eb"/>'
            yield _text(x(tick), BOTTOM + 16, f"{tick:,.10g}", anchor="middle")
        yield _text((LEFT + RIGHT) / 2, BOTTOM + 34, self.x_label, anchor="middle")
        for index, (name, (line_x, line_y)) in enumerate(self.lines.items()):
            yield _text(LEFT + 84 * index, 38, name, colour=COLOURS[index])
            path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line_x, line_y, strict=True))
            yield f'<polyline points="{path}" fill="none" stroke="{COLOURS[index]}"/>'
        yield "</g>"


def draw(figures: Figures, title: str) -> str:
    """The whole picture as a document."""
    panels = [_distributions(figures), *_over_time(figures.completed, figures.duration_seconds)]
    elements = [element for i, panel in enumerate(panels) for element in panel.draw(i * WIDTH)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -24 {WIDTH * len(panels)} '
            f'{HEIGHT + 24}" font-family="sans-serif" font-size="11">',
            f'<rect y="-24" width="{WIDTH * len(panels)}" height="{HEIGHT + 24}" fill="white"/>',
            _text(LEFT, -6, title, size=14),
            *elements,
            "</svg>\n",
        ]
    )


def _distributions(figures: Figures) -> Panel:
    shares = np.linspace(0, 1, QUANTILES + 1)
    lines = {}
    for latency in figures.latencies:
        if latency.seconds:
            values = np.maximum(1000 * np.quantile(latency.seconds, shares), LEAST_MILLISECONDS)
            lines[latency.name.partition("_")[0].upper()] = (values.tolist(), 100 * shares)
    return Panel("latencies, % below", "ms", lines, logarithmic=True)


def _over_time(completed: Sequence[Answer], duration_seconds: float) -> list[Panel]:
    edges = np.linspace(0, duration_seconds, TIME_BINS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    times = [seconds for answer in completed for seconds in answer.chunk_times]
    tokens = [count for answer in completed for count in answer.chunk_tokens]
    speeds = np.histogram(times, edges, weights=tokens)[0] / (duration_seconds / TIME_BINS)
    begun = np.searchsorted(np.sort([answer.sent for answer in completed]), middles)
    ended = np.searchsorted(np.sort([answer.chunk_times[-1] for answer in completed]), middles)
    return [
        Panel("output tokens a second", "s", {"": (middles, speeds)}),
        Panel("requests under way", "s", {"": (middles, begun - ended)}),
    ]


def _text(
    x: float, y: float, text: str, size: int = 11, anchor: str = "start", colour: str = "black"
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="{size}" fill="{colour}">{escape(text)}</text>'
