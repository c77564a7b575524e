"""What can decide in a simulation: the router's own policies, and perfect session placement."""

from __future__ import annotations

from collections import Counter

from router_py import Policy

from .replay import BYTES_PER_TOKEN
from .traces import Request


class RouterPolicy:
    """A policy of the router, the same code that serves requests."""

    def __init__(self, policy: str, workers: int, seed: int, **options: object) -> None:
        self._policy = Policy(policy, seed=seed, **options)
        for _ in range(workers):
            self._policy.add_worker()

    def assign(self, request: Request, block_tokens: int, now: float) -> tuple[int, object]:
        affinity = None if request.session is None else str(request.session)
        assigned = self._policy.assign(
            request.blocks,
            block_bytes=block_tokens * BYTES_PER_TOKEN,
            prompt_bytes=request.input_length * BYTES_PER_TOKEN,
            now=now,
            affinity=affinity,
        )
        return assigned.worker, assigned.ticket

    def answered(self, ticket: int, now: float) -> None:
        self._policy.answered(ticket, now)

    def ended(self, ticket: int, now: float) -> None:
        self._policy.ended(ticket, now)

    def maintain(self) -> None:
        self._policy.maintain()


class PerfectSessions:
    """Every session on one worker, sessions dealt out evenly: what one knows only afterwards."""

    def __init__(self, workers: int) -> None:
        self._sessions: dict[int | None, int] = {}
        self._count = Counter(range(workers))

    def assign(self, request: Request, block_tokens: int, now: float) -> tuple[int, object]:
        if request.session not in self._sessions:
            worker = min(self._count, key=lambda worker: self._count[worker])
            self._sessions[request.session] = worker
            self._count[worker] += 1
        return self._sessions[request.session], None

    def answered(self, ticket: object, now: float) -> None:
        pass

    def ended(self, ticket: object, now: float) -> None:
        pass

    def maintain(self) -> None:
        pass
