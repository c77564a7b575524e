"""Files by id: their rows in the index, their bytes in a folder."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ..daemon_thread import in_daemon_thread
from ..errors import ApiError, bad_request
from .batch_record import UNENDED
from .database import Database, new_id, storage_errors

_COLUMNS = "id, filename, purpose, bytes, created_at, expires_at"
# Content without a row is an upload in the making until so long after its last byte.
_ORPHAN_SECONDS = 3600.0


@dataclass(frozen=True)
class StoredFile:
    """`bytes` is its size; times are seconds since 1970, None for never."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int | None

    def shown(self) -> dict[str, Any]:
        """OpenAI's File object."""
        return {**asdict(self), "object": "file", "status": "processed", "status_details": None}


class FileStore:
    """A file is there when its row is; its bytes, under its id, were written before."""

    def __init__(self, folder: Path, database: Database) -> None:
        self._folder = folder
        self._database = database

    def path(self, file_id: str) -> Path:
        """Where the bytes of a file with this id are, of which the row is known."""
        return self._folder / file_id

    @contextlib.contextmanager
    def new_content(self) -> Iterator[tuple[str, Path]]:
        """A new id and where to write its bytes, which are removed again if the block fails."""
        file_id = new_id("file-")
        path = self.path(file_id)
        with storage_errors():
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._folder.mkdir(0o700, exist_ok=True)
        try:
            yield file_id, path
        except Exception:
            path.unlink(missing_ok=True)
            raise

    async def add(self, file: StoredFile) -> None:
        """Show a file whose bytes are on disk."""
        await self._database.write(lambda db: insert_file(db, file))

    async def get(self, file_id: str) -> StoredFile:
        """Raises ApiError 404 if there is none, or none any more."""
        return await self._database.read(lambda db: find_file(db, file_id))

    def open(self, file: StoredFile) -> BinaryIO:
        """In a thread. Raises ApiError 404 if the file was deleted meanwhile."""
        with storage_errors():
            try:
                return self.path(file.id).open("rb")
            except FileNotFoundError:
                raise _not_found(file.id) from None

    async def listed(
        self, *, purpose: str | None, after: str | None, limit: int, order: Literal["asc", "desc"]
    ) -> tuple[list[StoredFile], bool]:
        """Files in the order of their making, from `after` on, and whether more follow."""
        comparison = "<" if order == "desc" else ">"
        query = (
            f"SELECT {_COLUMNS} FROM file"
            f" WHERE (:purpose IS NULL OR purpose = :purpose)"
            f" AND (:after IS NULL OR id {comparison} :after)"
            f" AND (expires_at IS NULL OR expires_at > :now) ORDER BY id {order} LIMIT :limit"
        )
        values = {"purpose": purpose, "after": after, "now": time.time(), "limit": limit + 1}

        def select(db: sqlite3.Connection) -> list[StoredFile]:
            return [StoredFile(**row) for row in db.execute(query, values)]

        files = await self._database.read(select)
        return files[:limit], len(files) > limit

    async def delete(self, file_id: str) -> None:
        """Raises ApiError 404 if there is none, 400 if a batch needs it."""

        def delete(db: sqlite3.Connection) -> None:
            find_file(db, file_id)
            query = f"SELECT id FROM batch WHERE input_file_id = ? AND status IN {UNENDED}"
            batch = db.execute(query, (file_id,)).fetchone()
            if batch is not None:
                message = f"{batch['id']} reads {file_id}: cancel that batch first, or wait for it"
                raise bad_request(message, code="file_in_use")
            db.execute("DELETE FROM file WHERE id = ?", (file_id,))

        await self._database.write(delete)
        await in_daemon_thread(lambda: self._remove([file_id]))

    async def sweep(self) -> None:
        """Remove files that have expired, and content that no file will have."""

        def delete_expired(db: sqlite3.Connection) -> list[str]:
            needed = f"SELECT input_file_id FROM batch WHERE status IN {UNENDED}"
            query = f"DELETE FROM file WHERE expires_at <= ? AND id NOT IN ({needed}) RETURNING id"
            return [row["id"] for row in db.execute(query, (time.time(),)).fetchall()]

        def known(db: sqlite3.Connection) -> set[str]:
            return {row["id"] for row in db.execute("SELECT id FROM file")}

        def find_old() -> list[str]:
            with storage_errors():
                before = time.time() - _ORPHAN_SECONDS
                paths = self._folder.iterdir() if self._folder.exists() else ()
                return [path.name for path in paths if path.stat().st_mtime < before]

        old = await in_daemon_thread(find_old)
        expired = await self._database.write(delete_expired)
        with_row = await self._database.read(known)
        orphans = [name for name in old if name not in with_row]
        await in_daemon_thread(lambda: self._remove([*expired, *orphans]))

    def _remove(self, names: list[str]) -> None:
        with storage_errors():
            for name in names:
                self.path(name).unlink(missing_ok=True)


def insert_file(db: sqlite3.Connection, file: StoredFile) -> None:
    """Within a transaction."""
    values = ":" + _COLUMNS.replace(", ", ", :")
    db.execute(f"INSERT INTO file ({_COLUMNS}) VALUES ({values})", asdict(file))


def find_file(db: sqlite3.Connection, file_id: str, param: str | None = None) -> StoredFile:
    """Within a transaction. Raises ApiError 404 if there is none, or none any more."""
    query = f"SELECT {_COLUMNS} FROM file WHERE id = ? AND (expires_at IS NULL OR expires_at > ?)"
    row = db.execute(query, (file_id, time.time())).fetchone()
    if row is None:
        raise _not_found(file_id, param)
    return StoredFile(**row)


def _not_found(file_id: str, param: str | None = None) -> ApiError:
    return ApiError(404, f"There is no file {file_id!r}", param=param, code="file_not_found")
