"""A worker process with the real engine, on a tiny model with random weights."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from ...serving import WORKER, Server, serving
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer

TOTAL_TOKENS = 2048
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "eos_token_id": 2,
    "bos_token_id": 1,
}


@contextmanager
def tiny_worker(folder: Path, *flags: str, module: str = WORKER) -> Iterator[Server]:
    """As `serving`, with the worker's files in `folder`; a fleet of them with its `module`."""
    model = write_tiny_tokenizer(folder / "model")
    (model / "config.json").write_text(json.dumps(CONFIG))
    arguments = ["--load-format", "dummy", "--max-total-tokens", str(TOTAL_TOKENS)]
    arguments += ["--model-path", str(model), "--random-seed", "1", "--num-threads", "1"]
    arguments += ["--dtype", "float32", "--file-storage-path", str(folder / "storage")]
    with serving(module, *arguments, *flags) as server:
        yield server


async def idle_state(http: httpx.AsyncClient) -> dict[str, int]:
    """The scheduler's counts, as soon as nothing runs or waits."""
    for _ in range(3000):
        state = (await http.get("/get_server_info")).json()["state"]
        if state["running_requests"] == state["waiting_requests"] == 0:
            return state
        await asyncio.sleep(0.02)
    raise AssertionError(f"never idle: {state}")


def assert_nothing_is_held(state: dict[str, int]) -> None:
    assert state["held_tokens"] == 0
    assert state["free_tokens"] + state["cached_tokens"] == state["total_tokens"] == TOTAL_TOKENS
