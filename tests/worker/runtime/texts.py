"""Known texts in the paged cache of a model runner, computed in any cut."""

from __future__ import annotations

import torch

from worker.cache.kv_cache import KVCache
from worker.messages import SamplingParams
from worker.runtime.model_runner import ModelRunner
from worker.scheduler.request import Request
from worker.scheduler.step import PrefillChunk, Step, sequence_of, step_input


class Texts:
    """Sequences with known tokens in a cache of the runner's size, computed piece by piece."""

    def __init__(self, runner: ModelRunner, texts: list[list[int]], page_size: int = 1) -> None:
        self.runner = runner
        self.cache = KVCache(
            runner.total_tokens,
            len(texts),
            max(map(len, texts)),
            page_size=page_size,
            track_changes=runner.device.type != "cpu",
        )
        runner.set_page_table(self.cache.table)
        self.requests = []
        for i, tokens in enumerate(texts):
            request = Request.create(
                f"r{i}",
                tokens,
                SamplingParams(max_new_tokens=1),
                eos_token_ids=(),
                arrival=i,
                seed=0,
                stream_interval=1,
            )
            request.sequence = self.cache.begin(self.cache.match(request.text))
            self.requests.append(request)

    @classmethod
    def random(cls, runner: ModelRunner, lengths: list[int], page_size: int = 1) -> Texts:
        """Tokens from 3 to the end of the vocabulary, the same for the same count of texts."""
        generator = torch.Generator().manual_seed(len(lengths))
        high = runner.config.vocab_size
        texts = [torch.randint(3, high, (n,), generator=generator).tolist() for n in lengths]
        return cls(runner, texts, page_size)

    def compute(self, spans: list[tuple[int, int, int]]) -> torch.Tensor:
        """Logits of tokens [start, end) of text `i`, for each (i, start, end) of `spans`."""
        chunks = []
        for i, start, end in spans:
            assert self.cache.grow(sequence_of(self.requests[i]), end)
            chunks.append(PrefillChunk(self.requests[i], start, end))
        logits = self.runner.logits(step_input(Step([], chunks), self.cache))
        for i, _, end in spans:
            sequence_of(self.requests[i]).computed = end
        return logits
