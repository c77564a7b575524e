"""What clients get of a batch: a file of answers and one of errors, a line for each request."""

from __future__ import annotations

import contextlib
import io
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..daemon_thread import in_daemon_thread
from .batch_record import BatchRecord, Status
from .batch_store import BatchStore
from .database import Database, storage_errors
from .file_store import FileStore, StoredFile

_UNFINISHED = {
    "cancelling": ("batch_cancelled", "The batch was cancelled before this request was finished"),
    "finalizing": ("batch_expired", "The batch expired before this request was finished"),
}


def answered(custom_id: str, status_code: int, request_id: str, body: bytes) -> bytes:
    """The line of a request that has an HTTP answer, an error's included. `body` is JSON."""
    response = {
        "status_code": status_code,
        "request_id": request_id,
        "body": orjson.Fragment(body),
    }
    return _line(custom_id, response, None)


def unanswered(custom_id: str, code: str, message: str) -> bytes:
    """The line of a request that has none."""
    return _line(custom_id, None, {"code": code, "message": message})


def _line(custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None) -> bytes:
    name = f"batch_req_{uuid.uuid4().hex}"
    line = {"id": name, "custom_id": custom_id, "response": response, "error": error}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)


@dataclass
class _ResultFile:
    """Made with its first line; one without lines is no file."""

    path: Path
    bytes: int = 0
    lines: int = 0
    _file: io.BufferedWriter | None = None

    def write(self, line: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("xb")
        self._file.write(line)
        self.bytes += len(line)
        self.lines += 1

    def close(self) -> None:
        """Returns when the bytes are on disk."""
        if self._file is None:
            return
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


async def end_batch(
    database: Database, files: FileStore, batches: BatchStore, batch: BatchRecord
) -> None:
    """Write the files of a batch that is finalizing or cancelling, in the order of its input.

    Each line of the input is in one of the two, once. Nobody reads them before all is there.
    """
    with files.new_content() as (output_id, output), files.new_content() as (error_id, errors):
        output_file, error_file = _ResultFile(output), _ResultFile(errors)
        unfinished = await in_daemon_thread(
            lambda: _write_results(database, batch, output_file, error_file)
        )
        status: Status = "cancelled" if batch.status == "cancelling" else "completed"
        if unfinished and status == "completed":
            status = "expired"
        ended = await batches.ended(
            batch,
            status,
            failed=error_file.lines,
            output=_stored(batch, output_id, output_file, "output"),
            errors=_stored(batch, error_id, error_file, "error"),
        )
        if not ended:
            output.unlink(missing_ok=True)
            errors.unlink(missing_ok=True)
    await batches.forget_lines()


def _write_results(
    database: Database, batch: BatchRecord, output: _ResultFile, errors: _ResultFile
) -> int:
    """Returns how many lines have no result."""
    unfinished = 0
    query = "SELECT custom_id, succeeded, result FROM line WHERE batch = ? ORDER BY number"
    with (
        database.connection() as db,
        storage_errors(),
        contextlib.closing(output),
        contextlib.closing(errors),
    ):
        for row in db.execute(query, (batch.id,)):
            if row["result"] is None:
                unfinished += 1
                errors.write(unanswered(row["custom_id"], *_UNFINISHED[batch.status]))
            else:
                (output if row["succeeded"] else errors).write(row["result"])
    return unfinished


def _stored(batch: BatchRecord, file_id: str, written: _ResultFile, kind: str) -> StoredFile | None:
    if not written.lines:
        return None
    now = int(time.time())
    expires_at = None if batch.output_seconds is None else now + batch.output_seconds
    name = f"{batch.id}_{kind}.jsonl"
    return StoredFile(file_id, name, "batch_output", written.bytes, now, expires_at)
