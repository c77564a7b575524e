"""SmolLM2 in bfloat16 beside Hugging Face's on the same GPU, in every mode of the engine.

`agreement` states what counts as the same.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch
from transformers import AutoTokenizer

from radixfleet import Engine
from worker.runtime.model_runner import ModelRunner

from ..worker.checkpoints import hf_reference
from ..worker.engine.prompts import PARAGRAPHS, TEXTS
from ..worker.runtime.texts import Texts
from .agreement import NEAR_TIE_BFLOAT16, check_greedy, reference_logits

BACKENDS = ["torch_native", "triton", "flashinfer"]
NEW_TOKENS = 64
GREEDY = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
SEEDED = GREEDY | {"temperature": 0.8, "top_p": 0.9, "seed": 7}


@pytest.fixture(scope="module")
def prompts(smollm2) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    return [tokenizer(text)["input_ids"] for text in TEXTS + PARAGRAPHS]


@pytest.fixture(scope="module")
def reference(smollm2):
    return hf_reference(smollm2, torch.bfloat16).to("cuda")


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    if request.param == "flashinfer" and importlib.util.find_spec("flashinfer") is None:
        pytest.skip("flashinfer is not installed")
    return request.param


def engine(smollm2, **arguments) -> Engine:
    defaults = {"device": "cuda", "dtype": "bfloat16", "max_total_tokens": 16384}
    defaults |= {"cuda_graph_max_bs": 32}
    return Engine(model_path=str(smollm2), skip_tokenizer_init=True, **(defaults | arguments))


def answers(engine: Engine, prompts: list[list[int]], sampling=GREEDY) -> list[list[int]]:
    """Of all prompts at once; nothing is held afterwards."""
    found = engine.generate(input_ids=prompts, sampling_params=sampling)
    cache = engine.scheduler.cache
    cache.check()
    assert (cache.held_tokens, cache.tree.locked_tokens) == (0, 0)
    return [answer["output_ids"] for answer in found]


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "eager"])
def test_greedy_tokens_with_overlap_and_without(smollm2, prompts, reference, backend, graphs):
    """Hugging Face's with both, and the same with both, as the batches are the same.

    But for torch_native: torch adds up a sequence's blocks in any order on a GPU.
    """
    mode = {"attention_backend": backend, "disable_cuda_graph": not graphs}
    found = {}
    for overlap in (True, False):
        with engine(smollm2, **mode, disable_overlap_schedule=not overlap) as made:
            found[overlap] = answers(made, prompts), answers(made, prompts[:6], SEEDED)
            check_greedy(reference, prompts, found[overlap][0], NEAR_TIE_BFLOAT16)
            # Now all prompts are cached, and no longer computed in one batch.
            alone = [answers(made, [prompt])[0] for prompt in prompts[::5]]
            check_greedy(reference, prompts[::5], alone, NEAR_TIE_BFLOAT16)
    assert found[True] == found[False] or backend == "torch_native"


def test_greedy_tokens_with_chunks_that_mix_with_decoding(smollm2, prompts, reference, backend):
    chunks = {"chunked_prefill_size": 48, "enable_mixed_chunk": True}
    with engine(smollm2, attention_backend=backend, **chunks) as made:
        check_greedy(reference, prompts, answers(made, prompts), NEAR_TIE_BFLOAT16)


def test_greedy_tokens_after_retraction(smollm2, prompts, reference, backend):
    short = {"max_total_tokens": 1024, "schedule_conservativeness": 0.05}
    with engine(smollm2, attention_backend=backend, **short) as made:
        check_greedy(reference, prompts, answers(made, prompts), NEAR_TIE_BFLOAT16)
        assert made.scheduler.counters.retractions > 0


@pytest.mark.parametrize("size", [2, 4])
def test_greedy_tokens_of_several_ranks(smollm2, prompts, reference, size):
    if torch.cuda.device_count() < size:
        pytest.skip(f"needs {size} GPUs")
    with engine(smollm2, tp_size=size) as made:
        check_greedy(reference, prompts, answers(made, prompts), NEAR_TIE_BFLOAT16)


def test_logits_are_as_close_to_float32_as_hugging_faces(smollm2, prompts, reference, backend):
    """Errors of bfloat16 are bounded by those that Hugging Face makes in it; whole prompts, then
    the second half of each after its first from the cache.
    """
    runner = ModelRunner(
        smollm2, device="cuda", dtype="bfloat16", backend=backend, max_total_tokens=8192
    )
    exact = hf_reference(smollm2).to("cuda")
    lengths = [len(prompt) for prompt in prompts]
    whole = Texts(runner, prompts).compute([(i, 0, n) for i, n in enumerate(lengths)])
    halves = Texts(runner, prompts)
    halves.compute([(i, 0, n // 2) for i, n in enumerate(lengths) if n > 1])
    seconds = halves.compute([(i, n // 2, n) for i, n in enumerate(lengths)])
    for ours, skip in ((whole, lambda n: 0), (seconds, lambda n: n // 2)):
        errors, allowed = [], []
        parts = ours.split([n - skip(n) for n in lengths])
        for prompt, part in zip(prompts, parts, strict=True):
            truth = reference_logits(exact, prompt)[skip(len(prompt)) :]
            errors.append((part - truth).abs().flatten())
            theirs = reference_logits(reference, prompt)[skip(len(prompt)) :]
            allowed.append((theirs - truth).abs().flatten())
        error, bound = torch.cat(errors), torch.cat(allowed)
        assert error.mean() <= 1.2 * bound.mean()
        assert error.max() <= 2.0 * bound.max()
