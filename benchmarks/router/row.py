"""A row of the table: what is measured, how and with what, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import routers
from .load import MockWorkers, run_load
from .process import Cores, Sample
from .routers import RunningRouter


@dataclass(frozen=True)
class Contestant:
    """A router with a policy: what is compared."""

    router: str
    policy: str | None = None

    @property
    def name(self) -> str:
        return f"{self.router}, {self.policy}" if self.policy else self.router


# Requests straight to the workers, each conversation always to the same.
PERFECT = Contestant("perfect placement")


@dataclass(frozen=True)
class Reach:
    """What ours should reach: a figure, and shares of the best LLM router's and of nginx's."""

    limit: float | None = None
    of_best_peer: float | None = None
    of_nginx: float | None = None


@dataclass(frozen=True)
class Measure:
    """One figure of a row."""

    name: str
    unit: str
    reach: Reach = Reach()
    more_is_better: bool = False


Figures = dict[str, float]


@dataclass(frozen=True)
class Row:
    key: str
    title: str
    measures: tuple[Measure, ...]
    run: Callable[[Bench, Contestant], Figures]
    # Policies of ours that are compared, the first also that of the peers (nginx has its own).
    policies: tuple[str, ...]
    # A row that takes long is measured once, unless more is asked for.
    slow: bool
    only_ours: bool
    with_perfect: bool

    def contestants(self, peers: list[str], known_policies: set[str]) -> list[Contestant]:
        """Who takes part, of the peers that are there and the policies that ours knows."""
        ours = [Contestant(routers.OURS, policy) for policy in self.policies]
        if len(ours) == 1:
            ours = [Contestant(routers.OURS)]
        ours = [one for one in ours if one.policy is None or one.policy in known_policies]
        others = [] if self.only_ours else [Contestant(peer) for peer in peers]
        return [*([PERFECT] if self.with_perfect else []), *others, *ours]


ROWS: dict[str, Row] = {}


def row(
    key: str,
    title: str,
    *measures: Measure,
    policies: tuple[str, ...] = ("round_robin",),
    slow: bool = False,
    only_ours: bool = False,
    with_perfect: bool = False,
) -> Callable[[Callable[[Bench, Contestant], Figures]], Callable[[Bench, Contestant], Figures]]:
    """Registers what measures one contestant once, and returns a figure for each measure."""

    def register(
        run: Callable[[Bench, Contestant], Figures],
    ) -> Callable[[Bench, Contestant], Figures]:
        ROWS[key] = Row(key, title, measures, run, policies, slow, only_ours, with_perfect)
        return run

    return register


@dataclass(frozen=True)
class Observed:
    """What a load said, and what the router had used before it and around the phase that counts."""

    result: dict[str, Any]
    before: Sample
    measuring: Sample
    measured: Sample

    @property
    def cpu_seconds(self) -> float:
        return self.measured.cpu_seconds - self.measuring.cpu_seconds

    @property
    def growth_bytes(self) -> int:
        return self.measured.memory_bytes - self.before.memory_bytes


@dataclass(frozen=True)
class Bench:
    """What rows measure with."""

    workers: MockWorkers
    cores: Cores
    folder: Path
    binary: Path
    quick: bool
    seed: int = 1

    def seconds(self, usual: float) -> float:
        return max(usual / 4, 1.0) if self.quick else usual

    def count(self, usual: int) -> int:
        return usual // 4 if self.quick else usual

    @contextmanager
    def starting(
        self, contestant: Contestant, policy: str, workers: int = 4
    ) -> Iterator[RunningRouter]:
        """The contestant's router, in front of the first `workers` workers; not waited for."""
        urls = self.workers.urls(workers)
        chosen = contestant.policy or policy
        arguments = (contestant.router, chosen, urls, self.cores.router, self.folder, self.binary)
        with routers.running(*arguments) as router:
            yield router

    @contextmanager
    def router(
        self, contestant: Contestant, policy: str, workers: int = 4
    ) -> Iterator[RunningRouter]:
        """The same, ready; the workers' counts are empty."""
        with self.starting(contestant, policy, workers) as router:
            router.wait_until_ready()
            yield router

    def load(self, router: RunningRouter, *arguments: str | float) -> Observed:
        """Runs a load against the router, and looks at the router's process meanwhile."""
        before = router.process.sample()
        samples: dict[str, Sample] = {}

        def on_event(event: str, _at_ns: int) -> None:
            samples[event] = router.process.sample()

        kind, *rest = map(str, arguments)
        target = "--targets" if kind == "conversations" else "--target"
        command = [kind, target, router.address, *rest]
        result = run_load(command, self.cores.load, on_event)
        return Observed(result, before, samples["measuring"], samples["measured"])

    def warm_up(self, router: RunningRouter) -> None:
        """Connections, buffers and threads that a router in use has."""
        self.load(router, "closed", "--seconds", 0.3, "--warm-up-seconds", 0.2)
