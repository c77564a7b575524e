"""The `radixfleet` command."""

from __future__ import annotations

import subprocess
import sys

import pytest

from worker import __version__
from worker.embedded_models import EMBEDDED_MODELS


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "radixfleet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_version_and_help():
    assert run("--version").stdout == f"radixfleet {__version__}\n"
    shown = run("--help").stdout
    assert all(command in shown for command in ("pull", "demo", "env"))


def test_pull_lists_the_embedded_models_and_prints_where_one_is():
    assert all(name in run("pull").stdout for name in EMBEDDED_MODELS)
    result = run("pull", "smollm2-135m")
    assert result.returncode == 0
    assert result.stdout.strip().endswith(".gguf")


@pytest.mark.parametrize("arguments", [(), ("pull", "gpt-9"), ("fly",)])
def test_wrong_arguments_are_refused(arguments):
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stderr


def test_env_describes_the_machine():
    shown = run("env").stdout
    assert "torch" in shown
    assert "python" in shown.lower()
