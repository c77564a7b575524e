"""Batches over the ends of worker processes: no finished line is lost, none is doubled."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from .batch_requests import CHAT, as_jsonl, chat_line
from .worker_process import LONG_SECONDS, WorkerProcess

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
LINES = 60
FIRST = 20

Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(tiny_folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Workers on one folder, which answer so many requests and are silent on what follows."""
    started: list[WorkerProcess] = []

    def start_one(answers: int) -> WorkerProcess:
        storage = str(tmp_path / "storage")
        arguments = ["--model-path", str(tiny_folder), "--file-storage-path", storage]
        worker = WorkerProcess([str(FAKE_WORKER)], arguments, FAKE_ANSWERS=str(answers))
        started.append(worker)
        return worker

    yield start_one
    for worker in started:
        worker.close()


def client_of(worker: WorkerProcess) -> openai.OpenAI:
    url = worker.event("ready")["url"]
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def until_completed(client: openai.OpenAI, batch_id: str, count: int) -> openai.types.Batch:
    """Wait until so many lines are; the limit is only there to fail instead of hanging."""
    for _ in range(LONG_SECONDS * 20):
        batch = client.batches.retrieve(batch_id)
        assert batch.request_counts is not None
        if batch.request_counts.completed == count and batch.status != "finalizing":
            return batch
        time.sleep(0.05)
    raise AssertionError(f"never so far: {batch}")


def half_way(worker: WorkerProcess) -> str:
    """The id of a batch that has got as far as this worker goes."""
    client = client_of(worker)
    content = as_jsonl([chat_line(f"request {i}") for i in range(LINES)])
    file = client.files.create(file=content, purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert until_completed(client, batch.id, FIRST).status == "in_progress"
    return batch.id


def index(tmp_path: Path) -> sqlite3.Connection:
    return sqlite3.connect(tmp_path / "storage" / "batches.sqlite3", isolation_level=None)


def finished_results(tmp_path: Path) -> set[bytes]:
    with index(tmp_path) as db:
        return {row[0] for row in db.execute("SELECT result FROM line WHERE succeeded = 1")}


def check_results(client: openai.OpenAI, batch_id: str, before: set[bytes]) -> None:
    """Every line has one answer, and those that were finished `before` are the same."""
    batch = until_completed(client, batch_id, LINES)
    assert (batch.status, batch.error_file_id) == ("completed", None)
    output = client.files.content(batch.output_file_id or "").read().splitlines(keepends=True)
    assert len(before) == FIRST
    assert before < set(output)
    names = [f'"custom_id":"request {i}"'.encode() for i in range(LINES)]
    assert len(output) == LINES
    assert all(name in line for name, line in zip(names, output, strict=True))


def test_after_a_kill_the_next_worker_goes_on(start: Start, tmp_path: Path) -> None:
    worker = start(answers=FIRST)
    batch_id = half_way(worker)
    worker.process.send_signal(signal.SIGKILL)
    worker.finish()
    before = finished_results(tmp_path)
    with index(tmp_path) as db:  # instead of waiting
        db.execute("UPDATE worker SET leased_until = 0")
    check_results(client_of(start(answers=LINES)), batch_id, before)


def test_the_death_of_the_engine_fails_no_line(start: Start, tmp_path: Path) -> None:
    worker = start(answers=FIRST)
    batch_id = half_way(worker)
    os.kill(worker.scheduler_pid(), signal.SIGKILL)
    code, _ = worker.finish()
    assert code == 1
    with index(tmp_path) as db:
        (attempts,) = db.execute(
            "SELECT max(attempts) FROM line WHERE succeeded IS NULL"
        ).fetchone()
        assert db.execute("SELECT count(*) FROM worker").fetchone() == (0,)
    assert attempts == 1  # it may have been the line's fault
    before = finished_results(tmp_path)
    check_results(client_of(start(answers=LINES)), batch_id, before)


def test_a_worker_that_is_told_to_end_leaves_its_lines_to_others_at_once(
    start: Start, tmp_path: Path
) -> None:
    worker = start(answers=FIRST)
    batch_id = half_way(worker)
    worker.process.send_signal(signal.SIGTERM)
    code, log = worker.finish()
    assert (code, log) == (0, "")
    with index(tmp_path) as db:
        unfinished = "SELECT max(attempts), count(worker) FROM line WHERE succeeded IS NULL"
        assert db.execute(unfinished).fetchone() == (0, 0)
    before = finished_results(tmp_path)
    check_results(client_of(start(answers=LINES)), batch_id, before)
