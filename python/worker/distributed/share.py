"""Who holds what of a dimension that tensor-parallel ranks divide. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """One rank's part [start, stop) of `total`."""

    start: int
    stop: int
    total: int

    @classmethod
    def whole(cls, total: int) -> Share:
        return cls(0, total, total)

    def __len__(self) -> int:
        return self.stop - self.start

    def times(self, size: int) -> Share:
        """The same part, counted in pieces: each of the `total` things has `size` of them."""
        return Share(self.start * size, self.stop * size, self.total * size)


def balanced_share(total: int, rank: int, ranks: int) -> Share:
    """Parts that differ by one at most."""
    return Share(total * rank // ranks, total * (rank + 1) // ranks, total)


def block_share(total: int, rank: int, ranks: int) -> Share:
    """Equal parts but for the end, where `total` may stop short: what an all-gather wants."""
    block = -(-total // ranks)
    return Share(min(rank * block, total), min((rank + 1) * block, total), total)


def head_shares(num_heads: int, num_kv_heads: int, rank: int, ranks: int) -> tuple[Share, Share]:
    """The query heads of a rank, and the key/value heads that they attend to.

    Each rank gets whole key/value heads with all of their queries; where there are more ranks than
    key/value heads, several ranks hold the same one and divide its queries. Raises ValueError, one
    clause for the user, where that leaves a rank without work or with queries of two such groups.
    """
    group = num_heads // num_kv_heads
    if ranks <= num_kv_heads:
        kv_share = balanced_share(num_kv_heads, rank, ranks)
        return kv_share.times(group), kv_share
    sharers, rest = divmod(ranks, num_kv_heads)
    if rest or sharers > group:
        raise ValueError(
            f"{num_heads} attention heads with {num_kv_heads} key/value heads cannot be divided "
            f"among {ranks} ranks"
        )
    kv_head, place = divmod(rank, sharers)
    part = balanced_share(group, place, sharers)
    first = kv_head * group
    q_share = Share(first + part.start, first + part.stop, num_heads)
    return q_share, Share(kv_head, kv_head + 1, num_kv_heads)
