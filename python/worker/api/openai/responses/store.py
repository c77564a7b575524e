"""Responses that are kept: a SQLite file, which the workers of one host share."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from ...errors import ApiError

logger = logging.getLogger(__name__)

Item = dict[str, Any]

_Result = TypeVar("_Result")

# Another worker's transaction is over long before.
_LOCK_SECONDS = 10.0
# How often to look for what is to go, and how much of it goes with one response that comes.
_SWEEP_SECONDS = 60.0
_DROPPED_AT_ONCE = 256

# `previous` is the response that one continues; several may continue the same. `deleted` ones are
# there for those that continue them, and for nobody else.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY,
    previous TEXT,
    created_at REAL NOT NULL,
    deleted INTEGER NOT NULL DEFAULT 0,
    input BLOB NOT NULL,
    response BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS responses_by_previous ON responses (previous);
CREATE INDEX IF NOT EXISTS responses_by_age ON responses (created_at);
"""

_ADD = "INSERT INTO responses (id, previous, created_at, input, response) VALUES (?, ?, ?, ?, ?)"

_GET = "SELECT input, response FROM responses WHERE id = ? AND NOT deleted"

# From the oldest to the newest.
_CONVERSATION = """
WITH RECURSIVE turns (id, previous, age) AS (
    SELECT id, previous, 0 FROM responses WHERE id = ? AND NOT deleted
    UNION ALL
    SELECT responses.id, responses.previous, age + 1
    FROM responses JOIN turns ON responses.id = turns.previous
)
SELECT input, response FROM turns JOIN responses USING (id) ORDER BY age DESC
"""

_HIDE = "UPDATE responses SET deleted = 1 WHERE id = ? AND NOT deleted"

_OLDEST_LEAVES = """
SELECT id FROM responses AS leaf WHERE created_at < ?
AND NOT EXISTS (SELECT 1 FROM responses WHERE previous = leaf.id)
ORDER BY created_at LIMIT ?
"""

_DROP_LEAF = """
DELETE FROM responses AS leaf WHERE id = ? AND (deleted OR created_at < ?)
AND NOT EXISTS (SELECT 1 FROM responses WHERE previous = leaf.id)
RETURNING previous
"""


@dataclass(frozen=True)
class StoredResponse:
    """A Response object as it was answered, and the items that its request added by itself."""

    input: list[Item]
    response: dict[str, Any]


class ResponseStore:
    """Keeps responses for `kept_seconds`, and no more than `max_bytes` of them: what goes first is
    the conversation that rests longest, from its last turn back.

    A turn that later ones continue is kept as long as they are. The file is made when it is first
    needed. All methods raise ApiError 500 when the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        kept_seconds: float = 30 * 24 * 3600,
        max_bytes: int = 4 * 1024**3,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._kept_seconds = kept_seconds
        self._max_bytes = max_bytes
        self._clock = clock
        self._next_sweep = 0.0
        self._opened: sqlite3.Connection | None = None
        # The connection's own: the event loop never waits for the disk.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="responses")

    async def add(self, response: dict[str, Any], items: list[Item]) -> None:
        """Keep a Response object and its request's own items; it lasts when this returns."""
        await self._run(lambda: self._add(response, items))

    async def get(self, response_id: str) -> StoredResponse | None:
        """None if there is none, or none any more."""
        return await self._run(lambda: next(self._select(_GET, response_id), None))

    async def conversation(self, response_id: str) -> list[StoredResponse]:
        """This response after all those that it continues; empty if one of them is not there."""
        turns = await self._run(lambda: list(self._select(_CONVERSATION, response_id)))
        return turns if turns and turns[0].response["previous_response_id"] is None else []

    async def delete(self, response_id: str) -> bool:
        """Whether there was one. Responses that continue it keep the conversation so far."""
        return await self._run(lambda: self._delete(response_id))

    # ===== in the thread of the connection =====

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            logger.error("stored responses, %s: %s", self._path, error)
            message = "Stored responses cannot be reached; the worker's log says why"
            raise ApiError(500, message) from error

    @property
    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            # One worker at a time: the change to WAL does not wait for others.
            fcntl.flock(folder, fcntl.LOCK_EX)
            os.close(os.open(self._path, os.O_CREAT, 0o600))  # prompts are nobody else's business
            database = sqlite3.connect(self._path, timeout=_LOCK_SECONDS, isolation_level=None)
            # What is committed outlives the process; a power failure may cost the latest.
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.executescript(_SCHEMA)
        finally:
            os.close(folder)
        return database

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._database as database:  # which ends it, in one way or the other
            database.execute("BEGIN IMMEDIATE")
            yield

    def _select(self, query: str, response_id: str) -> Iterator[StoredResponse]:
        for items, response in self._database.execute(query, (response_id,)):
            yield StoredResponse(orjson.loads(items), orjson.loads(response))

    def _add(self, response: dict[str, Any], items: list[Item]) -> None:
        now = self._clock()
        key, previous = response["id"], response["previous_response_id"]
        row = (key, previous, now, orjson.dumps(items), orjson.dumps(response))
        with self._transaction():
            self._database.execute(_ADD, row)
        if now >= self._next_sweep and not self._drop_some(now):
            self._next_sweep = now + _SWEEP_SECONDS

    def _delete(self, response_id: str) -> bool:
        with self._transaction():
            found = self._database.execute(_HIDE, (response_id,)).rowcount > 0
            self._drop(response_id, before=0.0)
        return found

    def _drop_some(self, now: float) -> bool:
        """Of what is too old or too much; whether there may be more."""
        expired = self._drop_oldest(before=now - self._kept_seconds)
        return expired or self._drop_oldest(before=now, down_to=self._max_bytes)

    def _drop_oldest(self, before: float, down_to: int = 0) -> bool:
        """Drop some conversations that nobody went on with since `before`, until there are
        `down_to` bytes. Whether there may be more to drop.
        """
        with self._transaction():
            found = self._database.execute(_OLDEST_LEAVES, (before, _DROPPED_AT_ONCE)).fetchall()
            for (response_id,) in found:
                if self._used_bytes() <= down_to:
                    return False
                self._drop(response_id, before)
        return bool(found)

    def _drop(self, response_id: str, before: float) -> None:
        """This response and those that it alone continued, as far as they are deleted or from
        `before` that time; none that another continues.
        """
        while row := self._database.execute(_DROP_LEAF, (response_id, before)).fetchone():
            (response_id,) = row

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size
