"""What every model offers to the runner and to the weight loaders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from ..attention.base import AttentionSpec
from ..distributed.tensor_parallel import TensorParallel
from ..layers.embedding import LMHead
from ..layers.linear import Linear
from ..layers.slots import Slots
from .config import ModelConfig


class WeightLoadError(ValueError):
    """The weights cannot be loaded: one line for the user, with the tensor or file."""


class Model(nn.Module, ABC):
    """A transformer over a flat batch of tokens.

    `forward` runs inside `attention.base.forward_context`; the backend knows which token is whose.
    `max_positions` is the longest sequence that it is built for, in tokens; `parallel` are the
    ranks that compute it together, each with its share of heads, features and vocabulary.
    """

    # Of the names of the transformer's own tensors; checkpoints without a head may leave it out.
    prefix: ClassVar[str] = "model"

    def __init__(self, config: ModelConfig, max_positions: int, parallel: TensorParallel) -> None:
        super().__init__()
        self.config = config
        self.max_positions = max_positions
        self.parallel = parallel
        self.few_tokens = 0  # steps of up to so many are computed by fewer, larger kernels

    @abstractmethod
    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """The hidden states after the final norm of the tokens in the batch's `logit_rows`, or of
        all: [n, hidden].

        input_ids, positions: [tokens], int64 on a CPU, int32 on a GPU
        """

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden: [rows, hidden], as `forward` returned them, or pooled. Returns [rows, vocab] in
        its dtype, or of a classifier [rows, labels]; without a head, `hidden` itself.
        """
        return hidden

    @property
    @abstractmethod
    def attention_specs(self) -> tuple[AttentionSpec, ...]:
        """The shape of every layer's attention on this rank, in order."""

    @abstractmethod
    def weight_slots(self) -> Slots:
        """Every tensor that a checkpoint must hold: its Hugging Face name, and where it goes."""

    def is_spare(self, name: str) -> bool:
        """True for a checkpoint's tensor that the model does without: it is passed over."""
        return False

    def weights_bytes(self) -> int:
        """Memory that the weights take on this rank, in bytes."""
        return sum(weight.nbytes for weight in self.parameters())

    def quantize_weights(self) -> None:
        """Turn the loaded weights of all linear layers into FP8; embedding and head stay."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.quantize()

    def pack_weights(self) -> None:
        """Bring the loaded weights into the layout that the device computes with fastest.

        After weights were loaded anew, it does so for what is not packed yet.
        """
        for module in self.modules():
            if isinstance(module, Linear | LMHead):
                module.pack()
