"""The benchmark itself, over one row, where its binaries have been built."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.router.load import LOAD, ROOT

from benchmarks.router import __main__ as command
from benchmarks.router import routers


def test_partial_figures_are_kept_only_where_asked_for(tmp_path: Path):
    parse = command.parse
    assert command.json_path(parse([])) == command.report.RESULTS / "router.json"
    for part in (["--quick"], ["--rows", "tiny"], ["--peers", "ours", "smg"]):
        assert command.json_path(parse(part)) is None
        assert command.json_path(parse([*part, "--json", str(tmp_path)])) == tmp_path


def test_nginx_neither_buffers_nor_closes(tmp_path: Path):
    workers = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    configuration = routers.nginx_configuration(8080, workers, tmp_path)
    assert "server 127.0.0.1:1;\n    server 127.0.0.1:2;" in configuration
    assert "proxy_buffering off;" in configuration
    assert 'proxy_set_header Connection "";' in configuration


@pytest.mark.skipif(
    not (LOAD.exists() and routers.BINARY.exists()),
    reason="no release binaries: cargo build --release --workspace",
)
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="the router and its load need a core each",
)
def test_one_row_of_ours_is_measured_and_nothing_stays_behind(tmp_path: Path):
    figures = tmp_path / "figures.json"
    flags = ["--quick", "--no-build", "--rows", "tiny", "chats", "--peers", "ours"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.router", *flags, "--json", str(figures)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    tiny, chats = json.loads(figures.read_text())["rows"]
    assert tiny["failures"] == chats["failures"] == {}
    assert tiny["runs"]["ours"][0]["CPU per 1,000"] > 0
    assert 0 < chats["runs"]["ours, cache_aware"][0]["hit rate"] <= 100
    assert set(chats["runs"]) >= {"perfect placement", "ours, cache_aware"}
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert left == ""
