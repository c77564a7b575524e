"""The `launch_router` command, as a process."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

COMMAND = [sys.executable, "-P", "-m", "router_py.launch_router"]


@contextmanager
def launched(*args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running command and the router's URL; killed at the end if it still runs."""
    command = [*COMMAND, "--port", "0", "--prometheus-port", "0", *args]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"Router is ready at (http://127\.0\.0\.1:\d+) .*\n", line)
            assert found, line
            yield process, found[1]
        finally:
            process.kill()


@pytest.mark.parametrize("stop_signal", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_exits_with_0(
    worker_url: str, stop_signal: signal.Signals
) -> None:
    with launched("--policy", "random") as (process, url):
        added = httpx.post(f"{url}/add_worker", params={"url": worker_url})
        assert added.status_code == 200
        assert httpx.get(f"{url}/get_server_info").json() == {"path": "/get_server_info"}
        process.send_signal(stop_signal)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "Traceback" not in errors


def test_it_stops_while_a_client_still_waits(worker_url: str) -> None:
    with (
        launched() as (process, url),
        socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 0)) as client,
    ):
        client.sendall(b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_a_second_sigterm_does_not_wait_for_answers(worker_url: str) -> None:
    with (
        launched("--shutdown-grace-secs", "3600", "--worker-urls", worker_url) as (process, url),
        socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 0)) as client,
    ):
        client.sendall(b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n12")
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        assert process.stdout.readline() == "Stopping the router.\n"
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == -signal.SIGTERM


def test_a_port_that_is_taken_is_one_line_and_exit_code_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = subprocess.run(
            [*COMMAND, "--port", port], capture_output=True, text=True, timeout=60, check=False
        )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"error: cannot listen on 127.0.0.1:{port}: "
        "the port is taken by another program; choose another one with --port\n"
    )


def test_log_lines_are_json_when_asked_for(worker_url: str) -> None:
    with launched("--log-format", "json", "--log-level", "debug") as (process, url):
        httpx.post(f"{url}/add_worker", params={"url": worker_url})
        httpx.post(f"{url}/generate", json={"text": "a secret"}, headers={"x-request-id": "id-7"})
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert all(line.startswith("{") for line in errors.splitlines())
    assert '"request_id":"id-7"' in errors
    assert "a secret" not in errors
