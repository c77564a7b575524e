"""An order of requests in which those that share a prefix stand side by side.

Attention can read a prefix once for all of them, and finds it in the GPU's cache where it does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .request import Request
from .step import sequence_of


@dataclass(frozen=True)
class PrefixOrder:
    """Requests in the order of their cached slots.

    shared_lens: [requests] int32, how many first tokens of each lie in the very slots of the one
        before it; 0 for the first. The least of them between two requests is what the two share.
    """

    requests: list[Request]
    shared_lens: np.ndarray

    @classmethod
    def of(cls, requests: Iterable[Request]) -> PrefixOrder:
        """Of requests in any order, which all have slots; those with the same ones stay in it."""
        ordered = sorted(requests, key=slot_order)
        shared = [shared_with_previous(ordered, i) for i in range(len(ordered))]
        return cls(ordered, np.array(shared, dtype=np.int32))

    def only(self, wanted: list[bool]) -> PrefixOrder:
        """Those of the requests that are `wanted` [requests]."""
        if all(wanted):
            return self
        kept = np.flatnonzero(wanted)
        if not len(kept):
            return NOBODY
        spans = np.concatenate(([0], kept[:-1] + 1))  # from behind one that is kept to the next
        shared = np.minimum.reduceat(self.shared_lens[: kept[-1] + 1], spans)
        return PrefixOrder(list(itertools.compress(self.requests, wanted)), shared)


NOBODY = PrefixOrder([], np.empty(0, dtype=np.int32))


def slot_order(request: Request) -> tuple[int, ...]:
    """The sorting key of the order."""
    return sequence_of(request).slot_order


def shared_with_previous(ordered: list[Request], index: int) -> int:
    """One element of `PrefixOrder.shared_lens`."""
    if index == 0:
        return 0
    return sequence_of(ordered[index]).shared_length(sequence_of(ordered[index - 1]))
