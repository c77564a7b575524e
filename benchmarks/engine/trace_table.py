"""What took the time of a traced step: a table of kernel classes, from a Chrome trace."""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# The first that is found in a kernel's name says what it is for.
_CLASSES = {
    "attention: shared prefixes": r"^_prefix_kernel",
    "attention: decode": r"^_decode_kernel|BatchDecode",
    "attention: prompts": r"^_extend_kernel|sdpa|flash|fmha|BatchPrefill",
    "matrix products": r"^_skinny|nvjet|gemm|gemv|splitk|cutlass|cublas|matmul",
    "add + norm": r"^_add_rms_norm|rms_?norm",
    "rope + write": r"^_qk_norm_rope_write",
    "SiLU": r"^_silu",
    "FP8 scales": r"^_quantize_rows|^_scale_product",
    "sampling": r"^_(draw|weigh|settle|penalize)|argmax|softmax",
    "all-reduce": r"all_?reduce|nccl|multimem",
    "copies and indexing": r"memcpy|memset|copy|index|gather|scatter|cat(array|_)",
}
_OTHER = "other"
# Kernels of one name that differ in what they multiply: their grids tell them apart.
_BY_GRID = "matrix products"
_KERNELS_OF_A_CLASS = 6  # shown, the largest
_WAITS = ("cudaEventSynchronize", "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpy")
_ON_GPU = ("kernel", "gpu_memcpy", "gpu_memset")


def kernel_class(name: str) -> str:
    """What the kernel of that name is for."""
    return next(
        (
            title
            for title, pattern in _CLASSES.items()
            if re.search(pattern, name, flags=re.IGNORECASE)
        ),
        _OTHER,
    )


@dataclass(frozen=True)
class Event:
    """Something that ran on a device, or an operator on a CPU; times in microseconds."""

    name: str
    kind: str
    start: float
    duration: float

    @property
    def end(self) -> float:
        return self.start + self.duration


@dataclass
class Total:
    """Of some events: how long they ran, and how many they were."""

    microseconds: float = 0.0
    calls: int = 0

    def add(self, event: Event) -> None:
        self.microseconds += event.duration
        self.calls += 1


@dataclass(frozen=True)
class TraceTable:
    """Totals over `steps` steps, in microseconds.

    `kinds`: by class, then by kernel. `span` is from the first event's start to the last one's end,
    of which something ran for `busy`; where kernels overlap, their durations add up to more.
    """

    steps: int
    on_gpu: bool
    span: float
    busy: float
    kinds: dict[str, dict[str, Total]]
    waits: dict[str, int]

    @classmethod
    def read(cls, path: Path, steps: int) -> TraceTable:
        """Of a trace of `steps` steps that torch's profiler has written (.json.gz).

        Raises ValueError if nothing ran in it.
        """
        content = json.loads(gzip.decompress(path.read_bytes()))
        traced = [event for event in content["traceEvents"] if event.get("ph") == "X"]
        events = [_kernel(each) for each in traced if each.get("cat") in _ON_GPU]
        on_gpu = bool(events)
        if not on_gpu:
            events = _outermost([each for each in traced if each.get("cat") == "cpu_op"])
        if not events:
            raise ValueError(f"{path}: nothing ran in the traced steps")
        kinds: dict[str, dict[str, Total]] = defaultdict(lambda: defaultdict(Total))
        for event in events:
            kinds[event.kind][event.name].add(event)
        waits: dict[str, int] = defaultdict(int)
        for each in traced:
            if each["name"] in _WAITS:
                waits[each["name"]] += 1
        start, end = min(event.start for event in events), max(event.end for event in events)
        return cls(steps, on_gpu, end - start, _covered(events), kinds, waits)

    def show(self, console: Console, title: str) -> None:
        """Classes with their largest kernels, by time."""
        step = self.span / self.steps
        table = Table(
            "kernel" if self.on_gpu else "operator",
            *("us a step", "share", "calls a step", "us a call"),
            title=f"{title}: {self.steps} steps of {step / 1e3:.3f} ms, "
            f"{'device' if self.on_gpu else 'operators'} busy {self.busy / self.span:.0%}",
            title_justify="left",
        )
        ran = 0.0
        for kind, kernels in sorted(self.kinds.items(), key=lambda each: -_sum(each[1].values())):
            whole = Total(_sum(kernels.values()), sum(each.calls for each in kernels.values()))
            ran += whole.microseconds
            table.add_row(kind, *self._cells(whole), style="bold")
            if len(kernels) == 1 and kind != _OTHER:
                continue
            by_time = sorted(kernels.items(), key=lambda each: -each[1].microseconds)
            for name, total in by_time[:_KERNELS_OF_A_CLASS]:
                table.add_row(f"  {name[:76]}", *self._cells(total), style="dim")
        nothing, twice = self.span - self.busy, ran - self.busy
        table.add_row("nothing runs", *self._cells(Total(nothing)))
        if twice > 0.001 * self.span:
            table.add_row("kernels overlap", *self._cells(Total(-twice)))
        console.print(table)
        shown = ", ".join(f"{name} {count / self.steps:.1f}" for name, count in self.waits.items())
        console.print(f"waits for the device, calls a step: {shown or 'none'}")

    def _cells(self, total: Total) -> list[str]:
        a_step = total.microseconds / self.steps
        cells = [f"{a_step:.1f}", f"{100 * total.microseconds / self.span:.1f} %"]
        if not total.calls:
            return [*cells, "", ""]
        return [
            *cells,
            f"{total.calls / self.steps:.1f}",
            f"{total.microseconds / total.calls:.2f}",
        ]


def _kernel(traced: dict[str, Any]) -> Event:
    name = traced["name"]
    kind = kernel_class(name)
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "").split("(")[0].strip()
    if kind == _BY_GRID:
        name = f"{list(traced['args'].get('grid', []))} {name}"
    return Event(name, kind, traced["ts"], traced["dur"])


def _outermost(traced: Sequence[dict[str, Any]]) -> list[Event]:
    """CPU operators that no other one calls."""
    found: list[Event] = []
    ends: dict[Any, float] = {}  # by thread
    for each in sorted(traced, key=lambda each: (each["ts"], -each["dur"])):
        if each["ts"] >= ends.get(each["tid"], 0.0):
            ends[each["tid"]] = each["ts"] + each["dur"]
            found.append(Event(each["name"], "operators", each["ts"], each["dur"]))
    return found


def _covered(events: Iterable[Event]) -> float:
    """For how long at least one of `events` ran."""
    covered, until = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event.start):
        covered += max(0.0, event.end - max(event.start, until))
        until = max(until, event.end)
    return covered


def _sum(totals: Iterable[Total]) -> float:
    return sum(total.microseconds for total in totals)
