"""Which spans of keys the sequences of a step share, and which of them it pays to read once.

Sequences that share a prefix stand side by side, so that one array says everything: how many of its
first tokens each shares with the one before (a longest-common-prefix array). Its intervals are the
nodes of the radix tree that several of the sequences have in common.
(LCP intervals: Abouelhoda et al., 2004, https://doi.org/10.1016/S1570-8667(03)00065-0)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..kernels.prefix_attention import WORDS_PER_SPAN

_BLOCK = 64  # keys, in which spans are cut, and below which none is worth a look
_SURPLUS = -1
# Chunks wait for tensor cores where decodes wait for memory: the keys whose reading takes as long
# as a partial result are more (30 instead of 8 for the 8B model on an H200).
_PARTIAL_COST_OF_CHUNKS = 4


@dataclass(frozen=True)
class SharingLimits:
    """What plans keep to, for one model on one chip.

    tile_tokens: whose queries fit the prefix kernel's tile
    partial_keys: how many keys and values take as many bytes as one partial result of a token,
        which is written and read
    launch_keys: how many take as long to read as another launch does
    programs: items that are computed at once
    partials: results for which the workspace has room
    """

    tile_tokens: int
    partial_keys: float
    launch_keys: float
    programs: int
    partials: int

    def max_items(self, sequences: int) -> int:
        """How many items a plan for so many decoding sequences has at most."""
        return self.max_tiles(sequences) + self.max_cuts if sequences > 1 else 0

    def max_tiles(self, sequences: int) -> int:
        """How many tiles of queries its spans have at most, all together."""
        return min(sequences - 1, sequences // 2 + self.programs)

    @property
    def max_cuts(self) -> int:
        """How many more items may come from cutting spans, so that they fill the chip."""
        return 2 * self.programs


@dataclass(frozen=True)
class SharedPrefixes:
    """What the prefix kernel computes of a step.

    items: [items, WORDS_PER_SPAN] int32, see `prefix_attention`
    lengths: [sequences] int32, how many of a sequence's first keys it computes
    partials: [sequences] int32, in how many partial results of each of the sequence's tokens
    """

    items: np.ndarray
    lengths: np.ndarray
    partials: np.ndarray

    def words(self, max_items: int) -> np.ndarray:
        """The items behind each other, and surplus ones up to `max_items`."""
        words = np.full((max_items, WORDS_PER_SPAN), _SURPLUS, dtype=np.int32)
        words[: len(self.items)] = self.items
        return words.reshape(-1)


class PrefixSharing:
    """Plans steps; the plan of a step is kept for the next, whose sequences are mostly the same."""

    def __init__(self, limits: SharingLimits) -> None:
        self._limits = limits
        self._planned_for = np.empty(0, dtype=np.int32)
        self._plan: SharedPrefixes | None = None

    def of_decodes(self, shared_lens: np.ndarray) -> SharedPrefixes | None:
        """The plan for decoding sequences, [sequences] int32 as in `ForwardBatch`; None if reading
        what they share once would not make up for another launch.
        """
        if not np.array_equal(shared_lens, self._planned_for):
            ones = np.ones_like(shared_lens)
            self._plan = share_prefixes(
                shared_lens, ones, self._limits, self._limits.max_tiles(len(shared_lens))
            )
            self._planned_for = shared_lens.copy()
        return self._plan

    def of_chunks(self, shared_lens: np.ndarray, tokens: np.ndarray) -> SharedPrefixes | None:
        """The plan for prompt chunks of `tokens` [sequences] int32, likewise."""
        partial_keys = _PARTIAL_COST_OF_CHUNKS * self._limits.partial_keys
        limits = replace(self._limits, partial_keys=partial_keys)
        return share_prefixes(shared_lens, tokens, limits, int(tokens.sum()))


def share_prefixes(
    shared_lens: np.ndarray, tokens: np.ndarray, limits: SharingLimits, max_tiles: int
) -> SharedPrefixes | None:
    """Choose what is read once, and cut it into items; None if nothing is worth it.

    shared_lens, tokens: [sequences] int32: as in `ForwardBatch`; of each sequence, in this step
    max_tiles: of queries, for all spans together
    """
    spans = _shared_spans(shared_lens)
    if not spans:
        return None
    starts = np.append(0, np.cumsum(tokens)).tolist()
    tiles_alone = np.append(0, np.cumsum(-(-tokens // limits.tile_tokens))).tolist()
    kept = _worthwhile(spans, starts, tiles_alone, limits)
    if (
        sum(span.tiles for span in kept) > max_tiles
        or sum(span.tokens for span in kept) > limits.partials
    ):
        kept = _worthwhile(_best(kept, limits, max_tiles), starts, tiles_alone, limits)
    if not kept or sum(span.saved for span in kept) < limits.launch_keys:
        return None
    return _cut(kept, len(shared_lens), limits)


class _Node(NamedTuple):
    """A node of the radix tree: sequences [first, after) share their first `end` keys."""

    first: int
    after: int
    end: int


class _Span(NamedTuple):
    """Keys [begin, end) that the sequences of `node` share, to be read once.

    parent: index of the span before it, -1 if there is none
    start, tokens, tiles: the sequences' tokens in the step, in how many tiles they fit
    saved: keys that need not be read, less those that take as long as the partial results
    """

    node: _Node
    begin: int
    parent: int
    start: int
    tokens: int
    tiles: int
    saved: float


def _shared_spans(shared_lens: np.ndarray) -> list[_Node]:
    """The nodes that several sequences share, each after those that it is part of."""
    depths = np.where(shared_lens < _BLOCK, 0, shared_lens)
    changes = np.flatnonzero(depths[1:] != depths[:-1]) + 1
    nodes: list[_Node] = []
    open_nodes: list[tuple[int, int]] = []  # (end, first), from the root on
    ends = [*changes.tolist(), len(depths)]
    for sequence, depth in zip(ends, [*depths[changes].tolist(), 0], strict=True):
        first = sequence - 1
        while open_nodes and open_nodes[-1][0] > depth:
            end, first = open_nodes.pop()
            nodes.append(_Node(first, sequence, end))
        if depth > (open_nodes[-1][0] if open_nodes else 0):
            open_nodes.append((depth, first))
    return sorted(nodes, key=lambda node: (node.first, node.end))


def _worthwhile(
    nodes: list[_Node], starts: list[int], tiles_alone: list[int], limits: SharingLimits
) -> list[_Span]:
    """The spans that save something; a node that does not is left to the nodes below it, or to the
    sequences themselves.

    starts, tiles_alone: [sequences + 1]: tokens, and tiles of single sequences, before each
    """
    kept: list[_Span] = []
    path: list[int] = []  # indices in `kept`
    for node in nodes:
        while path and kept[path[-1]].node.after <= node.first:
            path.pop()
        parent = path[-1] if path else -1
        begin = kept[parent].node.end if path else 0
        tokens = starts[node.after] - starts[node.first]
        tiles = -(-tokens // limits.tile_tokens)
        reads = tiles_alone[node.after] - tiles_alone[node.first] - tiles
        saved = reads * (node.end - begin) - tokens * limits.partial_keys - tiles * _BLOCK
        if saved > 0:
            path.append(len(kept))
            kept.append(_Span(node, begin, parent, starts[node.first], tokens, tiles, saved))
    return kept


def _best(kept: list[_Span], limits: SharingLimits, max_tiles: int) -> list[_Node]:
    """The nodes that save most, of those for which there still is room."""
    partials = limits.partials
    chosen: list[int] = []
    for index in sorted(range(len(kept)), key=lambda index: -kept[index].saved):
        span = kept[index]
        if span.tiles <= max_tiles and span.tokens <= partials:
            max_tiles, partials = max_tiles - span.tiles, partials - span.tokens
            chosen.append(index)
    return [kept[index].node for index in sorted(chosen)]


def _cut(kept: list[_Span], sequences: int, limits: SharingLimits) -> SharedPrefixes:
    """Cut spans into items of about equal length, the longest first.

    Shorter items leave less of the chip idle at the end, but more partial results; the length where
    both take the least time grows with the square root of what there is to read.
    """
    nodes = np.array([span.node for span in kept])
    columns = [(span.begin, span.start, span.tokens, span.tiles) for span in kept]
    begin, start, tokens, tiles = np.array(columns).T
    blocks = -(-(nodes[:, 2] - begin) // _BLOCK)
    read_blocks = int(tokens @ blocks)
    # Cutting may add so many partial results.
    more_partials = min(limits.partials - int(tokens.sum()), limits.partials // 2)
    item_blocks = max(
        2.0,
        (4 * read_blocks * limits.partial_keys / (_BLOCK * limits.programs)) ** 0.5,
        int(tiles @ blocks) / limits.max_cuts,
        read_blocks / more_partials if more_partials else float("inf"),
    )
    parts = np.maximum(1, np.rint(blocks / item_blocks).astype(np.int64))
    ordinals: list[int] = []
    for span in kept:
        before = span.parent
        ordinals.append(ordinals[before] + int(parts[before]) if before >= 0 else 0)

    # Tiles of one part of a span stand side by side: they meet in the L2 cache.
    order = np.argsort(-(blocks // parts), kind="stable")
    span = np.repeat(order, (parts * tiles)[order])
    ends = np.cumsum((parts * tiles)[order])
    index = np.arange(len(span)) - np.repeat(ends - (parts * tiles)[order], (parts * tiles)[order])
    part, tile = index // tiles[span], index % tiles[span]
    items = np.empty((len(span), WORDS_PER_SPAN), dtype=np.int32)
    items[:, 0] = nodes[span, 0]
    items[:, 1] = begin[span] + blocks[span] * part // parts[span] * _BLOCK
    items[:, 2] = np.minimum(
        begin[span] + blocks[span] * (part + 1) // parts[span] * _BLOCK, nodes[span, 2]
    )
    items[:, 3] = start[span] + tile * limits.tile_tokens
    items[:, 4] = np.minimum(limits.tile_tokens, tokens[span] - tile * limits.tile_tokens)
    items[:, 5] = np.array(ordinals)[span] + part

    # Spans of a sequence adjoin: each adds to the keys and results of all within its node.
    lengths, partials = np.zeros((2, sequences + 1), dtype=np.int32)
    for total, each in ((lengths, nodes[:, 2] - begin), (partials, parts)):
        np.add.at(total, nodes[:, 0], each)
        np.subtract.at(total, nodes[:, 1], each)
    lengths, partials = (np.cumsum(total[:-1], dtype=np.int32) for total in (lengths, partials))
    return SharedPrefixes(items, lengths, partials)
