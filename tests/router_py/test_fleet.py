"""The workers of a fleet are started, restarted and ended as promised, whatever they do.

The workers here are small scripts that speak the protocol of the status pipe.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from router_py.display import LineDisplay
from router_py.fleet import Fleet, FleetError, WorkerCommand

PRELUDE = """
import json, os, signal, sys, time
def say(**event):
    os.write(int(os.environ["RADIXFLEET_STATUS_FD"]), json.dumps(event).encode() + b"\\n")
def note_pid():
    open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
def until_the_launcher_is_gone():
    os.read(int(os.environ["RADIXFLEET_PARENT_FD"]), 1)
"""
GOOD = "note_pid(); say(event='ready', url='http://x'); until_the_launcher_is_gone()"
NEVER_READY = "note_pid(); say(event='progress', stage='loading weights', fraction=0.5); "
NEVER_READY += "until_the_launcher_is_gone()"
PATIENCE_SECONDS = 30


class Recorder(LineDisplay):
    """Keeps what the user would be shown."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []
        self.stages: list[tuple[str, str]] = []

    def progress(self, name: str, stage: str, fraction: float) -> None:
        self.stages.append((name, stage))

    def note(self, text: str) -> None:
        self.notes.append(text)


def worker(name: str, body: str, pids: Path) -> WorkerCommand:
    return WorkerCommand(name, [sys.executable, "-c", PRELUDE + body, str(pids)], "http://x")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def noted(pids: Path) -> list[int]:
    return [int(line) for line in pids.read_text().split()] if pids.exists() else []


async def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


async def test_workers_start_together_and_stop_together(tmp_path):
    pids, display = tmp_path / "pids", Recorder()
    fleet = Fleet([worker("worker 0", GOOD, pids), worker("worker 1", GOOD, pids)], display)
    await fleet.start()
    assert len(noted(pids)) == 2
    assert {name for name, stage in display.stages if stage == "ready"} == {"worker 0", "worker 1"}
    await fleet.stop(1.0)
    assert not any(map(is_alive, noted(pids)))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("say(event='failed', error='no such model'); sys.exit(1)", "no such model"),
        ("print('boom: disk on fire'); sys.exit(3)", "boom: disk on fire"),
        ("sys.exit(3)", "it exited with code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "it was ended by SIGKILL"),
    ],
)
async def test_a_worker_that_dies_while_starting_ends_the_start_with_its_reason(
    tmp_path, body, reason
):
    pids = tmp_path / "pids"
    workers = [worker("worker 0", NEVER_READY, pids), worker("worker 1", body, pids)]
    fleet = Fleet(workers, Recorder())
    with pytest.raises(FleetError, match=f"worker 1 could not start: {reason}"):
        await fleet.start()
    await fleet.stop(1.0)
    assert not any(map(is_alive, noted(pids)))


async def test_a_worker_that_dies_later_is_restarted(tmp_path):
    pids, display = tmp_path / "pids", Recorder()
    fleet = Fleet([worker("worker 0", GOOD, pids)], display, restart_seconds=0.01)
    await fleet.start()
    keeping = asyncio.create_task(fleet.keep())
    (first,) = noted(pids)
    os.kill(first, signal.SIGKILL)
    await until(lambda: any("ready again" in note for note in display.notes))
    assert "worker 0 at http://x was ended by SIGKILL" in display.notes[0]
    assert len(noted(pids)) == 2
    assert is_alive(noted(pids)[1])
    keeping.cancel()
    await fleet.stop(1.0)
    assert not any(map(is_alive, noted(pids)))


async def test_a_worker_that_dies_again_and_again_is_given_up(tmp_path):
    pids, display = tmp_path / "pids", Recorder()
    once = "note_pid()\nif len(open(sys.argv[1]).readlines()) == 1:\n    "
    body = once + GOOD.removeprefix("note_pid(); ").replace("; ", "\n    ") + "\nsys.exit(4)"
    fleet = Fleet([worker("worker 0", body, pids)], display, restart_seconds=0.001)
    await fleet.start()
    os.kill(noted(pids)[0], signal.SIGKILL)
    with pytest.raises(FleetError, match="no worker is left"):
        await asyncio.wait_for(fleet.keep(), PATIENCE_SECONDS)
    assert "given up" in display.notes[-1]
    await fleet.stop(1.0)


async def test_a_worker_that_ignores_the_end_is_killed_with_its_children(tmp_path):
    pids = tmp_path / "pids"
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN); note_pid(); child = os.fork()\n"
    stubborn += "if child == 0:\n    note_pid()\n    time.sleep(600)\n"
    stubborn += "while len(open(sys.argv[1]).readlines()) < 2: time.sleep(0.01)\n"
    stubborn += "say(event='ready', url='http://x'); time.sleep(600)"
    fleet = Fleet([worker("worker 0", stubborn, pids)], Recorder())
    await fleet.start()
    await fleet.stop(0.1)
    assert len(noted(pids)) == 2
    await until(lambda: not any(map(is_alive, noted(pids))))


async def test_workers_end_when_their_launcher_is_killed(tmp_path):
    pids = tmp_path / "pids"
    launcher = f"""
import asyncio, sys
from router_py.display import LineDisplay
from router_py.fleet import Fleet, WorkerCommand
async def main():
    command = [sys.executable, "-c", {PRELUDE + GOOD!r}, {str(pids)!r}]
    await Fleet([WorkerCommand("worker 0", command, "http://x")], LineDisplay()).start()
    print("started", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    process = subprocess.Popen([sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.kill()
    process.wait()
    await until(lambda: not any(map(is_alive, noted(pids))))
