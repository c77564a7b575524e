"""At the default share of memory nothing runs out of it: a full KV cache and 4,096 requests."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.engine.models import model_folder, vocab_size

from radixfleet import Engine

# Answers so long that all prompts are computed before the first one ends.
REQUESTS, OUTPUT = 4096, 200


@pytest.mark.parametrize("model", ["qwen3-0.6b", "llama-3.1-8b"])
def test_a_full_cache_with_thousands_waiting(model):
    folder = model_folder(model)
    with Engine(
        model_path=str(folder),
        load_format="dummy",
        skip_tokenizer_init=True,
        device="cuda",
        disable_radix_cache=True,
        schedule_conservativeness=0.3,  # to the last slot
    ) as engine:
        scheduler, step = engine.scheduler, engine.scheduler.step
        total = scheduler.cache.total_tokens
        waiting, used = [], []

        def watched_step():
            waiting.append(len(scheduler.waiting))
            chunks = step()
            used.append(1 - scheduler.cache.available_tokens / total)
            return chunks

        scheduler.step = watched_step
        # Together they want a fifth more than there is, so that some wait until others have ended.
        length = int(1.2 * total / REQUESTS) - OUTPUT
        rng = np.random.default_rng(0)
        prompts = rng.integers(0, vocab_size(folder), (REQUESTS, length)).tolist()
        sampling = {"temperature": 0.8, "max_new_tokens": OUTPUT, "ignore_eos": True}
        answers = engine.generate(input_ids=prompts, sampling_params=sampling)
    assert [len(answer["output_ids"]) for answer in answers] == [OUTPUT] * REQUESTS
    assert max(waiting) == REQUESTS
    assert max(used) >= 0.99
