"""Where a worker keeps files and batches: `--file-storage-path`, shared with others of its host."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from .batch_store import BatchStore
from .database import Database
from .file_store import FileStore
from .lease import forget_dead
from .line_store import LineStore


class Storage:
    """The folder, its index, and who looks after what in it. It is made when it is first used.

    Workers that share it compute batches for their own `model` alone, by the name that it has at
    their start.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self.model = model
        self.database = Database(folder / "batches.sqlite3")
        self.files = FileStore(folder / "files", self.database)
        self.batches = BatchStore(self.database)
        self.lines = LineStore(self.database, folder / "files", model)
        self._news = asyncio.Event()

    @property
    def is_used(self) -> bool:
        """Whether a worker has ever kept anything here."""
        return self.database.path.exists()

    def tell(self) -> None:
        """Batches have changed: let this worker see to them at once."""
        self._news.set()

    async def news(self, timeout_seconds: float) -> None:
        """Returns when somebody tells; what other workers do has to be looked for."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout_seconds)
        self._news.clear()

    async def sweep(self) -> None:
        """Remove what is not needed any more, and what was left behind by workers that died."""
        await self.batches.forget_lines()
        await self.database.write(forget_dead)
        await self.files.sweep()
