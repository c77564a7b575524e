"""SmolLM2 on the GPU: how the tests start it and ask it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from radixfleet import Engine

NEW_TOKENS = 64
GREEDY = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}


def engine(model: Path, **arguments: Any) -> Engine:
    """Small, unless `arguments`, which are the engine's, say otherwise."""
    defaults = {"device": "cuda", "dtype": "bfloat16", "max_total_tokens": 16384}
    defaults |= {"cuda_graph_max_bs": 32}
    return Engine(model_path=str(model), skip_tokenizer_init=True, **(defaults | arguments))


def answers(
    engine: Engine,
    prompts: Sequence[list[int]],
    sampling: dict[str, Any] | list[dict[str, Any]] = GREEDY,
) -> list[list[int]]:
    """Of all prompts at once; nothing is held afterwards."""
    found = engine.generate(input_ids=list(prompts), sampling_params=sampling)
    cache = engine.scheduler.cache
    cache.check()
    assert (cache.held_tokens, cache.tree.locked_tokens) == (0, 0)
    return [answer["output_ids"] for answer in found]
