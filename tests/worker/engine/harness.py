"""A whole engine in the test's own process: real model, real cache, no HTTP."""

from __future__ import annotations

from pathlib import Path

from worker.config import ServerArgs
from worker.messages import FinishReason, GenerateRequest, SamplingParams, TokenChunk
from worker.scheduler.ranks import Followers
from worker.scheduler.startup import build_scheduler


class Engine:
    """Runs token prompts to their end and keeps what came back."""

    def __init__(self, model: Path, **args) -> None:
        defaults = {"dtype": "float32", "device": "cpu", "max_total_tokens": 8192, "num_threads": 1}
        server_args = ServerArgs(model_path=str(model), **(defaults | args))
        ranks = Followers(server_args) if server_args.tp_size > 1 else None
        self.scheduler, self.ready = build_scheduler(
            server_args, lambda stage, fraction: None, ranks
        )
        self.cached: dict[str, int] = {}
        self.finish: dict[str, FinishReason] = {}
        self.chunks: dict[str, list[TokenChunk]] = {}
        self._count = 0

    def add(self, prompt: list[int], max_new_tokens: int, **sampling) -> str:
        params = SamplingParams(max_new_tokens, **({"temperature": 0.0} | sampling))
        return self.ask(prompt, params)

    def ask(self, prompt: list[int], params: SamplingParams, **fields) -> str:
        """Add a request with further `fields`."""
        self._count += 1
        rid = f"r{self._count}"
        self._collect(self.scheduler.add(GenerateRequest(rid, prompt, params, **fields)))
        return rid

    def run(self) -> None:
        """Step until nothing is left to do; nothing is held afterwards."""
        while not self.scheduler.is_idle:
            self.step()
        self.check_idle()

    def step(self) -> None:
        self._collect(self.scheduler.step())
        self.scheduler.cache.check()

    def generate(
        self, prompts: list[list[int]], max_new_tokens: int = 24, **sampling
    ) -> list[list[int]]:
        """All prompts at once; returns their answers in order."""
        rids = [self.add(prompt, max_new_tokens, **sampling) for prompt in prompts]
        self.run()
        return [self.answer(rid) for rid in rids]

    def answer(self, rid: str) -> list[int]:
        """All tokens so far."""
        return [token for chunk in self.chunks[rid] for token in chunk.token_ids]

    def check_idle(self) -> None:
        cache = self.scheduler.cache
        cache.check()
        assert (cache.held_tokens, cache.tree.locked_tokens) == (0, 0)

    def _collect(self, chunks) -> None:
        for chunk in chunks:
            self.chunks.setdefault(chunk.rid, []).append(chunk)
            self.cached[chunk.rid] = chunk.cached_tokens
            if chunk.finish is not None:
                self.finish[chunk.rid] = chunk.finish
