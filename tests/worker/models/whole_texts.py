"""Hidden states of texts that a model computes as a whole, packed one behind the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from worker.attention.base import forward_context
from worker.attention.bidirectional import Bidirectional
from worker.models.model import Model

from .dense_attention import NO_BATCH


def hidden_states(
    model: Model,
    texts: list[list[int]],
    *,
    token_type_ids: list[list[int]] | None = None,
    logit_rows: list[int] | None = None,
) -> torch.Tensor:
    """Of all tokens of `texts`, or of those at the places `logit_rows` of them: [n, hidden]."""
    backend = Bidirectional()
    backend.prepare(model.attention_specs, torch.float32)
    lengths = np.array([len(text) for text in texts], dtype=np.int32)
    batch = replace(
        NO_BATCH,
        seq_lens=lengths,
        query_lens=lengths,
        token_type_ids=None if token_type_ids is None else _flat(token_type_ids),
        logit_rows=None if logit_rows is None else torch.tensor(logit_rows),
    )
    backend.plan(batch)
    positions = torch.cat([torch.arange(len(text)) for text in texts])
    with torch.inference_mode(), forward_context(backend, batch):
        return model(_flat(texts), positions)


def _flat(lists: list[list[int]]) -> torch.Tensor:
    return torch.tensor([number for numbers in lists for number in numbers])
