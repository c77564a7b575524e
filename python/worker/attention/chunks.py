"""The prompt chunks of a step: which kernel computes which, and those kernels' work lists."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ..kernels.extend_attention import plan_extend
from . import fresh_prefill
from .batch import ForwardBatch
from .prefix_sharing import PrefixSharing


@dataclass(frozen=True)
class SharedSpans:
    """What the prompt chunks of a step share, on the device but for the first two.

    lengths, partials: [sequences] int32, see `SharedPrefixes`; 0 for those that decode
    plan, first_partials: the prefix kernel's arguments
    """

    lengths: np.ndarray
    partials: np.ndarray
    plan: torch.Tensor
    first_partials: torch.Tensor

    @classmethod
    def of(cls, batch: ForwardBatch, sharing: PrefixSharing) -> SharedSpans | None:
        """None if reading what is shared once would not pay."""
        decodes = batch.num_decodes
        if batch.shared_lens is None:
            return None
        shared = sharing.of_chunks(batch.shared_lens[decodes:], batch.query_lens[decodes:])
        if shared is None:
            return None
        lengths, partials = np.zeros((2, len(batch.seq_lens)), dtype=np.int32)
        lengths[decodes:], partials[decodes:] = shared.lengths, shared.partials
        items = shared.items + np.array([decodes, 0, 0, decodes, 0, 0], dtype=np.int32)
        each = np.repeat(partials, batch.query_lens)
        first_partials = np.cumsum(each, dtype=np.int32) - each
        device = batch.page_table.device
        return cls(
            lengths, partials, _upload(items.reshape(-1), device), _upload(first_partials, device)
        )


@dataclass(frozen=True)
class Chunks:
    """What the Triton backend computes of a step, but for the decodes.

    every: [chunks] their sequences; dense: those for a dense kernel, if it is usable;
    others: [chunks] the sequences of the rest
    shared: what the prefix kernel computes for them
    tile_plans: the extend kernel's work lists on the device, by sequences and tokens of a tile
    """

    every: np.ndarray
    dense: list[fresh_prefill.Group]
    others: np.ndarray
    shared: SharedSpans | None
    tile_plans: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: ForwardBatch, sharing: PrefixSharing) -> Chunks:
        every = np.arange(batch.num_decodes, len(batch.seq_lens))
        tokens = batch.query_lens[every]
        starts = batch.num_decodes + np.cumsum(tokens) - tokens
        dense, grouped = fresh_prefill.group_chunks(
            starts, tokens, is_fresh=batch.seq_lens[every] == tokens
        )
        return cls(every, dense, every[~grouped], SharedSpans.of(batch, sharing))

    def tile_plan(
        self, batch: ForwardBatch, sequences: np.ndarray, tile_tokens: int
    ) -> torch.Tensor:
        """The extend kernel's work list for `sequences`: `every`, or the `others`."""
        key = (len(sequences), tile_tokens)
        if key not in self.tile_plans:
            shared = self.shared
            words = plan_extend(
                batch.seq_lens,
                batch.query_lens,
                sequences,
                tile_tokens,
                None if shared is None else shared.lengths,
                None if shared is None else shared.partials,
            )
            self.tile_plans[key] = _upload(words, batch.page_table.device)
        return self.tile_plans[key]


def _upload(words: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy int32 words to the device without waiting for it."""
    host = torch.from_numpy(words)
    return host if device.type == "cpu" else host.pin_memory().to(device, non_blocking=True)
