"""What is read from /proc, and that nothing outlives a measurement."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.router import process

SMAPS = """\
7ff0000-7fff000 ---p 00000000 00:00 0                  [rollup]
Rss:               83236 kB
Pss:               77000 kB
Shared_Clean:      11948 kB
Private_Clean:     22260 kB
Private_Dirty:     49028 kB
Anonymous:         48000 kB
AnonHugePages:      2048 kB
"""


def test_cpu_ticks_are_found_behind_any_name():
    numbers = " ".join(["1"] * 10 + ["250", "40"] + ["7"] * 30)
    assert process.parse_cpu_ticks(f"12 (smg) R {numbers}") == 290
    assert process.parse_cpu_ticks(f"12 (a b) (c) S {numbers}") == 290
    assert process.parse_cpu_ticks("") == 0


def test_allocated_memory_is_what_is_anonymous():
    assert process.parse_anonymous_bytes(SMAPS) == 48000 * 1024
    assert process.parse_anonymous_bytes("") == 0


def test_work_and_memory_of_children_count():
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdout.readline()
        family = process.family(running.pid)
        assert len(family) == 2
        assert process.cpu_seconds(family[1]) >= 0.28
        assert process.memory_bytes(family[1]) > 1 << 20
        running.stdin.close()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="pinning is Linux's")
def test_a_pinned_process_stays_on_its_core_and_ends_with_its_children(tmp_path: Path):
    core = min(os.sched_getaffinity(0))
    code = (
        "import os, subprocess, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '100'])\n"
        "print(f'{child.pid} {os.sched_getaffinity(0)} end', flush=True)\n"
        "child.wait(); signal.pause()"
    )
    with process.pinned([sys.executable, "-c", code], core, tmp_path) as running:
        while not (line := running.last_lines()).endswith("end"):
            assert running.is_running()
        child, cores, _ = line.split()
        child = int(child)
        assert cores == f"{{{core}}}"
        assert child in process.family(running.process.pid)
    assert running.process.returncode is not None
    assert process.cpu_seconds(child) == 0
