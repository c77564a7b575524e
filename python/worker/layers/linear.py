"""Linear layers: plain, several projections of one input merged, and divided among ranks.

Column-parallel layers hold some of the outputs, row-parallel ones some of the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..distributed.share import Share
from ..distributed.tensor_parallel import SINGLE, TensorParallel
from .norm import RMSNorm
from .packed_weight import packed_linear
from .quantization import fp8_linear
from .slots import Slots, WeightSlot, empty_weight
from .stored_weight import StoredWeight


class Linear(StoredWeight):
    """y = x Wᵀ + b. x: [tokens, inputs]; weight: [outputs, inputs]; returns [tokens, outputs]."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__(empty_weight(outputs, inputs))
        self.bias = empty_weight(outputs) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.weight_scales is not None:
            return fp8_linear(x, self.weight, self.weight_scales, self.bias)
        if self._packed is not None:
            return packed_linear(x, self._packed, self.bias)
        return F.linear(x, self.weight, self.bias)

    def skinny(
        self,
        x: torch.Tensor,
        *,
        norm: RMSNorm | None = None,
        gated: bool = False,
        add_to: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The layer for a few tokens on a GPU, in one launch with what stands around it.

        With `norm`, the layer of norm(x), which for more than one token is a launch of its own;
        `gated`: silu(y's first half) · second half; `add_to`, changed in place and returned, is
        what the result is added to. FP8 weights are multiplied with x as it is.
        """
        from ..kernels.skinny_linear import skinny_linear

        if norm is not None and len(x) > 1:  # tensor cores take their operands as they are
            x, norm = norm(x)[0], None
        return skinny_linear(
            x,
            self.weight,
            norm_weight=None if norm is None else norm.weight,
            eps=0.0 if norm is None else norm.eps,
            scales=self.weight_scales,
            bias=self.bias,
            gated=gated,
            add_to=add_to,
        )

    def quantize(self) -> None:
        super().quantize()
        if self.weight_scales is not None:
            # Graphs of few tokens can be captured only when their kernels are compiled.
            one_token = self.fresh_weight()[:1].zero_()
            fp8_linear(one_token, self.weight, self.weight_scales, self.bias)

    def slots(self, name: str, weight: torch.Tensor | None = None) -> Slots:
        """`name`.weight and, with a bias, `name`.bias; else as in StoredWeight."""
        target = self.weight if weight is None else weight
        yield f"{name}.weight", WeightSlot(target, layer=self)
        if self.bias is not None:
            yield f"{name}.bias", WeightSlot(self.bias, layer=self)


class ScoreHead(Linear):
    """The logits of a classifier: [rows, hidden] to [rows, labels]."""

    def quantize(self) -> None:
        """A head keeps its dtype."""


class RowParallelLinear(Linear):
    """y = x Wᵀ + b, where each rank has some columns of x and of W: the products are summed.

    x: [tokens, len(inputs)]; weight: [outputs, len(inputs)]; returns [tokens, outputs].
    """

    def __init__(
        self, inputs: Share, outputs: int, bias: bool = False, parallel: TensorParallel = SINGLE
    ) -> None:
        adds_bias = bias and parallel.rank == 0  # once, before the sum
        super().__init__(len(inputs), outputs, adds_bias)
        self._inputs = inputs
        self._biases = Share(0, outputs if adds_bias else 0, outputs) if bias else None
        self._parallel = parallel

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._parallel.all_reduce(super().forward(x))

    def skinny_add(self, stream: torch.Tensor, x: torch.Tensor) -> None:
        """stream += forward(x), for a few tokens on a GPU. stream: [tokens, outputs]."""
        if self._parallel.size == 1:
            self.skinny(x, add_to=stream)
        else:
            stream.add_(self._parallel.all_reduce(self.skinny(x)))

    def slots(self, name: str, weight: torch.Tensor | None = None) -> Slots:
        target = self.weight if weight is None else weight
        yield f"{name}.weight", WeightSlot(target, self._inputs, dim=1, layer=self)
        if self._biases is not None:
            bias = target.new_empty(0) if self.bias is None else self.bias
            yield f"{name}.bias", WeightSlot(bias, self._biases, layer=self)


class MergedLinear(Linear):
    """Projections of one input, stacked: outputs lie side by side in [tokens, sum of `shares`].

    `names` are what the checkpoint calls the projections; `shares` say, in the same order, which of
    each one's outputs this rank computes.
    """

    def __init__(
        self, inputs: int, names: Sequence[str], shares: Sequence[Share], bias: bool = False
    ) -> None:
        super().__init__(inputs, sum(map(len, shares)), bias)
        self.names, self.shares = tuple(names), tuple(shares)

    def slots(self, name: str, weight: torch.Tensor | None = None) -> Slots:
        """Each projection's tensors go to its rows; else as in StoredWeight."""
        yield from self._parts(name, "weight", self.weight if weight is None else weight)
        if self.bias is not None:
            yield from self._parts(name, "bias", self.bias)

    def _parts(self, name: str, kind: str, stacked: torch.Tensor) -> Slots:
        rows = stacked.split([len(share) for share in self.shares])
        for part, target, share in zip(self.names, rows, self.shares, strict=True):
            yield f"{name}.{part}.{kind}", WeightSlot(target, share, layer=self)


class QKVLinear(MergedLinear):
    """Queries, then keys, then values: [tokens, (len(heads) + 2 len(kv_heads)) · head_dim]."""

    def __init__(
        self, inputs: int, heads: Share, kv_heads: Share, head_dim: int, bias: bool = False
    ) -> None:
        shares = (heads.times(head_dim), kv_heads.times(head_dim), kv_heads.times(head_dim))
        super().__init__(inputs, ("q_proj", "k_proj", "v_proj"), shares, bias)
