"""BERT, RoBERTa and XLM-RoBERTa: encoders, in which each token sees the whole text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from ..attention.base import AttentionSpec, current_backend, current_batch
from ..distributed.share import Share
from ..distributed.tensor_parallel import TensorParallel
from ..layers.embedding import TokenEmbedding
from ..layers.linear import Linear, MergedLinear, ScoreHead
from ..layers.norm import LayerNorm
from ..layers.slots import Slots
from .config import EncoderConfig
from .model import Model
from .registry import register

_tanh_gelu = partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": F.relu,
}


class BertEmbeddings(nn.Module):
    """The sum of a token's embedding, its position's and its type's, normalized."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size, self._offset = config.hidden_size, config.position_offset
        positions = config.position_offset + config.max_position_embeddings
        self.word_embeddings = TokenEmbedding(config.vocab_size, size)
        self.position_embeddings = TokenEmbedding(positions, size)
        self.token_type_embeddings = TokenEmbedding(config.type_vocab_size, size)
        self.layer_norm = LayerNorm(size, config.layer_norm_eps)

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, types: torch.Tensor | None
    ) -> torch.Tensor:
        """All [tokens]; where `types` is None, all are 0. Returns [tokens, hidden]."""
        hidden = self.word_embeddings(input_ids)
        hidden += self.position_embeddings(positions + self._offset)
        if types is None:
            hidden += self.token_type_embeddings.weight[0]
        else:
            hidden += self.token_type_embeddings(types)
        return self.layer_norm(hidden)

    def slots(self, name: str) -> Slots:
        yield from self.word_embeddings.slots(f"{name}.word_embeddings")
        yield from self.position_embeddings.slots(f"{name}.position_embeddings")
        yield from self.token_type_embeddings.slots(f"{name}.token_type_embeddings")
        yield from self.layer_norm.slots(f"{name}.LayerNorm")


class BertLayer(nn.Module):
    """Attention and feed-forward, each followed by a norm of its sum with what went in."""

    def __init__(self, config: EncoderConfig, spec: AttentionSpec) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        every = Share(0, size, size)
        self.spec = spec
        self.qkv = MergedLinear(size, ("query", "key", "value"), (every,) * 3, bias=True)
        self.attention_output = Linear(size, size, bias=True)
        self.attention_norm = LayerNorm(size, config.layer_norm_eps)
        self.intermediate = Linear(size, inner, bias=True)
        self.activation = ACTIVATIONS[config.activation]
        self.output = Linear(inner, size, bias=True)
        self.output_norm = LayerNorm(size, config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor, wanted: torch.Tensor | None = None) -> torch.Tensor:
        """hidden: [tokens, hidden]. Returns that of the next layer, for the tokens `wanted` [n]
        only, unless that is None.
        """
        spec = self.spec
        qkv = self.qkv(hidden).view(len(hidden), 3, spec.num_heads, spec.head_dim)
        q, k, v = qkv.unbind(1)
        attended = current_backend().attend(q, k, v, spec).flatten(1)
        if wanted is not None:
            attended, hidden = attended.index_select(0, wanted), hidden.index_select(0, wanted)
        hidden = self.attention_norm(self.attention_output(attended).add_(hidden))
        inner = self.activation(self.intermediate(hidden))
        return self.output_norm(self.output(inner).add_(hidden))

    def slots(self, name: str) -> Slots:
        yield from self.qkv.slots(f"{name}.attention.self")
        yield from self.attention_output.slots(f"{name}.attention.output.dense")
        yield from self.attention_norm.slots(f"{name}.attention.output.LayerNorm")
        yield from self.intermediate.slots(f"{name}.intermediate.dense")
        yield from self.output.slots(f"{name}.output.dense")
        yield from self.output_norm.slots(f"{name}.output.LayerNorm")


@register("BertModel")
class BertModel(Model):
    """The encoder without a head: an embedding model."""

    prefix = "bert"

    def __init__(self, config: EncoderConfig, max_positions: int, parallel: TensorParallel) -> None:
        super().__init__(config, max_positions, parallel)
        self._specs = tuple(
            AttentionSpec(
                layer_id=layer,
                num_heads=config.num_heads,
                num_kv_heads=config.num_heads,
                head_dim=config.head_dim,
                scale=config.head_dim**-0.5,
            )
            for layer in range(config.num_layers)
        )
        self.embeddings = BertEmbeddings(config)
        self._layers = [BertLayer(config, spec) for spec in self._specs]
        self.layers = nn.ModuleList(self._layers)

    def forward(self, input_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        batch = current_batch()
        hidden = self.embeddings(input_ids, positions, batch.token_type_ids)
        *layers, last = self._layers
        for layer in layers:
            hidden = layer(hidden)
        return last(hidden, batch.logit_rows)

    @property
    def attention_specs(self) -> tuple[AttentionSpec, ...]:
        return self._specs

    def weight_slots(self) -> Slots:
        yield from self.embeddings.slots(f"{self.prefix}.embeddings")
        for index, layer in enumerate(self._layers):
            yield from layer.slots(f"{self.prefix}.encoder.layer.{index}")

    def is_spare(self, name: str) -> bool:
        """True for the pooler and the heads of pre-training, and for tables of positions."""
        name = name.removeprefix(f"{self.prefix}.")
        return name.startswith(("pooler.", "cls.", "lm_head.", "embeddings.position_ids"))


@register("RobertaModel", "XLMRobertaModel")
class RobertaModel(BertModel):
    """The same encoder under other names."""

    prefix = "roberta"


class _Classifier(BertModel):
    """The encoder and a head of two layers over a text's first token: it also reads pairs.

    `dense` and `out` are what checkpoints call them.
    """

    dense: str
    out: str

    def __init__(self, config: EncoderConfig, max_positions: int, parallel: TensorParallel) -> None:
        super().__init__(config, max_positions, parallel)
        assert config.pooling is not None
        self.pooler = Linear(config.hidden_size, config.hidden_size, bias=True)
        self.classifier = ScoreHead(config.hidden_size, len(config.pooling.labels), bias=True)

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.pooler(hidden).tanh())

    def weight_slots(self) -> Slots:
        yield from super().weight_slots()
        yield from self.pooler.slots(self.dense)
        yield from self.classifier.slots(self.out)


@register("BertForSequenceClassification")
class BertForSequenceClassification(_Classifier):
    """BERT's classifier: its pooler, and a layer."""

    dense, out = "bert.pooler.dense", "classifier"


@register("RobertaForSequenceClassification", "XLMRobertaForSequenceClassification")
class RobertaForSequenceClassification(_Classifier):
    """RoBERTa's classifier."""

    prefix, dense, out = "roberta", "classifier.dense", "classifier.out_proj"
