"""A worker process with the real engine, on a tiny model with random weights."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

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


@dataclass(frozen=True)
class TinyWorker:
    """`process` is that of the HTTP server."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def tiny_worker(folder: Path, *flags: str) -> Iterator[TinyWorker]:
    """Runs until the block is left, and must end with code 0 then. Its files are in `folder`."""
    model = write_tiny_tokenizer(folder / "model")
    (model / "config.json").write_text(json.dumps(CONFIG))
    status_read, status_write = os.pipe()
    arguments = ["--load-format", "dummy", "--max-total-tokens", str(TOTAL_TOKENS), "--port", "0"]
    arguments += ["--model-path", str(model), "--random-seed", "1", "--num-threads", "1"]
    arguments += ["--dtype", "float32", "--file-storage-path", str(folder / "storage"), *flags]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "worker.launch_server", *arguments],
        env={**os.environ, "RADIXFLEET_STATUS_FD": str(status_write)},
        pass_fds=(status_write,),
    )
    os.close(status_write)
    try:
        with os.fdopen(status_read) as status:
            event: dict[str, Any] = {}
            while event.get("event") != "ready":
                event = json.loads(status.readline())
                assert event["event"] != "failed", event
            yield TinyWorker(event["url"], process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()


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
