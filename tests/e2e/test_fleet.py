"""Everything together: `launch_server --dp-size 2`, the real model, and OpenAI's client."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

PATIENCE_SECONDS = 120
QUESTION = {"role": "user", "content": "What is the capital of France?"}
RULES = " ".join(f"Rule {i}: stay polite, and never mention the number {i}." for i in range(30))


def processes_of(session: int) -> list[int]:
    """Living processes that descend from `session`'s leader, whatever session they lead."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parents[int(stat.parent.name)] = int(parent)
    found = {session} & parents.keys()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def wait_until(condition, seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.1)


class RunningFleet:
    """A `launch_server` and clients for it."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        command = [sys.executable, "-P", "-m", "router_py.launch_server", "--port", str(port)]
        command += ["--model-path", "smollm2-135m", "--dp-size", "2", "--enable-cache-report"]
        command += ["--max-total-tokens", "20000", "--router-prometheus-port", "0"]
        command += ["--file-storage-path", str(log.with_name("storage"))]
        with log.open("w") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)
        wait_until(self._is_ready)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "radixfleet is ready at" in self.log.read_text()

    def workers(self) -> list[str]:
        return httpx.get(f"{self.url}/list_workers").json()["urls"]

    def chat(self, messages: list, **options) -> tuple[str, openai.types.chat.ChatCompletion]:
        """Which worker answered, and what."""
        raw = self.client.chat.completions.with_raw_response.create(
            model="smollm2-135m", messages=messages, **({"temperature": 0} | options)
        )
        return raw.headers["x-radixfleet-worker"], raw.parse()

    def kill(self, worker: str) -> None:
        """As `kill -9` of its process does it."""
        port = worker.rpartition(":")[2]
        (pid,) = [
            pid
            for pid in processes_of(self.process.pid)
            if f"--port={port}\0" in Path(f"/proc/{pid}/cmdline").read_text()
        ]
        os.kill(pid, signal.SIGKILL)

    def restarts(self) -> int:
        """How many workers have come back so far."""
        return self.log.read_text().count("is ready again")

    def worker_state(self, url: str) -> dict:
        return httpx.get(f"{url}/get_server_info", timeout=30).json()["state"]

    def is_idle(self) -> bool:
        states = [self.worker_state(url) for url in self.workers()]
        return all(not state["running_requests"] + state["waiting_requests"] for state in states)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    running = RunningFleet(tmp_path_factory.mktemp("fleet") / "log")
    yield running
    left = processes_of(running.process.pid)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(timeout=30) == 0
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), 10)


def test_a_chat_answer_and_the_same_as_a_stream(fleet):
    _, whole = fleet.chat([QUESTION], max_tokens=24)
    assert "Paris" in whole.choices[0].message.content
    assert whole.usage.completion_tokens <= 24
    stream = fleet.client.chat.completions.create(
        model="smollm2-135m",
        messages=[QUESTION],
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(chunks) > 3


def test_completions_and_the_native_api_agree(fleet):
    completion = fleet.client.completions.create(
        model="smollm2-135m", prompt="The capital of France is", max_tokens=8, temperature=0
    )
    native = httpx.post(
        f"{fleet.url}/generate",
        json={
            "text": "The capital of France is",
            "sampling_params": {"temperature": 0, "max_new_tokens": 8},
        },
        timeout=60,
    ).json()
    assert completion.choices[0].text == native["text"]
    assert native["meta_info"]["completion_tokens"] == 8


def test_a_shared_system_prompt_is_computed_once(fleet):
    system = {"role": "system", "content": RULES}
    served = []
    for i in range(4):
        question = {"role": "user", "content": f"Question {i}?"}
        served.append(fleet.chat([system, question], max_tokens=4))
    assert len({worker for worker, _ in served}) == 1
    for _, answer in served[1:]:
        usage = answer.usage
        assert usage.prompt_tokens_details.cached_tokens > 0.9 * usage.prompt_tokens


def test_clients_that_go_away_stop_costing(fleet):
    body = {"text": "Count: 1, 2,", "stream": True}
    body["sampling_params"] = {"max_new_tokens": 4000, "ignore_eos": True}

    def begin_and_leave(_: int) -> None:
        with httpx.stream("POST", f"{fleet.url}/generate", json=body, timeout=60) as answer:
            next(answer.iter_bytes())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(begin_and_leave, range(16)))
    wait_until(fleet.is_idle, 30)
    for url in fleet.workers():
        state = fleet.worker_state(url)
        assert state["held_tokens"] == 0
        assert state["free_tokens"] + state["cached_tokens"] == state["total_tokens"]


def test_a_killed_worker_costs_no_error_and_comes_back(fleet):
    victim, _ = fleet.chat([QUESTION], max_tokens=2)
    restarts = fleet.restarts()
    fleet.kill(victim)
    for _ in range(8):
        survivor, answer = fleet.chat([QUESTION], max_tokens=2)
        assert answer.choices[0].message.content
        assert survivor in fleet.workers()
    wait_until(lambda: fleet.restarts() > restarts)

    def victim_serves() -> bool:
        # A text that nobody has cached goes to the worker with the smallest tree: both in time.
        body = {"text": secrets.token_hex(400), "sampling_params": {"max_new_tokens": 1}}
        answer = httpx.post(f"{fleet.url}/generate", json=body, timeout=60)
        return answer.headers["x-radixfleet-worker"] == victim

    wait_until(victim_serves)


def test_a_batch_outlives_a_worker_and_answers_each_line_once(fleet):
    sampling = {"max_tokens": 16, "ignore_eos": True, "temperature": 0}
    lines = [
        {
            "custom_id": f"line {i}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "smollm2-135m", "prompt": f"Number {i} is", **sampling},
        }
        for i in range(40)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = fleet.client.files.create(file=content, purpose="batch")
    batch = fleet.client.batches.create(
        input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
    )

    def completed() -> int:
        return fleet.client.batches.retrieve(batch.id).request_counts.completed

    wait_until(lambda: completed() >= 4)
    busy = max(fleet.workers(), key=lambda url: fleet.worker_state(url)["running_requests"])
    restarts = fleet.restarts()
    fleet.kill(busy)
    wait_until(lambda: fleet.client.batches.retrieve(batch.id).status == "completed")
    batch = fleet.client.batches.retrieve(batch.id)
    results = fleet.client.files.content(batch.output_file_id).read().splitlines()
    assert [json.loads(line)["custom_id"] for line in results] == [x["custom_id"] for x in lines]
    assert batch.error_file_id is None
    wait_until(lambda: fleet.restarts() > restarts)


def test_bad_requests_are_the_clients_fault_and_harm_nobody(fleet):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        fleet.chat([QUESTION], temperature=-1)
    with pytest.raises(openai.BadRequestError) as error:
        fleet.chat([{"role": "user", "content": "word " * 9000}])
    assert error.value.code == "context_length_exceeded"
    broken = httpx.post(f"{fleet.url}/v1/chat/completions", content=b'{"messages": [')
    assert broken.status_code == 400
    assert broken.json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{fleet.url}/health").status_code == 200
    assert len(fleet.workers()) == 2


def test_the_demonstration_runs_to_its_end():
    command = [sys.executable, "-P", "-m", "radixfleet", "demo"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if "127.0.0.1:" in line and "%" in line]
    assert len(rows) == 6, "two turns of a conversation, four requests that share a prompt"
    assert sum("shared prompt" in row for row in rows) == 4
