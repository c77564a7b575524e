"""The store of /v1/responses: what it keeps, what it lets go, and in which order."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.api.openai.responses.store import ResponseStore

DAY = 24 * 3600.0


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(tmp_path: Path, clock: Clock) -> Callable[..., ResponseStore]:
    def open_it(**limits: Any) -> ResponseStore:
        return ResponseStore(tmp_path / "folder" / "responses.sqlite3", clock=clock, **limits)

    return open_it


async def add(store: ResponseStore, name: str, previous: str | None = None, size: int = 1) -> None:
    response = {"id": name, "previous_response_id": previous, "output": ["o" * size]}
    await store.add(response, [{"of": name}])


async def turns(store: ResponseStore, name: str) -> list[str]:
    return [turn.response["id"] for turn in await store.conversation(name)]


async def there(store: ResponseStore, *names: str) -> list[str]:
    return [name for name in names if await store.get(name) is not None]


async def test_what_was_added_is_there_after_a_restart(open_store) -> None:
    await add(open_store(), "a")
    await add(open_store(), "b", previous="a")
    store = open_store()
    found = await store.get("b")
    assert found is not None
    assert found.input == [{"of": "b"}]
    assert found.response["previous_response_id"] == "a"
    assert await turns(store, "b") == ["a", "b"]
    assert await turns(store, "no") == []


async def test_nobody_else_may_read_it(open_store, tmp_path: Path) -> None:
    await add(open_store(), "a")
    for path in (tmp_path / "folder").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


async def test_many_open_and_write_at_once(open_store) -> None:
    stores = [open_store() for _ in range(8)]
    names = [f"{turn}-{index}" for turn in range(5) for index in range(8)]
    await asyncio.gather(*(add(stores[int(name[-1])], name) for name in names))
    assert await there(stores[0], *names) == names


async def test_a_deleted_turn_stays_for_those_that_continue_it(open_store) -> None:
    store = open_store()
    for name, previous in (("a", None), ("b", "a"), ("c", "b"), ("d", "b")):
        await add(store, name, previous)
    assert await store.delete("b")
    assert not await store.delete("b")
    assert await turns(store, "b") == []
    assert await turns(store, "c") == ["a", "b", "c"]
    assert await store.delete("c")
    assert await turns(store, "d") == ["a", "b", "d"]
    assert await store.delete("d")
    assert await there(store, "a", "b", "c", "d") == ["a"]
    await add(store, "e", previous="b")
    assert await turns(store, "e") == [], "b went with the last that continued it"


async def test_conversations_expire_whole(open_store, clock: Clock) -> None:
    store = open_store(kept_seconds=30 * DAY)
    await add(store, "old")
    await add(store, "older turn", previous="old")
    await add(store, "root")
    clock.now += 20 * DAY
    await add(store, "going on", previous="root")
    clock.now += 20 * DAY
    await add(store, "new")
    names = ("old", "older turn", "root", "going on", "new")
    assert await there(store, *names) == ["root", "going on", "new"]
    clock.now += 20 * DAY
    await add(store, "newer")
    assert await there(store, *names, "newer") == ["new", "newer"]


async def test_what_rests_longest_goes_when_there_is_too_much(
    open_store, clock: Clock, tmp_path: Path
) -> None:
    store = open_store(max_bytes=3_000_000)
    await add(store, "root", size=200_000)
    previous = "root"
    for index in range(40):
        clock.now += 100.0
        await add(store, f"alone {index}", size=200_000)
        clock.now += 100.0
        await add(store, f"turn {index}", previous=previous, size=1000)
        previous = f"turn {index}"
    assert len(await turns(store, previous)) == 41, "it was never left alone for long"
    alone = [f"alone {index}" for index in range(40)]
    left = await there(store, *alone)
    assert left
    assert left == alone[-len(left) :]
    files = sum(path.stat().st_size for path in tmp_path.rglob("*.sqlite3"))
    assert files < 4_000_000
