"""Batches in the index: made, listed, cancelled, and led from one status to the next.

validating → in_progress → finalizing → completed, or expired if lines are left;
validating → failed; validating or in_progress → cancelling → cancelled.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..errors import ApiError, bad_request
from .batch_record import UNENDED, WINDOW_SECONDS, BatchRecord, Status
from .database import Database, new_id
from .file_store import StoredFile, find_file, insert_file
from .input_file import CheckedInput
from .lease import ALIVE, renew_lease

# Lines deleted in one transaction, so that nobody waits long for the lock.
_DELETED_AT_ONCE = 500


@dataclass(frozen=True)
class NewBatch:
    """What a client asks for, checked. `output_seconds` is how long its files are to be kept."""

    endpoint: str
    input_file_id: str
    model: str
    metadata: dict[str, str] | None
    output_seconds: int | None


class BatchStore:
    """Batches of all workers that share the index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ===== for clients =====

    async def create(self, new: NewBatch) -> BatchRecord:
        """Raises ApiError: 404 if the input file is not there, 400 if it was uploaded for something
        else.
        """
        batch_id, now = new_id("batch_"), int(time.time())
        row = {
            **asdict(new),
            "id": batch_id,
            "metadata": None if new.metadata is None else json.dumps(new.metadata),
            "status": "validating",
            "created_at": now,
            "expires_at": now + WINDOW_SECONDS,
        }

        def insert(db: sqlite3.Connection) -> BatchRecord:
            file = find_file(db, new.input_file_id, "input_file_id")
            if file.purpose != "batch":
                message = f'input_file_id: the file was uploaded with purpose "{file.purpose}"'
                raise bad_request(f'{message}, not "batch"', "input_file_id", "invalid_value")
            columns = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            db.execute(f"INSERT INTO batch ({columns}) VALUES ({values})", row)
            return _find(db, batch_id)

        return await self._database.write(insert)

    async def get(self, batch_id: str) -> BatchRecord:
        """Raises ApiError 404 if there is none."""
        return await self._database.read(lambda db: _find(db, batch_id))

    async def listed(self, *, after: str | None, limit: int) -> tuple[list[BatchRecord], bool]:
        """The latest first, from `after` on, and whether more follow."""
        query = "SELECT * FROM batch WHERE (?1 IS NULL OR id < ?1) ORDER BY id DESC LIMIT ?2"

        def select(db: sqlite3.Connection) -> list[BatchRecord]:
            return [BatchRecord(**row) for row in db.execute(query, (after, limit + 1))]

        batches = await self._database.read(select)
        return batches[:limit], len(batches) > limit

    async def cancel(self, batch_id: str) -> BatchRecord:
        """Ask for the end of a batch. Raises ApiError: 404 if there is none, 400 if it has ended by
        itself, or is about to.
        """

        def cancel(db: sqlite3.Connection) -> BatchRecord:
            batch = _find(db, batch_id)
            if batch.status in ("validating", "in_progress"):
                _move(db, batch_id, "cancelling")
            elif batch.status not in ("cancelling", "cancelled"):
                message = f"{batch_id} is {batch.status}, and cannot be cancelled any more"
                raise bad_request(message, code="invalid_value")
            return _find(db, batch_id)

        return await self._database.write(cancel)

    # ===== for the workers =====

    async def unended(self) -> list[BatchRecord]:
        """The oldest first. Those whose time is over are finalizing now."""

        def select(db: sqlite3.Connection) -> list[BatchRecord]:
            query = f"SELECT * FROM batch WHERE status IN {UNENDED} ORDER BY id"
            return [BatchRecord(**row) for row in db.execute(query)]

        def is_over(batch: BatchRecord) -> bool:
            return batch.status == "in_progress" and batch.expires_at <= time.time()

        def expire(db: sqlite3.Connection) -> list[BatchRecord]:
            for batch in filter(is_over, select(db)):
                _move(db, batch.id, "finalizing")
            return select(db)

        batches = await self._database.read(select)
        return await self._database.write(expire) if any(map(is_over, batches)) else batches

    async def take(self, worker: str) -> BatchRecord | None:
        """The oldest batch to validate or to end, for this worker alone.

        It takes one at a time: what it has already is what it failed to go on with.
        """
        query = (
            "SELECT * FROM batch WHERE status IN ('validating', 'finalizing', 'cancelling')"
            f" AND (worker IS NULL OR worker = ? OR worker NOT IN {ALIVE}) ORDER BY id LIMIT 1"
        )

        def take(db: sqlite3.Connection) -> BatchRecord | None:
            row = db.execute(query, (worker, time.time())).fetchone()
            if row is None:
                return None
            renew_lease(db, worker)
            db.execute("UPDATE batch SET worker = ? WHERE id = ?", (worker, row["id"]))
            return BatchRecord(**{**dict(row), "worker": worker})

        return await self._database.write(take)

    async def validated(self, batch: BatchRecord, checked: CheckedInput) -> None:
        """Its lines may run, or it has failed; unless it was cancelled meanwhile."""
        lines = [
            (batch.id, line.number, line.custom_id, line.start, line.size) for line in checked.lines
        ]

        def begin(db: sqlite3.Connection) -> None:
            if not _is_still(db, batch):
                return
            if checked.errors:
                errors = json.dumps([asdict(error) for error in checked.errors])
                db.execute("UPDATE batch SET errors = ? WHERE id = ?", (errors, batch.id))
                _move(db, batch.id, "failed")
                return
            columns = "(batch, number, custom_id, start, size)"
            db.executemany(f"INSERT INTO line {columns} VALUES (?, ?, ?, ?, ?)", lines)
            db.execute("UPDATE batch SET total = ? WHERE id = ?", (len(lines), batch.id))
            _move(db, batch.id, "in_progress")

        await self._database.write(begin)

    async def ended(
        self,
        batch: BatchRecord,
        status: Status,
        *,
        failed: int,
        output: StoredFile | None,
        errors: StoredFile | None,
    ) -> bool:
        """The batch has its files; False if another worker was faster. `failed` is the number of
        lines of the error file.
        """

        def end(db: sqlite3.Connection) -> bool:
            if not _is_still(db, batch):
                return False
            for file in filter(None, (output, errors)):
                insert_file(db, file)
            db.execute(
                "UPDATE batch SET failed = ?, output_file_id = ?, error_file_id = ? WHERE id = ?",
                (failed, output and output.id, errors and errors.id, batch.id),
            )
            _move(db, batch.id, status)
            return True

        return await self._database.write(end)

    async def forget_lines(self) -> None:
        """Delete lines of ended batches, whose results are in files, and shrink the index."""
        unended = f"SELECT id FROM batch WHERE status IN {UNENDED}"
        ended = f"SELECT DISTINCT batch FROM line WHERE batch NOT IN ({unended})"

        def find(db: sqlite3.Connection) -> Sequence[str]:
            return [row["batch"] for row in db.execute(ended)]

        def delete(db: sqlite3.Connection, batch_id: str) -> bool:
            some = "SELECT rowid FROM line WHERE batch = ? LIMIT ?"
            query = f"DELETE FROM line WHERE rowid IN ({some})"
            return db.execute(query, (batch_id, _DELETED_AT_ONCE)).rowcount == _DELETED_AT_ONCE

        for batch_id in await self._database.read(find):
            more = True
            while more:
                more = await self._database.write(lambda db, each=batch_id: delete(db, each))
                await self._database.shrink()


def _find(db: sqlite3.Connection, batch_id: str) -> BatchRecord:
    row = db.execute("SELECT * FROM batch WHERE id = ?", (batch_id,)).fetchone()
    if row is None:
        raise ApiError(404, f"There is no batch {batch_id!r}", code="batch_not_found")
    return BatchRecord(**row)


def _move(db: sqlite3.Connection, batch_id: str, status: Status) -> None:
    """To another status, where anybody may go on with it."""
    query = f"UPDATE batch SET status = ?, {status}_at = ?, worker = NULL WHERE id = ?"
    db.execute(query, (status, int(time.time()), batch_id))


def _is_still(db: sqlite3.Connection, batch: BatchRecord) -> bool:
    """Whether a batch is where the worker that holds it left it."""
    now = _find(db, batch.id)
    return (now.status, now.worker) == (batch.status, batch.worker)
