"""The order in which waiting requests are admitted."""

from __future__ import annotations

from collections.abc import Callable

from ..cache.kv_cache import KVCache
from .request import Request

Policy = Callable[[list[Request], KVCache], list[Request]]

# Past this many waiting requests, matching each of them every step costs more than the order gains.
LPM_QUEUE_LIMIT = 128

# A request that was passed over in so many steps is next, whatever its prefix.
PASSED_OVER_LIMIT = 32

POLICIES: dict[str, Policy] = {}


def _register(name: str) -> Callable[[Policy], Policy]:
    def add(policy: Policy) -> Policy:
        POLICIES[name] = policy
        return policy

    return add


@_register("fcfs")
def first_come_first_served(waiting: list[Request], cache: KVCache) -> list[Request]:
    """As they came, which is their order: a retracted request keeps its place."""
    return waiting


@_register("lpm")
def longest_prefix_match(waiting: list[Request], cache: KVCache) -> list[Request]:
    """Longest cached prefix first, then by arrival. With a long queue: first come, first served.

    No request starves: one that was retracted, or passed over often enough, comes before all
    others.
    """
    if len(waiting) > LPM_QUEUE_LIMIT:
        return first_come_first_served(waiting, cache)

    def rank(request: Request) -> tuple[bool, int, int]:
        if request.admitted_before or request.passed_over >= PASSED_OVER_LIMIT:
            return False, 0, request.arrival
        return True, -cache.match_length(request.text), request.arrival

    return sorted(waiting, key=rank)
