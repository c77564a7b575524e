"""Pooling: from the hidden states of a text's tokens to one vector."""

from __future__ import annotations

import torch

from ..attention.batch import ForwardBatch
from ..models.config import Pooling


class Pooler:
    """Pools the texts that end in a step.

    Of texts that come in chunks it keeps, by row of the page table, what was found in the chunks
    before: `rows` [rows, hidden_size] float32 of it, or none where texts always come whole.
    """

    def __init__(self, pooling: Pooling, rows: int, hidden_size: int, device: torch.device) -> None:
        self._mode = pooling.mode
        kept_rows = 0 if self._mode == "last" else rows
        self._kept = torch.zeros(kept_rows, hidden_size, dtype=torch.float32, device=device)

    def wanted(self, batch: ForwardBatch, last_tokens: torch.Tensor) -> torch.Tensor | None:
        """The tokens of the step whose hidden states `pool` takes: [n]; None for all.

        last_tokens: [ended], the last token of each text that ends
        """
        if self._mode == "mean":
            return None
        return last_tokens if self._mode == "last" else batch.query_starts[:-1]

    def pool(self, hidden: torch.Tensor, batch: ForwardBatch, ended: torch.Tensor) -> torch.Tensor:
        """hidden: [n, hidden], of the `wanted` tokens
        ended: [ended], the sequences of the step whose text ends

        Returns [ended, hidden] float32.
        """
        hidden = hidden.float()
        if self._mode == "last":
            return hidden
        lengths = batch.query_starts.diff()
        begins = batch.seq_lens_device == lengths
        if self._mode == "mean":
            found = _sums(hidden, lengths)
        else:
            found = hidden.masked_fill(~begins[:, None], 0.0)
        if len(self._kept):
            rows = batch.rows.long()
            found += self._kept[rows].masked_fill_(begins[:, None], 0.0)
            self._kept[rows] = found
        found = found.index_select(0, ended)
        if self._mode == "mean":
            found /= batch.seq_lens_device.index_select(0, ended)[:, None]
        return found


def _sums(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """hidden: [tokens, hidden], of sequences of `lengths` [sequences] one behind the other.

    Returns their sums, [sequences, hidden].
    """
    sequences = torch.arange(len(lengths), device=hidden.device)
    owners = sequences.repeat_interleave(lengths, output_size=len(hidden))
    return hidden.new_zeros(len(lengths), hidden.shape[1]).index_add_(0, owners, hidden)
