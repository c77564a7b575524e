"""Lines of running batches in the index: taken by workers, finished once."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .database import Database, storage_errors
from .input_file import body_of
from .lease import ALIVE, end_lease, renew_lease


@dataclass(frozen=True)
class TakenLine:
    """A request that this worker is to compute. It has been begun `attempts` times, with this one,
    without an end.
    """

    batch: str
    number: int
    custom_id: str
    endpoint: str
    body: bytes
    attempts: int

    @property
    def key(self) -> tuple[str, int]:
        """Its place: no other line has the same."""
        return self.batch, self.number


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer, or of several."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class FinishedLine:
    """`result` is a line for the output file if it succeeded, else for the error file."""

    line: TakenLine
    succeeded: bool
    result: bytes
    usage: Usage = Usage()


class LineStore:
    """Lines of batches for `model`, of all workers that share the index.

    `input_folder` has the input files by their id.
    """

    def __init__(self, database: Database, input_folder: Path, model: str) -> None:
        self._database = database
        self._input_folder = input_folder
        self._model = model

    async def take(self, worker: str, count: int) -> list[TakenLine]:
        """Up to `count` lines for this worker: the first of the oldest batch that nobody has."""

        def take(db: sqlite3.Connection) -> list[TakenLine]:
            batches = db.execute(
                "SELECT id, endpoint, input_file_id FROM batch"
                " WHERE status = 'in_progress' AND model = ? ORDER BY id",
                (self._model,),
            ).fetchall()
            taken: list[TakenLine] = []
            for batch in batches:
                free = db.execute(
                    "SELECT number, custom_id, start, size, attempts FROM line"
                    " WHERE batch = ? AND succeeded IS NULL"
                    f" AND (worker IS NULL OR worker NOT IN {ALIVE}) ORDER BY number LIMIT ?",
                    (batch["id"], time.time(), count - len(taken)),
                ).fetchall()
                if free:
                    path = self._input_folder / batch["input_file_id"]
                    taken += _read_lines(path, batch, free)
            if taken:
                renew_lease(db, worker)
            db.executemany(
                "UPDATE line SET worker = ?, attempts = attempts + 1"
                " WHERE batch = ? AND number = ?",
                [(worker, *line.key) for line in taken],
            )
            return taken

        return await self._database.write(take)

    async def renew(self, worker: str) -> None:
        """Keep what this worker holds from others."""
        await self._database.write(lambda db: renew_lease(db, worker))

    async def finish(self, finished: Sequence[FinishedLine]) -> bool:
        """Keep these results: from now on the lines are done, whatever happens to the worker.

        Those of lines that have one already, and of batches that run no more, are dropped. A batch
        that has no more lines to finish is finalizing; returns whether there is a new one.
        """

        def finish(db: sqlite3.Connection) -> bool:
            for each in finished:
                if _set_result(db, each):
                    _count(db, each)
            cursor = db.execute(
                "UPDATE batch SET status = 'finalizing', finalizing_at = ?"
                " WHERE status = 'in_progress' AND completed + failed = total",
                (int(time.time()),),
            )
            return cursor.rowcount > 0

        return await self._database.write(finish)

    async def give_up(self, worker: str, lines: Sequence[TakenLine]) -> None:
        """The worker ends: others may have at once what it holds, as if it had never begun."""

        def give_up(db: sqlite3.Connection) -> None:
            end_lease(db, worker)
            db.executemany(
                "UPDATE line SET worker = NULL, attempts = attempts - 1"
                " WHERE batch = ? AND number = ? AND worker = ?",
                [(*line.key, worker) for line in lines],
            )

        await self._database.write(give_up)


def _read_lines(path: Path, batch: sqlite3.Row, rows: Sequence[sqlite3.Row]) -> list[TakenLine]:
    lines = []
    with storage_errors(), path.open("rb") as file:
        for row in rows:
            file.seek(row["start"])
            body = body_of(file.read(row["size"]))
            place = batch["id"], row["number"], row["custom_id"]
            lines.append(TakenLine(*place, batch["endpoint"], body, row["attempts"] + 1))
    return lines


def _set_result(db: sqlite3.Connection, finished: FinishedLine) -> bool:
    """False if the line has a result already, or its batch runs no more."""
    cursor = db.execute(
        "UPDATE line SET succeeded = ?, result = ?, worker = NULL"
        " WHERE batch = ? AND number = ? AND succeeded IS NULL"
        " AND batch IN (SELECT id FROM batch WHERE status = 'in_progress')",
        (finished.succeeded, finished.result, *finished.line.key),
    )
    return cursor.rowcount == 1


def _count(db: sqlite3.Connection, finished: FinishedLine) -> None:
    usage = finished.usage
    db.execute(
        "UPDATE batch SET completed = completed + ?, failed = failed + ?,"
        " input_tokens = input_tokens + ?, cached_tokens = cached_tokens + ?,"
        " output_tokens = output_tokens + ? WHERE id = ?",
        (
            finished.succeeded,
            not finished.succeeded,
            usage.input_tokens,
            usage.cached_tokens,
            usage.output_tokens,
            finished.line.batch,
        ),
    )
