"""The runner of models that embed and classify: of each text a vector, instead of tokens."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from ..models.config import Pooling
from .model_runner import ModelRunner
from .pooler import Pooler
from .step_input import StepInput
from .step_result import DeviceResult, PendingResult


class EmbeddingRunner(ModelRunner):
    """Computes prompts alone. Where attention is not causal, each of them as a whole."""

    def _prepare_output(self, rows: int) -> None:
        kept_rows = rows if self.config.is_causal else 0
        self._pooler = Pooler(self._pooling, kept_rows, self.config.hidden_size, self.device)

    @property
    def _pooling(self) -> Pooling:
        assert self.config.pooling is not None
        return self.config.pooling

    @torch.inference_mode()
    def launch(self, step: StepInput) -> PendingResult:
        batch, _, _ = self._batches.build(step)
        ended = self._upload(step.prompts_ended)
        last_tokens = self._upload(step.starts[1:][step.prompts_ended] - 1)
        batch = replace(batch, logit_rows=self._pooler.wanted(batch, last_tokens))
        pooled = self._pooler.pool(self._hidden(batch), batch, ended)
        return DeviceResult(ended[:0], vectors=self._vectors(pooled))

    def _vectors(self, pooled: torch.Tensor) -> torch.Tensor:
        """pooled: [texts, hidden] float32. Returns [texts, size] float32."""
        if self._pooling.labels:
            return self.model.compute_logits(pooled.to(self.dtype)).float()
        return F.normalize(pooled, dim=1) if self._pooling.normalize else pooled

    def _spare_prompts(self, length: int, count: int = 1, shared: int = 0) -> StepInput:
        step = super()._spare_prompts(length, count, shared)
        return replace(step, sampled=step.sampled[:0], prompts_ended=step.sampled)
