"""The command line of `launch_server`: what it offers, and what it refuses before it starts."""

from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys

import pytest

from router_py import _core, server_options
from router_py.launch_server import worker_command
from router_py.server_options import parse
from worker.config import ServerArgs

MODULES = {
    "launch_server": "router_py.launch_server",
    "launch_router": "router_py.launch_router",
    "worker": "worker.launch_server",
}


def run(command: str, *flags: str) -> subprocess.CompletedProcess[str]:
    module = [sys.executable, "-P", "-m", MODULES[command]]
    return subprocess.run([*module, *flags], capture_output=True, text=True, timeout=120)


def test_help_names_every_option_of_the_worker_and_of_the_router():
    shown = run("launch_server", "--help").stdout
    for option in dataclasses.fields(ServerArgs):
        assert f"--{option.name.replace('_', '-')}" in shown, option.name
    for option in _core.options():
        if option["name"] not in ("host", "port", "worker-urls", "api-key"):
            assert f"--router-{option['name']}" in shown
    for group in ("Model and tokenizer", "Memory and scheduling", "HTTP server"):
        assert group in shown


@pytest.mark.parametrize("command", ["launch_server", "worker"])
def test_a_model_that_does_not_exist_is_named_in_one_line(command):
    result = run(command, "--model-path", "/no/such/model", "--port", "0")
    assert result.returncode == 1
    assert "/no/such/model" in result.stderr
    assert "smollm2-135m" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", MODULES)
def test_a_port_that_is_taken_is_named_in_one_line(command):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run(command, "--port", str(port))
    assert result.returncode == 1
    assert str(port) in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_metrics_port_that_is_taken_is_named_before_anything_is_started():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run("launch_server", "--port", "0", "--router-prometheus-port", port)
    assert result.returncode == 1
    assert result.stderr.startswith("error: metrics: cannot listen on 127.0.0.1 port " + port)
    assert "--router-prometheus-port, or 0 for no metrics" in result.stderr
    assert result.stderr.count("\n") == 1


def test_options_of_the_router_reach_it_with_their_types():
    flags = ["--router-service-discovery", "--router-selector", "app=worker", "role=chat"]
    flags += ["--router-service-discovery-namespace", "production"]
    flags += ["--router-service-discovery-port", "8000"]
    assert server_options.parse(flags).router == {
        "service_discovery": True,
        "selector": ["app=worker", "role=chat"],
        "service_discovery_namespace": "production",
        "service_discovery_port": 8000,
    }


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        (["--dp-size", "0"], "0"),
        (["--port", "99999"], "99999"),
        (["--router-policy", "best"], "best"),
        (["--router-service-discovery"], "--router-service-discovery needs --selector"),
        (["--mem-fraction-static", "2"], "2"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--base-gpu-id", "-1"], "must not be negative"),
        (["--dp", "0"], "0"),
        (["--api-key", "two words"], "error: --api-key: a key is one or more visible"),
        (["--router-queue-timeout-secs", "0"], "error: --router-queue-timeout-secs 0"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(flags, wrong):
    result = run("launch_server", *flags)
    assert result.returncode == 2
    assert wrong in result.stderr
    assert result.stderr.count("\n") == 1


def test_workers_get_a_key_of_their_own_and_no_key_is_on_a_command_line(monkeypatch):
    monkeypatch.setenv("RADIXFLEET_API_KEY", "from-the-environment")
    for flags, expected in [
        (["--api-key=-client"], None),
        ([], None),
        (["--router-worker-api-key", "inside"], "inside"),
    ]:
        options = parse([*flags, "--random-seed=-5"])
        worker = worker_command(options, 0, 20000)
        given = worker.environment["RADIXFLEET_API_KEY"]
        assert given == (expected or options.worker_api_key)
        assert given not in ("-client", "from-the-environment")
        assert len(given) > 20 or expected
        command = " ".join(worker.command)
        assert "--random-seed=-5" in command
        for secret in (given, "-client", "from-the-environment"):
            assert secret not in command


def test_without_a_key_workers_are_told_none(monkeypatch):
    monkeypatch.delenv("RADIXFLEET_API_KEY", raising=False)
    assert "RADIXFLEET_API_KEY" not in worker_command(parse([]), 0, 20000).environment


def test_each_worker_gets_gpus_of_its_own():
    options = parse(["--dp-size=2", "--tp-size=2", "--base-gpu-id=4"])
    commands = [" ".join(worker_command(options, index, 20000).command) for index in range(2)]
    assert "--base-gpu-id=4" in commands[0]
    assert "--base-gpu-id=6" in commands[1]
    assert all("--tp-size=2" in command for command in commands)
