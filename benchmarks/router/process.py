"""A process under measurement: pinned to a core, read from /proc, ended with its children."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STOP_LIMIT_SECONDS = 5
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cores:
    """Which core the router has for itself, and which the load and the workers share."""

    router: int
    load: int

    @staticmethod
    def of_this_machine() -> Cores:
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise SystemExit("the router's benchmark needs two cores: one for the router alone")
        return Cores(router=usable[0], load=usable[1])


@dataclass(frozen=True)
class Sample:
    """What a process and its descendants have used up to now."""

    cpu_seconds: float
    memory_bytes: int


class Pinned:
    """A running process on one core, in a session of its own."""

    def __init__(self, command: list[str], core: int, folder: Path) -> None:
        self.log = tempfile.TemporaryFile("w+", dir=folder)  # noqa: SIM115 (`stop` closes it)
        self.process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            cwd=folder,
            start_new_session=True,
        )

    def is_running(self) -> bool:
        return self.process.poll() is None

    def sample(self) -> Sample:
        pids = family(self.process.pid)
        return Sample(sum(map(cpu_seconds, pids)), sum(map(memory_bytes, pids)))

    def last_lines(self, count: int = 8) -> str:
        # The process writes at the offset that it shares with this file: reading must not move it.
        log = self.log.fileno()
        text = os.pread(log, os.fstat(log).st_size, 0).decode(errors="replace")
        return "\n".join(text.splitlines()[-count:])

    def stop(self) -> None:
        """SIGTERM, a little patience, then SIGKILL to all that is left of its session."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sent)
            except ProcessLookupError:
                break
            try:
                self.process.wait(STOP_LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        self.log.close()


@contextmanager
def pinned(command: list[str], core: int, folder: Path) -> Iterator[Pinned]:
    process = Pinned(command, core, folder)
    try:
        yield process
    finally:
        process.stop()


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    pids = [pid]
    for member in pids:
        for task in Path(f"/proc/{member}/task").glob("*/children"):
            pids.extend(int(child) for child in _read(task).split())
    return pids


def cpu_seconds(pid: int) -> float:
    return parse_cpu_ticks(_read(Path(f"/proc/{pid}/stat"))) / TICKS_PER_SECOND


def memory_bytes(pid: int) -> int:
    """Memory that the process allocated; pages of its program's file come and go with their use."""
    return parse_anonymous_bytes(_read(Path(f"/proc/{pid}/smaps_rollup")))


def parse_cpu_ticks(stat: str) -> int:
    """User and system ticks of all threads, of a /proc/PID/stat, whatever the name in it holds."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) if fields else 0


def parse_anonymous_bytes(smaps: str) -> int:
    """`Anonymous` of a /proc/PID/smaps_rollup."""
    lines = [line.split() for line in smaps.splitlines()]
    return sum(int(line[1]) for line in lines if line[0] == "Anonymous:") * 1024


def _read(path: Path) -> str:
    """A file of /proc; empty if the process is gone."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
