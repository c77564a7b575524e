"""What one forward pass computes: the tokens of a step and where their keys and values live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)


class GivenEmbeddings(NamedTuple, Generic[Array]):
    """Tokens of a step that have no id: their embeddings were given.

    tokens: [n] int64, their places in the step; embeddings: [n, hidden] float32
    """

    tokens: Array
    embeddings: Array


@dataclass(frozen=True)
class ForwardBatch:
    """The tokens of one step, flattened: one of each decoding sequence, then the prefill chunks.

    Token `i` of the step has its key and value written to slot `out_slots[i]`. Sequence `s` owns
    row `rows[s]` of `page_table`, whose first `seq_lens[s]` entries are the slots of all its
    tokens, those of this step included. Under a CUDA graph the device's tensors are padded: a
    padding sequence has one token, which lies in the spare slot behind the pool.

    On the model's device (int64 on a CPU, int32 on a GPU):
    input_ids, positions, out_slots: [tokens]
    rows, seq_lens_device: [sequences]
    query_starts: [sequences + 1], the first token of each sequence in the step
    page_table: [max rows, max context] int32
    token_type_ids: [tokens], for encoders that tell a pair's texts apart; None: all are 0
    plan: the words that the attention backend's `plan_host` returned, int32
    logit_rows: [n], the tokens whose hidden states are wanted, ascending; None: all
    given: embeddings in place of those of some tokens, whose ids say nothing

    On the host:
    seq_lens, query_lens: [sequences] int32; `query_lens` is 1 for a decoding one
    num_decodes: how many of the sequences, the first ones, decode
    shared_lens: [sequences] int32, how many of a sequence's first tokens, of those before this
        step's, lie in the very slots of the sequence before it; None: none that anyone knows of
    shares_prefixes: whether the plan makes use of it
    captured: whether a CUDA graph reads the tensors; then the host's arrays say nothing
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    out_slots: torch.Tensor
    rows: torch.Tensor
    seq_lens_device: torch.Tensor
    query_starts: torch.Tensor
    page_table: torch.Tensor
    seq_lens: np.ndarray
    query_lens: np.ndarray
    num_decodes: int
    plan: torch.Tensor | None = None
    logit_rows: torch.Tensor | None = None
    shared_lens: np.ndarray | None = None
    shares_prefixes: bool = False
    token_type_ids: torch.Tensor | None = None
    given: GivenEmbeddings[torch.Tensor] | None = None
    captured: bool = False
