"""Llama 2 and 3, SmolLM2, Mistral, Qwen2 and Qwen3: one decoder, told apart by configuration."""

from __future__ import annotations

import torch
from torch import nn

from ..attention.base import AttentionSpec, current_batch
from ..distributed.tensor_parallel import TensorParallel
from ..layers.activation import silu_and_mul
from ..layers.attention import Attention
from ..layers.embedding import LMHead, TokenEmbedding
from ..layers.linear import MergedLinear, QKVLinear, RowParallelLinear, ScoreHead
from ..layers.norm import QKNorm, RMSNorm
from ..layers.rope import RotaryEmbedding, Rotation
from ..layers.slots import Slots
from .config import DecoderConfig
from .config_hf import FAMILIES
from .model import Model
from .registry import register


class LlamaAttention(nn.Module):
    """Grouped-query attention; queries and keys are turned by rope, in Qwen3 normalized before."""

    def __init__(
        self, config: DecoderConfig, spec: AttentionSpec, parallel: TensorParallel
    ) -> None:
        super().__init__()
        heads, kv_heads, head_dim = spec.num_heads, spec.num_kv_heads, spec.head_dim
        q_share, kv_share = parallel.share_heads(config.num_heads, config.num_kv_heads)
        self.qkv_proj = QKVLinear(config.hidden_size, q_share, kv_share, head_dim, config.qkv_bias)
        self.qk_norm = (
            QKNorm(heads, kv_heads, head_dim, config.rms_norm_eps) if config.qk_norm else None
        )
        self.attention = Attention(spec, self.qk_norm)
        self.o_proj = RowParallelLinear(
            q_share.times(head_dim), config.hidden_size, config.output_bias, parallel
        )

    def attend(self, hidden: torch.Tensor, rotation: Rotation) -> torch.Tensor:
        """What `o_proj` takes: the heads side by side, [tokens, num_heads · head_dim]."""
        return self.attention(self.qkv_proj(hidden), rotation).flatten(1)

    def slots(self, name: str) -> Slots:
        yield from self.qkv_proj.slots(name)
        if self.qk_norm is not None:
            yield from self.qk_norm.slots(name)
        yield from self.o_proj.slots(f"{name}.o_proj")


class LlamaMLP(nn.Module):
    """The gated feed-forward network: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: DecoderConfig, parallel: TensorParallel) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.mlp_bias
        size = parallel.share(config.intermediate_size)
        self.gate_up_proj = MergedLinear(hidden, ("gate_proj", "up_proj"), (size, size), bias)
        self.down_proj = RowParallelLinear(size, hidden, bias, parallel)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down_proj(silu_and_mul(self.gate_up_proj(hidden)))

    def slots(self, name: str) -> Slots:
        yield from self.gate_up_proj.slots(name)
        yield from self.down_proj.slots(f"{name}.down_proj")


class LlamaLayer(nn.Module):
    """Attention and feed-forward, each behind a norm that first adds to the residual stream."""

    def __init__(
        self, config: DecoderConfig, spec: AttentionSpec, parallel: TensorParallel
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = LlamaAttention(config, spec, parallel)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = LlamaMLP(config, parallel)

    def forward(
        self,
        hidden: torch.Tensor,
        residual: torch.Tensor | None,
        rotation: Rotation,
        wanted: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden: [tokens, hidden], what is to be added to `residual`; None if it is all.

        Returns both of the next layer, for the tokens `wanted` [n] only, unless that is None.
        """
        hidden, stream = self.input_layernorm(hidden, residual)
        attended = self.self_attn.attend(hidden, rotation)
        if wanted is not None:
            attended, stream = attended.index_select(0, wanted), stream.index_select(0, wanted)
            if not len(wanted):
                return stream, stream
        hidden = self.self_attn.o_proj(attended)
        hidden, stream = self.post_attention_layernorm(hidden, stream)
        return self.mlp(hidden), stream

    def forward_few(self, stream: torch.Tensor, rotation: Rotation) -> None:
        """`forward` for a few tokens on a GPU: norms, gate and sums are parts of the products.

        stream: [tokens, hidden], what `forward` takes and returns in two parts; changed in place.
        """
        qkv = self.self_attn.qkv_proj.skinny(stream, norm=self.input_layernorm)
        attended = self.self_attn.attention(qkv, rotation).flatten(1)
        self.self_attn.o_proj.skinny_add(stream, attended)
        gated = self.mlp.gate_up_proj.skinny(stream, norm=self.post_attention_layernorm, gated=True)
        self.mlp.down_proj.skinny_add(stream, gated)

    def slots(self, name: str) -> Slots:
        yield from self.input_layernorm.slots(f"{name}.input_layernorm")
        yield from self.self_attn.slots(f"{name}.self_attn")
        yield from self.post_attention_layernorm.slots(f"{name}.post_attention_layernorm")
        yield from self.mlp.slots(f"{name}.mlp")


