"""A scheduler that hangs is noticed, and nothing else is taken for one."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

# Each runs in a process of its own, as what it does with its stacks would end this one.
PROGRAM = """
import os, sys, time
from types import SimpleNamespace
from worker.scheduler.watchdog import Watchdog

scheduler = SimpleNamespace(
    is_idle=False, waits_for_grammars=False, counters=SimpleNamespace(steps=7), launched=None,
    running_requests=3, waiting=[1],
)

def give_up(reason):
    print("gave up:", reason, flush=True)
    os._exit(1)

def stuck_in_here():
    time.sleep(60)

Watchdog(scheduler, TIMEOUT_SECONDS, give_up).start()
"""


def run(body: str, timeout_seconds: float = 0.4) -> subprocess.CompletedProcess[str]:
    program = f"TIMEOUT_SECONDS = {timeout_seconds}\n{PROGRAM}{textwrap.dedent(body)}"
    command = [sys.executable, "-P", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_a_hang_ends_the_process_and_the_log_says_where_it_was() -> None:
    done = run("stuck_in_here()")
    assert done.returncode == 1
    assert done.stdout.startswith("gave up: no step for 0.4 seconds, with 3 requests running and 1")
    assert "the scheduler hangs" in done.stderr
    assert "in stuck_in_here" in done.stderr


def test_a_step_says_what_it_was() -> None:
    done = run(
        """
        chunk = range(500)
        scheduler.launched = SimpleNamespace(decodes=[1, 2], prefills=[chunk, chunk])
        stuck_in_here()
        """
    )
    assert "the last one decodes 2 requests and prefills 1000 tokens of 2 prompts" in done.stdout


@pytest.mark.parametrize(
    "body",
    ["scheduler.is_idle = True", "scheduler.waits_for_grammars = True", ""],
    ids=["idle", "waiting for grammars", "at work"],
)
def test_idleness_and_slow_steps_are_no_hangs(body: str) -> None:
    done = run(
        f"""
        {body}
        for _ in range(12):
            time.sleep(0.3)
            scheduler.counters.steps += not scheduler.is_idle
        sys.exit(0)
        """,
        timeout_seconds=2.5,  # a busy machine may hold the process up for as long
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_hang_that_keeps_the_interpreter_ends_the_process_too() -> None:
    done = run(
        """
        import ctypes
        def keeps_the_lock():
            ctypes.PyDLL(None).sleep(60)
        time.sleep(0.05)
        keeps_the_lock()
        """
    )
    assert done.returncode == 1
    assert "in keeps_the_lock" in done.stderr
