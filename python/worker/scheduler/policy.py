"""The order in which waiting requests are admitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..cache.kv_cache import KVCache
from .request import Request

# Waiting requests by arrival, running ones, and the cache: who waits, in the order of admission.
Policy = Callable[[list[Request], Iterable[Request], KVCache], list[Request]]

# Past this many waiting requests, matching each of them every step costs more than the order gains;
# they are grouped by their first tokens alone.
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
def first_come_first_served(
    waiting: list[Request], running: Iterable[Request], cache: KVCache
) -> list[Request]:
    """As they came, which is their order: a retracted request keeps its place."""
    return waiting


@_register("lpm")
def longest_prefix_match(
    waiting: list[Request], running: Iterable[Request], cache: KVCache
) -> list[Request]:
    """Longest cached prefix first, then by arrival. With a long queue: those that begin like a
    running one first; each is followed by those that begin like it.

    No request starves: one that was retracted, or passed over often enough, comes before all
    others.
    """
    if cache.disabled:
        return waiting
    urgent: list[Request] = []
    others: list[Request] = []
    for request in waiting:
        is_urgent = request.admitted_before or request.passed_over >= PASSED_OVER_LIMIT
        (urgent if is_urgent else others).append(request)
    if len(waiting) > LPM_QUEUE_LIMIT:
        return urgent + _grouped(others, {request.start for request in running})
    return urgent + sorted(others, key=lambda request: -cache.match_length(request.reusable))


def _grouped(requests: list[Request], first: set[bytes]) -> list[Request]:
    """Those that begin alike one behind the other: the beginnings `first`, then by arrival."""
    known: dict[bytes, list[Request]] = {}
    new: dict[bytes, list[Request]] = {}
    for request in requests:
        groups = known if request.start in first else new
        groups.setdefault(request.start, []).append(request)
    return [request for groups in (known, new) for group in groups.values() for request in group]
