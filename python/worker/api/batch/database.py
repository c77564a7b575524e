"""The index of files and batches: one SQLite database, which the workers of a host share."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from ..daemon_thread import in_daemon_thread
from ..errors import ApiError

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")

_VERSION = 1
# Another worker holds the lock for milliseconds; if it is stopped meanwhile, for longer.
_LOCK_SECONDS = 30.0
# 80 MB: others wait meanwhile.
_SHRUNK_PAGES = 20_000

# A line has its result from the moment it is finished: `succeeded` is 1 where that goes into the
# output file, 0 for the error file. `worker` is who validates or ends a batch, or computes a line;
# without a lease that lasts, what it holds is anybody's.
_SCHEMA = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;

CREATE TABLE file (
    id TEXT PRIMARY KEY,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) WITHOUT ROWID;

CREATE TABLE batch (
    id TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    input_file_id TEXT NOT NULL,
    model TEXT NOT NULL,
    metadata TEXT,
    output_seconds INTEGER,
    status TEXT NOT NULL,
    worker TEXT,
    errors TEXT,
    output_file_id TEXT,
    error_file_id TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    in_progress_at INTEGER,
    finalizing_at INTEGER,
    completed_at INTEGER,
    failed_at INTEGER,
    expired_at INTEGER,
    cancelling_at INTEGER,
    cancelled_at INTEGER,
    total INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    input_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    output_tokens INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX batch_by_status ON batch (status);

CREATE TABLE line (
    batch TEXT NOT NULL,
    number INTEGER NOT NULL,
    custom_id TEXT NOT NULL,
    start INTEGER NOT NULL,
    size INTEGER NOT NULL,
    worker TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    succeeded INTEGER,
    result BLOB,
    PRIMARY KEY (batch, number)
);
CREATE INDEX unfinished_line ON line (batch, number) WHERE succeeded IS NULL;

CREATE TABLE worker (
    id TEXT PRIMARY KEY,
    leased_until REAL NOT NULL
) WITHOUT ROWID;
"""


class Database:
    """Made on first use. Work runs in threads, one at a time, each as one transaction.

    What is written is on disk when `write` returns. Every method raises ApiError 500 if the disk is
    full, the folder not writable, or the database broken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    async def read(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """The result of `work`, which sees one state of the database."""
        return await in_daemon_thread(lambda: self._transaction("BEGIN", work))

    async def write(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """The result of `work`, whose changes are made all or, if it raises, not at all."""
        return await in_daemon_thread(lambda: self._transaction("BEGIN IMMEDIATE", work))

    async def shrink(self) -> None:
        """Give room back to the disk that is not needed any more; not all of it at once."""

        def shrink() -> None:
            with storage_errors(), self._lock:
                # Not `execute`, which would stop after the first page.
                self._shared().executescript(f"PRAGMA incremental_vacuum({_SHRUNK_PAGES})")

        await in_daemon_thread(shrink)

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """For a thread that reads for long, while others go on."""
        with storage_errors(), contextlib.closing(self._connect()) as connection:
            yield connection

    def _transaction(self, begin: str, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        with storage_errors(), self._lock:
            connection = self._shared()
            connection.execute(begin)
            try:
                result = work(connection)
                connection.commit()
            finally:
                if connection.in_transaction:
                    connection.rollback()
            return result

    def _shared(self) -> sqlite3.Connection:
        """Under the lock."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        if not self.path.exists():
            self._create()
        connection = sqlite3.connect(
            self.path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            connection.close()
            raise sqlite3.DatabaseError(f"{self.path} is of version {version}, not {_VERSION}")
        return connection

    def _create(self) -> None:
        """Under another name first, so that a worker that starts now sees all of it or nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}-{secrets.token_hex(8)}")
        try:
            draft.touch(0o600)  # prompts are nobody else's business
            with contextlib.closing(sqlite3.connect(draft)) as connection:
                connection.executescript(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            with contextlib.suppress(FileExistsError):  # another worker was faster
                os.link(draft, self.path)
        finally:
            draft.unlink(missing_ok=True)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Errors of disk and database as ApiError 500; the log says more."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        logger.error("the storage of files and batches failed: %r", error)
        message = f"The storage of files and batches failed: {error}"
        raise ApiError(500, message, code="storage_failed") from error


def new_id(prefix: str) -> str:
    """Ids sort in the order in which they were made, by whichever worker."""
    return f"{prefix}{time.time_ns():016x}{secrets.token_hex(8)}"