@register(*(f"{family}Model" for family in FAMILIES))
class LlamaModel(Model):
    """The decoder without a head: an embedding model.

    Biases, q/k norms, head sizes, windows and rope come from `config`.
    """

    def __init__(self, config: DecoderConfig, max_positions: int, parallel: TensorParallel) -> None:
        super().__init__(config, max_positions, parallel)
        heads, kv_heads = parallel.share_heads(config.num_heads, config.num_kv_heads)
        self._specs = tuple(
            AttentionSpec(
                layer_id=layer,
                num_heads=len(heads),
                num_kv_heads=len(kv_heads),
                head_dim=config.head_dim,
                scale=config.head_dim**-0.5,
                sliding_window=window,
            )
            for layer, window in enumerate(config.sliding_windows)
        )
        self.embed_tokens = TokenEmbedding(config.vocab_size, config.hidden_size, parallel)
        self.rope = RotaryEmbedding(config.rope, config.head_dim, max_positions)
        self._layers = [LlamaLayer(config, spec, parallel) for spec in self._specs]
        self.layers = nn.ModuleList(self._layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        batch = current_batch()
        hidden, residual = self.embed_tokens(input_ids), None
        if batch.given is not None:
            tokens, embeddings = batch.given
            hidden.index_copy_(0, tokens, embeddings.to(hidden.dtype))
        rotation, wanted = self.rope(positions), batch.logit_rows
        if len(hidden) <= self.few_tokens:
            for layer in self._layers:
                layer.forward_few(hidden, rotation)
            hidden = hidden if wanted is None else hidden.index_select(0, wanted)
        else:
            *layers, last = self._layers
            for layer in layers:
                hidden, residual = layer(hidden, residual, rotation)
            # The others' part in the last layer ends with their keys and values.
            hidden, residual = last(hidden, residual, rotation, wanted)
        hidden, _ = self.norm(hidden, residual)
        return hidden

    @property
    def attention_specs(self) -> tuple[AttentionSpec, ...]:
        return self._specs

    def weight_slots(self) -> Slots:
        yield from self.embed_tokens.slots("model.embed_tokens")
        for index, layer in enumerate(self._layers):
            yield from layer.slots(f"model.layers.{index}")
        yield from self.norm.slots("model.norm")

    def is_spare(self, name: str) -> bool:
        """True for a head, and for rope tables of old checkpoints."""
        return name == "lm_head.weight" or name.endswith("rotary_emb.inv_freq")


@register(*(f"{family}ForCausalLM" for family in FAMILIES))
class LlamaForCausalLM(LlamaModel):
    """The whole decoder, with the head that may be the token embedding."""

    def __init__(self, config: DecoderConfig, max_positions: int, parallel: TensorParallel) -> None:
        super().__init__(config, max_positions, parallel)
        self.lm_head = LMHead(self.embed_tokens, config.tie_word_embeddings)

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        # A library's product of several tokens reads the head as fast.
        if self.few_tokens and len(hidden) == 1:
            return self.lm_head.skinny(hidden)
        return self.lm_head(hidden)

    def weight_slots(self) -> Slots:
        yield from super().weight_slots()
        yield from self.lm_head.slots("lm_head")


@register(*(f"{family}ForSequenceClassification" for family in FAMILIES))
class LlamaForSequenceClassification(LlamaModel):
    """A classifier or reward model, whose logits every rank computes."""

    def __init__(self, config: DecoderConfig, max_positions: int, parallel: TensorParallel) -> None:
        super().__init__(config, max_positions, parallel)
        assert config.pooling is not None
        self.score = ScoreHead(config.hidden_size, len(config.pooling.labels))

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.score(hidden)

    def weight_slots(self) -> Slots:
        yield from super().weight_slots()
        yield from self.score.slots("score")
