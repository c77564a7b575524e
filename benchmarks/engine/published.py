"""What others reached, what is wanted, and what the chip allows: one H200, torch 2.11, dummy bf16
weights, offline API, no speculative decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

PEERS = {"vllm": "vLLM 0.26.0", "sglang": "SGLang 0.5.15"}


@dataclass(frozen=True)
class Published:
    """In the workload's unit; `reach` is what ours is to be, `limit` what the chip allows.

    Limits: 4.3 TB/s of weights for decoding few requests, 790 TFLOP/s of products for prefill.
    """

    vllm: float | None
    sglang: float | None
    reach: float
    limit: float | None = None


# By the name of the model's folder and of the workload; starts are in seconds.
PUBLISHED = {
    ("llama-3.1-8b", "one"): Published(201.7, 210.3, 230, 286),
    ("llama-3.1-8b", "eight"): Published(None, None, 1_840, 2_290),
    ("llama-3.1-8b", "batch64"): Published(4676, 4780, 5_000),
    ("llama-3.1-8b", "prefill"): Published(41_358, 41_746, 42_000, 49_000),
    ("llama-3.1-8b", "mixed256"): Published(10_187, 10_118, 10_500),
    ("llama-3.1-8b", "shared"): Published(77_112, 76_261, 150_000),
    ("llama-3.1-8b", "start"): Published(125, 105, 20),
    ("qwen3-0.6b", "one"): Published(628, 631, 1_000, 3600),
    ("qwen3-0.6b", "eight"): Published(None, None, 8_000, 28_800),
    ("qwen3-0.6b", "mixed256"): Published(23_875, 21_668, 26_000),
}
