"""Token embedding, and the head that turns hidden states into logits.

Where ranks divide the model, each holds a block of the vocabulary, for both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..distributed.tensor_parallel import SINGLE, TensorParallel
from .packed_weight import can_pack, pack, packed_linear
from .slots import Slots, WeightSlot, empty_weight
from .stored_weight import StoredWeight


class TokenEmbedding(nn.Module):
    """Rows of a [vocab, hidden] table by token id; a rank holds [len(share), hidden] of it."""

    def __init__(
        self, vocab_size: int, hidden_size: int, parallel: TensorParallel = SINGLE
    ) -> None:
        super().__init__()
        self.parallel = parallel
        self.share = parallel.share_blocks(vocab_size)
        self.weight = empty_weight(len(self.share), hidden_size)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """input_ids: [tokens] of any integer. Returns [tokens, hidden], new memory."""
        if self.parallel.size == 1:
            return F.embedding(input_ids, self.weight)
        row = input_ids - self.share.start
        elsewhere = (row < 0) | (row >= len(self.share))
        found = F.embedding(row.masked_fill_(elsewhere, 0), self.weight)
        return self.parallel.all_reduce(found.masked_fill_(elsewhere[:, None], 0.0))

    def slots(self, name: str) -> Slots:
        yield f"{name}.weight", WeightSlot(self.weight, self.share)


class LMHead(StoredWeight):
    """Logits over the vocabulary, by a matrix of its own or, if tied, by the token embedding's."""

    def __init__(self, embedding: TokenEmbedding, tied: bool) -> None:
        super().__init__(embedding.weight if tied else empty_weight(*embedding.weight.shape))
        self.tied = tied
        self._parallel, self._share = embedding.parallel, embedding.share

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [rows, hidden], normalized. Returns [rows, vocab] in the model's dtype."""
        if self._packed is not None:
            logits = packed_linear(hidden, self._packed)
        else:
            logits = F.linear(hidden, self.weight)
        return self._parallel.all_gather(logits, self._share.total)

    def skinny(self, hidden: torch.Tensor) -> torch.Tensor:
        """`forward` for a few tokens on a GPU."""
        from ..kernels.skinny_linear import skinny_linear

        return self._parallel.all_gather(skinny_linear(hidden, self.weight), self._share.total)

    def pack(self) -> None:
        """As in StoredWeight; a tied weight stays, for the embedding, and is packed whenever that
        was loaded.
        """
        if not self.tied:
            super().pack()
        elif can_pack(self.weight):
            self._packed = pack(self.weight)

    def slots(self, name: str, weight: torch.Tensor | None = None) -> Slots:
        if not self.tied:
            target = self.weight if weight is None else weight
            yield f"{name}.weight", WeightSlot(target, self._share, layer=self)
