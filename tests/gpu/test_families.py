"""Tiny random models of every family in float32: the GPU makes the tokens that a CPU makes."""

from __future__ import annotations

import pytest
import torch

from radixfleet import Engine

from ..worker.checkpoints import FAMILIES, VOCAB_SIZE, hf_reference, make_checkpoint
from .agreement import NEAR_TIE_FLOAT32, check_greedy

GREEDY = {"temperature": 0.0, "max_new_tokens": 40, "ignore_eos": True}
LENGTHS = [1, 7, 33, 64, 100, 150]


@pytest.mark.parametrize(
    ("family", "backend"),
    [
        *((family, "triton") for family in FAMILIES),
        ("llama3", "torch_native"),
        ("mistral_window", "torch_native"),
    ],
)
def test_greedy_tokens(tmp_path, family, backend):
    folder = make_checkpoint(tmp_path, family)
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, VOCAB_SIZE, (n,), generator=generator).tolist() for n in LENGTHS]
    with Engine(
        model_path=str(folder),
        skip_tokenizer_init=True,
        device="cuda",
        dtype="float32",
        attention_backend=backend,
        max_total_tokens=2048,
        chunked_prefill_size=64,
        cuda_graph_max_bs=8,
    ) as engine:
        answers = engine.generate(input_ids=prompts, sampling_params=GREEDY)
    tokens = [answer["output_ids"] for answer in answers]
    check_greedy(hf_reference(folder), prompts, tokens, NEAR_TIE_FLOAT32)
