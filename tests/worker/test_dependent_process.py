"""The parent of a process learns why it ended; the process ends with its parent."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from worker.dependent_process import DependentProcess

CHILD = """
import os, signal, sys, time
from worker.dependent_process import ParentProcess
parent = ParentProcess(int(sys.argv[sys.argv.index("--parent-fd") + 1]))
"""
# It is gone, without a word, as soon as its child has written to the pipe.
PARENT = """
import os, sys
from worker.dependent_process import DependentProcess
child, read, write = sys.argv[1], *map(int, sys.argv[2:])
process = DependentProcess("the child", [sys.executable, "-c", child, str(write)], [write])
os.read(read, 1)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("parent.fail('no memory\\n  is left')", "the child failed: no memory is left"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "the child was killed by SIGKILL"),
        ("sys.exit(3)", "the child ended with exit code 3"),
    ],
)
def test_the_parent_is_told_how_it_ended(end: str, told: str) -> None:
    process = DependentProcess("the child", [sys.executable, "-c", CHILD + end])
    assert process.wait_until_dead() == told
    process.close()


def test_it_ends_when_its_parent_is_gone_and_leaves_ctrl_c_to_it() -> None:
    child = """
parent.end_with_it()
os.kill(os.getpid(), signal.SIGINT)
os.write(int(sys.argv[1]), b"still here")
time.sleep(600)
"""
    read, write = os.pipe()
    command = [sys.executable, "-c", PARENT, CHILD + child, str(read), str(write)]
    subprocess.run(command, pass_fds=[read, write], check=True)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b"till here"  # then nobody is left who could write
