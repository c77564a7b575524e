"""How fast lines start, by what the scheduler says of itself."""

from __future__ import annotations

from typing import Any, cast

import pytest

from worker.api.batch import pace
from worker.api.batch.pace import Pace
from worker.api.engine_client import EngineClient
from worker.api.errors import ApiError
from worker.messages import SchedulerState


class Engine:
    """Answers with these numbers of waiting requests, one after the other; None is silence."""

    def __init__(self, waiting: list[int | None], used_tokens: int = 0) -> None:
        self.waiting = waiting
        self.used_tokens = used_tokens

    async def state(self, timeout_seconds: float) -> SchedulerState:
        waiting = self.waiting.pop(0)
        if waiting is None:
            raise ApiError(503, "silent")
        used = self.used_tokens
        self.used_tokens = 0
        return SchedulerState("r", 1, waiting, 100, 0, 0, 0, used, 0, 0, 0, 0, 0.0)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_LOOK_SECONDS", 0.0)


async def bursts(engine: Any, count: int) -> list[int]:
    lines = Pace(cast(EngineClient, engine))
    return [await lines.next_burst() for _ in range(count)]


async def test_bursts_grow_while_nothing_waits() -> None:
    assert await bursts(Engine([0] * 8), 8) == [2, 4, 8, 16, 32, 64, 64, 64]


async def test_nothing_starts_while_something_waits_and_then_less() -> None:
    engine = Engine([0, 0, 0, 3, 0, 0])
    assert await bursts(engine, 5) == [2, 4, 8, 4, 8]
    assert engine.waiting == []
    assert await bursts(Engine([0, 0, 0, 5, 5, 5, 0]), 4) == [2, 4, 8, 1]


async def test_a_silent_scheduler_is_a_busy_one() -> None:
    assert await bursts(Engine([0, 0, None, 0]), 3) == [2, 4, 2]


async def test_nothing_starts_while_memory_is_full() -> None:
    engine = Engine([0, 0, 0], used_tokens=91)
    assert await bursts(engine, 2) == [1, 2]
    assert engine.waiting == []
