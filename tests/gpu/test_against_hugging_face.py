"""SmolLM2 in bfloat16 beside Hugging Face's on the same GPU, in every mode of the engine.

`agreement` states what counts as the same.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch

from worker.layers.linear import Linear
from worker.runtime.model_runner import ModelRunner

from ..worker.checkpoints import hf_reference
from ..worker.runtime.texts import Texts
from .agreement import NEAR_TIE_BFLOAT16, check_greedy, reference_logits
from .smollm2 import GREEDY, answers, engine

BACKENDS = ["torch_native", "triton", "flashinfer"]
SEEDED = GREEDY | {"temperature": 0.8, "top_p": 0.9, "seed": 7}


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    if request.param == "flashinfer" and importlib.util.find_spec("flashinfer") is None:
        pytest.skip("flashinfer is not installed")
    return request.param


# Without graphs, the attention of one backend stands for that of all.
@pytest.mark.parametrize(
    ("backend", "graphs"),
    [*((name, "graphs") for name in BACKENDS), ("triton", "eager")],
    indirect=["backend"],
)
def test_greedy_tokens_with_overlap_and_without(smollm2, prompts, reference, backend, graphs):
    """Hugging Face's with both, and the same with both, as the batches are the same.

    But for torch_native: torch adds up a sequence's blocks in any order on a GPU.
    """
    mode = {"attention_backend": backend, "disable_cuda_graph": graphs == "eager"}
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


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "not fused"])
def test_greedy_tokens_of_few_requests(smollm2, prompts, reference, monkeypatch, fused):
    """So few that a decode step is computed by fewer, larger kernels, unless that is turned off."""
    fused_sizes: set[int] = set()
    skinny = Linear.skinny

    def noted(self, x, **named):
        fused_sizes.add(len(x))
        return skinny(self, x, **named)

    monkeypatch.setattr(Linear, "skinny", noted)
    with engine(smollm2, disable_fused_decode=not fused) as made:
        for count in (1, 2, 8):
            chosen = prompts[-count:]
            check_greedy(reference, chosen, answers(made, chosen), NEAR_TIE_BFLOAT16)
    assert fused_sizes >= {1, 2, 8} if fused else not fused_sizes


@pytest.mark.parametrize("size", [2, 4])
def test_greedy_tokens_of_several_ranks(smollm2, prompts, reference, size):
    if torch.cuda.device_count() < size:
        pytest.skip(f"needs {size} GPUs")
    with engine(smollm2, tp_size=size) as made:
        check_greedy(reference, prompts, answers(made, prompts), NEAR_TIE_BFLOAT16)


def test_logits_are_as_close_to_float32_as_hugging_faces(smollm2, prompts, reference, backend):
    """Errors of bfloat16 are bounded by those that Hugging Face makes in it; whole prompts, then
    the second half of each after its first from the cache, then eight tokens at a time.
    """
    runner = ModelRunner(
        smollm2, device="cuda", dtype="bfloat16", backend=backend, max_total_tokens=8192
    )
    exact = hf_reference(smollm2).to("cuda")
    lengths = [len(prompt) for prompt in prompts]
    whole = Texts(runner, prompts).compute([(i, 0, n) for i, n in enumerate(lengths)])
    _check_errors(whole, prompts, [0] * len(prompts), reference, exact)
    firsts = [n // 2 for n in lengths]
    halves = Texts(runner, prompts)
    halves.compute([(i, 0, first) for i, first in enumerate(firsts) if first])
    seconds = halves.compute([(i, firsts[i], n) for i, n in enumerate(lengths)])
    _check_errors(seconds, prompts, firsts, reference, exact)
    long = prompts[-2:]
    few = Texts(runner, long)
    spans = [(i, n, min(n + 8, len(long[i]))) for i in range(2) for n in range(0, len(long[i]), 8)]
    eights = torch.cat([few.compute([span]) for span in spans])
    _check_errors(eights, long, [0, 0], reference, exact)


def _check_errors(ours, prompts, starts, reference, exact) -> None:
    """`ours`: logits of the tokens from `starts` on, of one prompt after the other."""
    errors, allowed = [], []
    parts = ours.split([len(prompt) - start for prompt, start in zip(prompts, starts, strict=True)])
    for prompt, start, part in zip(prompts, starts, parts, strict=True):
        truth = reference_logits(exact, prompt)[start:]
        errors.append((part - truth).abs().flatten())
        theirs = reference_logits(reference, prompt)[start:]
        allowed.append((theirs - truth).abs().flatten())
    error, bound = torch.cat(errors), torch.cat(allowed)
    assert error.mean() <= 1.2 * bound.mean()
    assert error.max() <= 2.0 * bound.max()
