"""Token embedding, and the head that turns hidden states into logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .packed_weight import can_pack, pack, packed_linear
from .slots import Slots, empty_weight


class TokenEmbedding(nn.Module):
    """Rows of a [vocab, hidden] table by token id."""

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = empty_weight(vocab_size, hidden_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids: [tokens] int64. Returns [tokens, hidden], new memory."""
        return F.embedding(input_ids, self.weight)

    def slots(self, name: str) -> Slots:
        yield f"{name}.weight", self.weight


class LMHead(nn.Module):
    """Logits over the vocabulary, by a matrix of its own or, if tied, by the token embedding's."""

    def __init__(self, embedding: TokenEmbedding, tied: bool) -> None:
        super().__init__()
        self.tied = tied
        self.weight = embedding.weight if tied else empty_weight(*embedding.weight.shape)
        self._packed: torch.Tensor | None = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [rows, hidden], normalized.

        Returns [rows, vocab] float32, computed in the model's dtype.
        """
        if self._packed is not None:
            return packed_linear(hidden, self._packed).float()
        return F.linear(hidden, self.weight).float()

    def pack(self) -> None:
        """Bring the loaded weight into the fastest layout; a tied one stays, for the embedding."""
        if can_pack(self.weight):
            self._packed = pack(self.weight)
            if not self.tied:
                self.weight = nn.Parameter(self.weight.new_empty(0), requires_grad=False)

    def slots(self, name: str) -> Slots:
        if not self.tied:
            yield f"{name}.weight", self.weight
