"""The Rust side: mock workers and the load generator, on a core that they share."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from .process import pinned

ROOT = Path(__file__).parents[2]
LOAD = ROOT / "target/release/radixfleet-load"

# No load runs longer, whatever it was asked for.
LOAD_LIMIT_SECONDS = 150


class LoadFailed(Exception):
    """The load generator ended without a result."""


@dataclass(frozen=True)
class MockWorkers:
    """Mock workers that run, and the port by which they are told what to do."""

    ports: list[int]
    control_port: int

    def urls(self, count: int) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports[:count]]

    def settings(self, **settings: Any) -> None:
        """Sets anew what all workers do; without arguments they answer at once. Empties counts."""
        self._ask("/settings", settings)

    def mode(self, worker: int, mode: str) -> None:
        self._ask("/mode", {"worker": worker, "mode": mode})

    def all_serve(self) -> None:
        for worker in range(len(self.ports)):
            self.mode(worker, "serve")

    def stats(self) -> list[dict[str, int]]:
        return self._ask("/stats", {})

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        url = f"http://127.0.0.1:{self.control_port}{path}"
        return httpx.post(url, json=body, timeout=10).raise_for_status().json()


@contextmanager
def mock_workers(count: int, core: int, folder: Path) -> Iterator[MockWorkers]:
    command = [str(LOAD), "mock-worker", "--ports", *["0"] * count]
    with pinned(command, core, folder) as process:
        line = ""
        while not line.endswith("}"):
            if not process.is_running():
                raise LoadFailed(f"the mock workers did not start: {process.last_lines()}")
            line = process.last_lines(1)
        yield MockWorkers(**json.loads(line))


def run_load(
    arguments: list[str],
    core: int,
    on_event: Callable[[str, int], None] = lambda event, at_ns: None,
    limit_seconds: float = LOAD_LIMIT_SECONDS,
) -> dict[str, Any]:
    """Runs one load to its end.

    `on_event` hears `measuring` and `measured`, with their time, as they happen.
    """
    command = ["taskset", "-c", str(core), str(LOAD), "load", *arguments]
    result = None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as load:
        watchdog = threading.Timer(limit_seconds, load.kill)
        watchdog.start()
        try:
            assert load.stdout is not None
            for line in load.stdout:
                message = json.loads(line)
                if "event" in message:
                    on_event(message["event"], message["at_ns"])
                else:
                    result = message
        finally:
            watchdog.cancel()
            load.kill()
        assert load.stderr is not None
        errors = load.stderr.read().strip()
    if result is None:
        reason = errors or f"no result in {limit_seconds:.0f} s"
        raise LoadFailed(f"load {' '.join(arguments)}: {reason}")
    return result
