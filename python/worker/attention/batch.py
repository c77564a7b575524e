"""What one forward pass computes: the tokens of a step and where their keys and values live."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ForwardBatch:
    """The tokens of one step, flattened: one of each decoding request, then the prefill chunks.

    Token `i` of the step has its key and value written to slot `out_slots[i]`. Sequence `s` owns
    row `rows[s]` of `page_table`, whose first `seq_lens[s]` entries are the slots of all its
    tokens, those of this step included.

    input_ids, positions, out_slots: [tokens] int64, on the model's device
    rows: [sequences] int64, on the model's device
    page_table: [max rows, max context] int32, on the model's device
    seq_lens, query_lens: host lists, one entry a sequence; `query_lens` is 1 for a decoding one
    num_decodes: how many of the sequences, the first ones, decode
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    out_slots: torch.Tensor
    rows: torch.Tensor
    page_table: torch.Tensor
    seq_lens: list[int]
    query_lens: list[int]
    num_decodes: int
