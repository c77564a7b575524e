"""Requests and orders in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..messages import ControlAnswer, ControlOrder, EmbedRequest, GenerateRequest, IdleOrder
from .refusal import queue_is_full, refused
from .request import Answer
from .scheduler import Scheduler


class Gate:
    """Stands before the scheduler: an order that needs an idle engine waits until the requests
    before it have ended, and the requests behind it wait for the order.

    Other orders are carried out at once. `answer` is told how they went.
    """

    def __init__(self, scheduler: Scheduler, answer: Callable[[ControlAnswer], None]) -> None:
        self._scheduler = scheduler
        self._answer = answer
        # An order comes first.
        self._waiting: deque[GenerateRequest | EmbedRequest | IdleOrder] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits here or in the scheduler."""
        return not self._waiting and self._scheduler.is_idle

    @property
    def waiting_requests(self) -> int:
        """How many requests wait for an order."""
        return sum(not isinstance(each, IdleOrder) for each in self._waiting)

    def add(self, request: GenerateRequest | EmbedRequest) -> list[Answer]:
        """See `Scheduler.add`. Those that wait for an order are part of the queue, and bounded."""
        if not self._waiting:
            return self._scheduler.add(request)
        limit = self._scheduler.options.max_queued_requests
        if limit is not None and len(self._scheduler.waiting) + self.waiting_requests >= limit:
            return [refused(request, queue_is_full(limit), status=503)]
        self._waiting.append(request)
        return []

    def abort(self, rid: str) -> None:
        """See `Scheduler.abort`."""
        for each in self._waiting:
            if each.rid == rid:
                self._waiting.remove(each)
                return
        self._scheduler.abort(rid)

    def order(self, order: ControlOrder) -> None:
        """Carry it out, or have it wait for `open`."""
        if isinstance(order, IdleOrder):
            self._waiting.append(order)
        else:
            self._answer(self._scheduler.control(order))

    def open(self) -> list[Answer]:
        """Let through whatever need not wait any more; to be called before each step."""
        answers: list[Answer] = []
        while self._waiting:
            first = self._waiting[0]
            if not isinstance(first, IdleOrder):
                answers += self._scheduler.add(first)
            elif self._scheduler.is_idle:
                self._answer(self._scheduler.control(first))
            else:
                break
            self._waiting.popleft()
        return answers
