"""Beginnings and ends of batches, where workers die in between."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from worker.api.batch import lease
from worker.api.batch.batch_record import BatchRecord
from worker.api.batch.batch_store import NewBatch
from worker.api.batch.file_store import StoredFile
from worker.api.batch.input_file import check_input
from worker.api.batch.line_store import FinishedLine
from worker.api.batch.result_files import answered, end_batch
from worker.api.batch.storage import Storage
from worker.api.errors import ApiError

from ..batch_requests import CHAT, as_jsonl, chat_line

COUNT = 5


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage", "tiny")


async def make_batch(storage: Storage) -> BatchRecord:
    content = as_jsonl([chat_line(str(i)) for i in range(COUNT)])
    with storage.files.new_content() as (file_id, path):
        path.write_bytes(content)
        file = StoredFile(file_id, "in.jsonl", "batch", len(content), 1, None)
        await storage.files.add(file)
    return await storage.batches.create(NewBatch(CHAT, file_id, "tiny", None, None))


async def taken(storage: Storage, worker: str) -> BatchRecord:
    batch = await storage.batches.take(worker)
    assert batch is not None
    return batch


async def validate(storage: Storage, batch: BatchRecord) -> None:
    path = storage.files.path(batch.input_file_id)
    await storage.batches.validated(batch, check_input(path, batch.endpoint))


async def finish_lines(storage: Storage, count: int) -> None:
    lines = await storage.lines.take("worker-a", count)
    results = [answered(line.custom_id, 200, "r", b"{}") for line in lines]
    await storage.lines.finish(
        [FinishedLine(line, True, result) for line, result in zip(lines, results, strict=True)]
    )


async def end(storage: Storage, batch: BatchRecord) -> None:
    await end_batch(storage.database, storage.files, storage.batches, batch)


def die(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on leases are over as soon as they are made."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", -1.0)


async def test_only_one_worker_validates(storage: Storage) -> None:
    await make_batch(storage)
    assert await storage.batches.take("worker-a") is not None
    assert await storage.batches.take("worker-b") is None


async def test_another_worker_validates_when_the_first_has_died(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make_batch(storage)
    die(monkeypatch)
    first = await taken(storage, "worker-a")
    second = await taken(storage, "worker-b")
    await validate(storage, second)
    await validate(storage, first)  # it was only slow
    batch = await storage.batches.get(made.id)
    assert (batch.status, batch.total) == ("in_progress", COUNT)
    assert len(await storage.lines.take("worker-c", 100)) == COUNT


async def test_a_batch_that_is_cancelled_while_it_is_validated_has_no_lines(
    storage: Storage,
) -> None:
    await make_batch(storage)
    validating = await taken(storage, "worker-a")
    await storage.batches.cancel(validating.id)
    cancelling = await taken(storage, "worker-b")
    await validate(storage, validating)
    await end(storage, cancelling)
    batch = await storage.batches.get(validating.id)
    assert (batch.status, batch.total, batch.output_file_id) == ("cancelled", 0, None)


async def test_files_are_there_once_when_a_worker_is_slow_to_write_them(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make_batch(storage)
    await validate(storage, await taken(storage, "worker-a"))
    await finish_lines(storage, COUNT)
    die(monkeypatch)
    slow = await taken(storage, "worker-a")
    await end(storage, await taken(storage, "worker-b"))
    await end(storage, slow)
    batch = await storage.batches.get(made.id)
    assert (batch.status, batch.completed, batch.failed) == ("completed", COUNT, 0)
    files, _ = await storage.files.listed(purpose="batch_output", after=None, limit=9, order="asc")
    assert [file.id for file in files] == [batch.output_file_id]
    content = {path.name for path in (storage.database.path.parent / "files").iterdir()}
    assert content == {batch.input_file_id, batch.output_file_id}


async def test_a_failure_to_write_the_files_is_no_end(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make_batch(storage)
    await validate(storage, await taken(storage, "worker-a"))
    await finish_lines(storage, COUNT)
    batch = await taken(storage, "worker-a")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as during:
        during.setattr("worker.api.batch.result_files.os.fsync", full)
        with pytest.raises(ApiError, match="No space left"):
            await end(storage, batch)
    content = {path.name for path in (storage.database.path.parent / "files").iterdir()}
    assert content == {made.input_file_id}
    await end(storage, await taken(storage, "worker-a"))
    assert (await storage.batches.get(made.id)).status == "completed"


async def test_lines_of_the_oldest_batch_come_first(storage: Storage) -> None:
    made = [await make_batch(storage) for _ in range(3)]
    for _ in made:
        await validate(storage, await taken(storage, "worker-a"))
    lines = [
        *await storage.lines.take("worker-a", COUNT + 2),
        *await storage.lines.take("worker-b", 2 * COUNT),
    ]
    places = [(batch.id, number) for batch in made for number in range(1, COUNT + 1)]
    assert [line.key for line in lines] == places


async def test_taking_lines_reads_no_finished_ones(storage: Storage) -> None:
    """Else a batch would be the slower the further it is."""
    await make_batch(storage)
    await validate(storage, await taken(storage, "worker-a"))
    asked: list[str] = []
    await storage.database.read(lambda db: db.set_trace_callback(asked.append))
    await storage.lines.take("worker-a", 1)

    def plans(db: sqlite3.Connection) -> list[str]:
        (query,) = [each for each in asked if each.startswith("SELECT number")]
        return [row["detail"] for row in db.execute(f"EXPLAIN QUERY PLAN {query}")]

    steps = await storage.database.read(plans)
    assert any("USING INDEX unfinished_line" in step for step in steps)
    assert not any("SORT" in step or "TEMP B-TREE" in step for step in steps)


async def test_workers_that_start_together_make_one_index(tmp_path: Path) -> None:
    storages = [Storage(tmp_path / "storage", "tiny") for _ in range(8)]
    assert await asyncio.gather(*(each.batches.unended() for each in storages)) == [[]] * 8
    made = await make_batch(storages[0])
    for each in storages:
        assert [batch.id for batch in await each.batches.unended()] == [made.id]


async def test_an_index_of_another_version_is_refused(storage: Storage) -> None:
    await make_batch(storage)
    with sqlite3.connect(storage.database.path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(ApiError, match="version 99"):
        await Storage(storage.database.path.parent, storage.model).batches.unended()


async def test_the_index_shrinks_when_lines_are_forgotten(storage: Storage) -> None:
    made = await make_batch(storage)
    await validate(storage, await taken(storage, "worker-a"))
    lines = await storage.lines.take("worker-a", COUNT)
    await storage.lines.finish([FinishedLine(line, True, b"x" * 1_000_000) for line in lines])

    def pages(db: sqlite3.Connection) -> int:
        return db.execute("PRAGMA page_count").fetchone()[0]

    before = await storage.database.read(pages)
    await end(storage, await taken(storage, "worker-a"))
    assert (await storage.batches.get(made.id)).status == "completed"
    assert await storage.database.read(pages) < before / 10
