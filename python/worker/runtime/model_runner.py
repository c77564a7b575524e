"""The model on its device: loads it, sizes its KV pool, and computes one step at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..attention.base import forward_context
from ..attention.batch import ForwardBatch
from ..attention.registry import attention_backend
from ..models.config import ModelConfig, load_model_config
from ..models.registry import build_model
from ..sampling.batch import SamplingBatch
from ..sampling.sampler import sample
from .device import choose_device, choose_dtype, free_memory, set_threads
from .kv_pool import KVPool, pool_tokens
from .weights import load_weights

Progress = Callable[[str, float], None]


class ModelRunner:
    """Owns weights and KV pool; `total_tokens` is the pool's size."""

    def __init__(
        self,
        model_path: Path,
        *,
        load_format: str = "auto",
        dtype: str = "auto",
        device: str = "auto",
        num_threads: int | None = None,
        context_length: int | None = None,
        mem_fraction_static: float = 0.9,
        max_total_tokens: int | None = None,
        page_size: int = 1,
        backend: str | None = None,
        seed: int = 0,
        progress: Progress = lambda stage, fraction: None,
    ) -> None:
        self.config: ModelConfig = load_model_config(model_path)
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        if self.device.type == "cpu":
            set_threads(num_threads)
        free_bytes = free_memory(self.device)
        self.context_length = context_length or self.config.max_position_embeddings
        self.model = build_model(self.config, self.dtype, self.device, self.context_length)
        load_weights(
            self.model,
            model_path,
            load_format=load_format,
            seed=seed,
            progress=lambda fraction: progress("loading weights", fraction),
        )
        self.weights_bytes = self.model.weights_bytes()
        self.model.pack_weights()
        progress("allocating the KV cache", 0.0)
        self.total_tokens = pool_tokens(
            free_bytes=free_bytes,
            weights_bytes=self.weights_bytes,
            bytes_per_token=self._bytes_per_token(),
            mem_fraction_static=mem_fraction_static,
            max_total_tokens=max_total_tokens,
            page_size=page_size,
            device=self.device,
        )
        self.pool = KVPool.allocate(
            self.total_tokens,
            num_layers=self.config.num_layers,
            num_kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            dtype=self.dtype,
            device=self.device,
        )
        self._backend = attention_backend(backend or "torch_native", self.pool.k, self.pool.v)

    def _bytes_per_token(self) -> int:
        config = self.config
        return 2 * config.num_layers * config.num_kv_heads * config.head_dim * self.dtype.itemsize

    @torch.inference_mode()
    def logits(self, batch: ForwardBatch, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [rows, vocab] float32 of the batch's tokens `rows` [rows] int64, or of all."""
        hidden = self._hidden(batch)
        if rows is not None:
            hidden = hidden.index_select(0, rows)
        return self.model.compute_logits(hidden)

    @torch.inference_mode()
    def forward(
        self, batch: ForwardBatch, rows: torch.Tensor | None, sampling: SamplingBatch | None
    ) -> list[int]:
        """Compute a step and sample: one token for each of `rows`."""
        if rows is not None and not len(rows):  # nothing but unfinished prompt chunks
            self._hidden(batch)
            return []
        return sample(self.logits(batch, rows), sampling).tolist()

    def _hidden(self, batch: ForwardBatch) -> torch.Tensor:
        """Write the batch's keys and values; returns [tokens, hidden] after the final norm."""
        self._backend.plan(batch)
        with forward_context(self._backend):
            return self.model(batch.input_ids, batch.positions)
