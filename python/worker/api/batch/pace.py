"""How fast lines are started: the engine is kept busy, and other requests do not wait for them."""

from __future__ import annotations

import asyncio

from ..engine_client import EngineClient
from ..errors import ApiError

_MOST_AT_ONCE = 64
# Above this share of KV memory in use, running requests might have to be retracted.
_FULLEST = 0.9
_LOOK_SECONDS = 0.05
_ANSWER_SECONDS = 20.0


class Pace:
    """Lines start in bursts, each when no request waits for the scheduler.

    So a request that arrives has one burst before it at most. A burst that the scheduler takes up
    at once is followed by one twice as large, one that it does not by one half as large.
    """

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._burst = 1

    async def next_burst(self) -> int:
        """How many lines may start, when some may."""
        if await self._has_room():
            self._burst = min(2 * self._burst, _MOST_AT_ONCE)
            return self._burst
        while True:
            self._burst = max(1, self._burst // 2)
            await asyncio.sleep(_LOOK_SECONDS)
            if await self._has_room():
                return self._burst

    async def _has_room(self) -> bool:
        try:
            state = await self._engine.state(_ANSWER_SECONDS)
        except ApiError:  # it is in a long step
            return False
        is_full = state.used_tokens > _FULLEST * state.total_tokens
        return state.waiting_requests == 0 and not is_full
