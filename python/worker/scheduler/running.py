"""The running requests, kept in the order of their slots as they come and go."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

import numpy as np

from .prefix_order import NOBODY, PrefixOrder, shared_with_previous, slot_order
from .request import Request

# When so large a share of the requests is new, sorting all takes less time than filing each.
_MANY = 0.1


class RunningRequests:
    """A set of requests, and their `PrefixOrder`, which is brought up to date when it is asked for.

    Until then those that came are only noted, as the slots of a prompt are final once all of it is
    published, and those that went are left standing, so that many go at the price of one.
    """

    def __init__(self) -> None:
        self._order = NOBODY
        self._came: dict[Request, None] = {}
        self._went: set[Request] = set()

    def __len__(self) -> int:
        return len(self._order.requests) - len(self._went) + len(self._came)

    def __iter__(self) -> Iterator[Request]:
        yield from (request for request in self._order.requests if request not in self._went)
        yield from self._came

    def add(self, request: Request) -> None:
        """`request` runs from now on; its prompt is published before the order is asked for."""
        self._came[request] = None

    def remove(self, request: Request) -> None:
        """`request`, which is here, runs no more."""
        if request in self._came:
            del self._came[request]
        else:
            self._went.add(request)

    def in_prefix_order(self) -> PrefixOrder:
        """All of them. The same object for as long as nobody comes or goes."""
        if self._went:
            self._order = self._order.only([r not in self._went for r in self._order.requests])
            self._went.clear()
        if self._came:
            if len(self._came) > _MANY * len(self._order.requests):
                self._order = PrefixOrder.of([*self._order.requests, *self._came])
            else:
                self._order = self._with_those_who_came()
            self._came.clear()
        return self._order

    def _with_those_who_came(self) -> PrefixOrder:
        requests, shared = list(self._order.requests), self._order.shared_lens.tolist()
        for request in self._came:
            place = bisect.bisect_right(requests, slot_order(request), key=slot_order)
            requests.insert(place, request)
            shared.insert(place, shared_with_previous(requests, place))
            if place + 1 < len(requests):
                shared[place + 1] = shared_with_previous(requests, place + 1)
        return PrefixOrder(requests, np.array(shared, dtype=np.int32))
