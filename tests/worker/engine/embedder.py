"""A whole engine for embedding and classification in the test's own process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from worker.config import ServerArgs
from worker.messages import Embedding, EmbedRequest, TokenChunk
from worker.scheduler.startup import build_scheduler


class Embedder:
    """Makes vectors of texts, given as token ids. `cached` is what the last ones found cached."""

    def __init__(self, model: Path, *, overlap: bool = False, **args) -> None:
        defaults = {"dtype": "float32", "device": "cpu", "num_threads": 1}
        server_args = ServerArgs(model_path=str(model), **(defaults | args))
        self.scheduler, self.ready = build_scheduler(server_args, lambda stage, fraction: None)
        self.scheduler.options = replace(self.scheduler.options, overlap=overlap)
        self.cached: list[int] = []
        self._count = 0

    def embed(self, texts: list[list[int]], types: list[list[int]] | None = None) -> torch.Tensor:
        """Their vectors, [texts, size]; nothing is held afterwards."""
        rids = [f"text-{self._count + i}" for i in range(len(texts))]
        self._count += len(texts)
        answers: list[TokenChunk | Embedding] = []
        for i, (rid, text) in enumerate(zip(rids, texts, strict=True)):
            given = None if types is None else types[i]
            answers += self.scheduler.add(EmbedRequest(rid, text, given))
        while not self.scheduler.is_idle:
            answers += self.scheduler.step()
            self.scheduler.cache.check()
        cache = self.scheduler.cache
        assert (cache.held_tokens, cache.tree.locked_tokens) == (0, 0)
        found = {}
        for answer in answers:
            assert isinstance(answer, Embedding)
            assert answer.failure is None
            found[answer.rid] = answer
        assert len(answers) == len(found) == len(rids)
        self.cached = [found[rid].cached_tokens for rid in rids]
        vectors = np.stack([np.frombuffer(found[rid].values, np.float32) for rid in rids])
        return torch.from_numpy(vectors)
