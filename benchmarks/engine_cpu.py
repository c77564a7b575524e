"""Decode speed of one worker on a CPU, beside Hugging Face `generate` at the same dtype.

    python -m benchmarks.engine_cpu

The worker is asked over HTTP; Hugging Face runs in this process. Both use all cores and take turns,
so that a change of the machine's speed hits both.
"""

from __future__ import annotations

import argparse
import asyncio
import time

import httpx
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from worker.embedded_models import resolve_model_path

from .report import Figure, publish
from .servers import running

PROMPTS = [
    "Write a story about a lighthouse keeper who finds a letter.",
    "Explain how a bicycle stays upright, for a curious child.",
    "List the planets of the solar system with one fact about each.",
    "Describe the taste of a ripe mango to someone who never ate one.",
    "Give advice to a student who is afraid of mathematics.",
    "Tell me about the history of the printing press.",
    "What should one think about before buying an old house?",
    "Why is the sky blue, and why are sunsets red?",
]


class HuggingFace:
    """`generate` on the same weights, one request at a time."""

    def __init__(self, model: str, dtype: torch.dtype) -> None:
        path = resolve_model_path(model)
        where, unpacked = {}, {}
        if path.is_file():
            where = {"gguf_file": path.name}
            unpacked = {"quantization_config": GgufConfig(dequantize=True)}
        folder = path.parent if path.is_file() else path
        self.tokenizer = AutoTokenizer.from_pretrained(folder, **where)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, **where, **unpacked
        ).eval()

    @torch.inference_mode()
    def tokens_per_second(self, prompt: str, new_tokens: int) -> float:
        inputs = self.tokenizer(prompt, return_tensors="pt")
        started = time.perf_counter()
        self.model.generate(
            **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False
        )
        return new_tokens / (time.perf_counter() - started)


async def worker_tokens_per_second(url: str, prompts: list[str], new_tokens: int) -> float:
    """All of `prompts` at once, `new_tokens` each; tokens of all together per second."""
    params = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
    async with httpx.AsyncClient(timeout=None) as client:

        async def one(prompt: str) -> int:
            body = {"text": prompt, "sampling_params": params}
            answer = await client.post(f"{url}/generate", json=body)
            answer.raise_for_status()
            return answer.json()["meta_info"]["completion_tokens"]

        started = time.perf_counter()
        made = await asyncio.gather(*(one(prompt) for prompt in prompts))
        return sum(made) / (time.perf_counter() - started)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-path", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args(argv)
    peer = HuggingFace(args.model_path, getattr(torch, args.dtype))
    flags = ("--model-path", args.model_path, "--dtype", args.dtype)
    hf, one, eight = [], [], []
    with running("worker.launch_server", *flags) as server:
        for run in range(args.runs + 1):
            peer_speed = peer.tokens_per_second(PROMPTS[0], args.new_tokens // 2)
            alone = asyncio.run(worker_tokens_per_second(server.url, PROMPTS[:1], args.new_tokens))
            together = asyncio.run(worker_tokens_per_second(server.url, PROMPTS, args.new_tokens))
            if run:  # the first one warms up
                hf.append(peer_speed)
                one.append(alone)
                eight.append(together)
    base = Figure("Hugging Face generate, 1 request", "tokens/s", hf)
    figures = [base]
    for what, runs in (
        ("radixfleet worker, 1 request", one),
        ("radixfleet worker, 8 requests", eight),
    ):
        median = Figure(what, "tokens/s", runs).median
        figures.append(Figure(what, "tokens/s", runs, median / base.median, "Hugging Face"))
    publish("engine_cpu", f"{args.model_path}, {args.dtype}, decode on CPU", figures)


if __name__ == "__main__":
    main()
