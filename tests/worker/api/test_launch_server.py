"""`worker.launch_server` as a process: start, failure, signals, and the death of either side."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from worker.config import ServerArgs

from .worker_process import LONG_SECONDS, WorkerProcess, children_of, wait_until_gone

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")


Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(tiny_folder: Path) -> Iterator[Start]:
    started: list[WorkerProcess] = []

    def start_one(*arguments: str, behaviour: str = "", **options: Any) -> WorkerProcess:
        worker = WorkerProcess(
            [str(FAKE_WORKER)],
            ["--model-path", str(tiny_folder), *arguments],
            FAKE_SCHEDULER=behaviour,
            **options,
        )
        started.append(worker)
        return worker

    yield start_one
    for worker in started:
        worker.close()


def test_help_has_every_option() -> None:
    command = [sys.executable, "-P", "-m", "worker.launch_server", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for option in dataclasses.fields(ServerArgs):
        assert f"--{option.name.replace('_', '-')}" in done.stdout
    assert "torch" not in done.stderr


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("fe80::1", "http://[fe80::1]:8000"),
        ("a.example", "http://a.example:8000"),
    ],
)
def test_url_is_one_that_clients_can_use(host: str, url: str) -> None:
    assert ServerArgs(host=host, port=8000).url() == url


def test_start_reports_progress_and_listens_when_ready(start: Start) -> None:
    worker = start()
    assert worker.event("progress")["stage"]
    ready = worker.event("ready")
    assert httpx.get(f"{ready['url']}/health", trust_env=False).status_code == 200
    info = httpx.get(f"{ready['url']}/get_server_info", trust_env=False).json()
    assert info["engine"]["max_total_tokens"] == ready["max_total_tokens"] == 4096


def test_start_without_a_tokenizer_needs_none(start: Start, tmp_path: Path) -> None:
    worker = start("--model-path", str(tmp_path), "--skip-tokenizer-init")
    url = worker.event("ready")["url"]
    body = {"input_ids": [5], "stream": True}
    with httpx.stream("POST", f"{url}/generate", json=body, trust_env=False) as response:
        first = next(response.iter_lines())
    assert json.loads(first.removeprefix("data: "))["token_ids"] == [36]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("streaming", [False, True])
def test_signal_ends_everything_with_exit_code_0(
    start: Start, number: signal.Signals, streaming: bool
) -> None:
    worker = start()
    url = worker.event("ready")["url"]
    scheduler_pid = worker.scheduler_pid()
    with contextlib.ExitStack() as stack:
        if streaming:
            body = {"text": "hi", "stream": True}
            response = stack.enter_context(
                httpx.stream("POST", f"{url}/generate", json=body, trust_env=False)
            )
            lines = response.iter_lines()
            next(lines)
        worker.process.send_signal(number)
        if streaming:
            assert "The worker is shutting down" in "".join(lines)
    assert worker.finish() == (0, "")
    wait_until_gone(scheduler_pid)


@pytest.mark.parametrize(
    ("number", "to_both"),
    [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGINT, True)],
)
def test_signal_while_starting_ends_everything_with_exit_code_0(
    start: Start, number: signal.Signals, to_both: bool
) -> None:
    worker = start(behaviour="hang")
    deadline = time.monotonic() + LONG_SECONDS
    while not children_of(worker.process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    scheduler_pid = worker.scheduler_pid()
    if to_both:  # as a terminal does
        os.kill(scheduler_pid, number)
    worker.process.send_signal(number)
    assert worker.finish() == (0, "")
    wait_until_gone(scheduler_pid)


def test_scheduler_that_dies_ends_the_worker_with_an_error(start: Start) -> None:
    worker = start()
    url = worker.event("ready")["url"]
    body = {"text": "hi", "stream": True}
    with httpx.stream("POST", f"{url}/generate", json=body, trust_env=False) as response:
        lines = response.iter_lines()
        next(lines)
        os.kill(worker.scheduler_pid(), signal.SIGKILL)
        assert "the scheduler process was killed by SIGKILL" in "".join(lines)
    code, errors = worker.finish()
    assert code == 1
    assert len(errors.splitlines()) == 1
    assert "the scheduler process was killed by SIGKILL" in errors


def test_scheduler_that_cannot_start_is_one_line(start: Start) -> None:
    worker = start(behaviour="fail")
    assert worker.event("failed")["error"] == "no weights in the folder"
    assert worker.finish() == (1, "")


def test_failed_start_says_so_on_stderr_without_a_launcher(start: Start) -> None:
    code, errors = start(behaviour="fail", status=False).finish()
    assert code == 1
    assert errors.splitlines()[-1] == "error: no weights in the folder"


def test_scheduler_that_dies_while_starting_is_one_line(start: Start) -> None:
    worker = start(behaviour="die")
    error = worker.event("failed")["error"]
    assert error == "the scheduler process ended with exit code 3 (while starting)"
    assert worker.finish()[0] == 1


def test_broken_tokenizer_is_one_line_and_leaves_nothing(start: Start, tiny_folder: Path) -> None:
    (tiny_folder / "tokenizer.json").write_text("{")
    worker = start(behaviour="hang")
    assert "tokenizer.json is not valid" in worker.event("failed")["error"]
    assert worker.finish()[0] == 1


def test_taken_port_is_one_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        worker = start("--port", str(port))
        error = worker.event("failed")["error"]
        assert error == f"cannot listen on 127.0.0.1 port {port}: Address already in use"
        assert worker.finish()[0] == 1


def test_model_that_does_not_exist_is_one_line(start: Start) -> None:
    worker = start("--model-path", "/no/such/model")
    assert "/no/such/model" in worker.event("failed")["error"]
    assert worker.finish()[0] == 1


def test_worker_ends_with_its_launcher(start: Start) -> None:
    worker = start()
    worker.event("ready")
    scheduler_pid = worker.scheduler_pid()
    os.close(worker.parent_write)
    assert worker.finish()[0] == 1
    wait_until_gone(scheduler_pid)


def test_scheduler_ends_with_the_http_process(start: Start) -> None:
    worker = start()
    worker.event("ready")
    scheduler_pid = worker.scheduler_pid()
    worker.process.kill()
    worker.process.wait(timeout=LONG_SECONDS)
    wait_until_gone(scheduler_pid)


def test_http_process_does_not_import_torch() -> None:
    program = (
        "import sys, worker.launch_server, worker.api.run_worker, worker.tokenization.tokenizer\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", program]).returncode == 0
