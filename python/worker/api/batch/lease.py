"""Leases: what a worker holds is its own for as long as it shows that it lives."""

from __future__ import annotations

import sqlite3
import time

LEASE_SECONDS = 15.0
RENEW_SECONDS = 5.0
# A subquery for the workers that live; its parameter is the time.
ALIVE = "(SELECT id FROM worker WHERE leased_until > ?)"


def renew_lease(db: sqlite3.Connection, worker: str) -> None:
    """Within a transaction."""
    db.execute(
        "INSERT OR REPLACE INTO worker (id, leased_until) VALUES (?, ?)",
        (worker, time.time() + LEASE_SECONDS),
    )


def end_lease(db: sqlite3.Connection, worker: str) -> None:
    """Within a transaction: what this worker holds is free at once."""
    db.execute("DELETE FROM worker WHERE id = ?", (worker,))


def forget_dead(db: sqlite3.Connection) -> None:
    """Within a transaction: workers without a lease are as good as none."""
    db.execute("DELETE FROM worker WHERE leased_until < ?", (time.time(),))
