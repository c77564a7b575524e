"""The `Policy` class: a routing policy of the router by itself, under the caller's clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _core


class Assigned(NamedTuple):
    """Where a request went."""

    worker: int
    ticket: int
    """Names the request in `answered` and `ended`."""
    reason: str
    """Why, in a word: see the policy's file in router/src/policy."""
    held_bytes: int
    """Leading bytes of the prompt that the policy believes in the worker's cache."""


class Policy:
    """What the router would decide, without a router: the same code, for simulators and tests.

    `name` and `options` are those of `launch_router --policy` and its routing options. Workers
    exist only as ids. Times are seconds of a clock that the caller keeps; it never goes back::

        policy = Policy("expected_cost")
        workers = [policy.add_worker() for _ in range(4)]
        assigned = policy.assign(blocks=[1, 2, 3], block_bytes=2048, prompt_bytes=6000, now=0.0)
        policy.answered(assigned.ticket, now=0.2)  # the first byte of the answer
        policy.ended(assigned.ticket, now=1.5)

    Random choices repeat for a `seed`, as long as one thread works with one Policy at a time.
    An object belongs to the thread that made it. Raises ValueError for a bad option.
    """

    def __init__(self, name: str, *, seed: int = 0, **options: Any) -> None:
        self._core = _core.Policy(json.dumps({"policy": name, **options}), seed)

    def add_worker(self) -> int:
        """Add a worker that can be chosen; returns its id: 0, 1, and so on."""
        return self._core.add_worker()

    def set_available(self, worker: int, available: bool) -> None:
        """From now on the worker may, or may not, be chosen. KeyError if there is none such."""
        self._core.set_available(worker, available)

    def forget(self, worker: int) -> None:
        """The worker started anew: its cache is empty, and its speed is unknown."""
        self._core.forget(worker)

    def assign(
        self,
        blocks: Sequence[int],
        *,
        block_bytes: int,
        prompt_bytes: int,
        now: float,
        affinity: str | None = None,
        stream: bool = True,
    ) -> Assigned:
        """Choose a worker for a request, and count the request there.

        The prompt is the first `prompt_bytes` bytes of a text in blocks of `block_bytes`, one for
        each id in `blocks` (not negative); equal ids are equal text. `affinity` stands for the
        session header. Raises RuntimeError when no worker is available.
        """
        return Assigned(
            *self._core.assign(list(blocks), block_bytes, prompt_bytes, now, affinity, stream)
        )

    def answered(self, ticket: int, now: float) -> None:
        """The first byte of the answer came. KeyError for a request that is not running."""
        self._core.answered(ticket, now)

    def ended(self, ticket: int, now: float) -> None:
        """The answer ended, or never came. KeyError for a request that is not running."""
        self._core.ended(ticket, now)

    def maintain(self) -> None:
        """What the router does every `eviction_interval` seconds."""
        self._core.maintain()

    @property
    def loads(self) -> list[int]:
        """Requests between `assign` and `ended`, by worker."""
        return self._core.loads
