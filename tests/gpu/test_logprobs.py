"""SmolLM2's log-probabilities and hidden states in bfloat16: as close to float32 as Hugging Face's.

All prompts at once, some of them asking, with CUDA graphs and overlap, and without.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from worker.messages import LogprobOptions, SamplingParams, TokenChunk

from ..worker.checkpoints import hf_reference
from ..worker.engine.harness import Engine

GREEDY = SamplingParams(48, temperature=0.0, ignore_eos=True)
# Penalties change what is chosen, and nothing of what is told.
CHANGED = SamplingParams(48, seed=5, top_p=0.9, repetition_penalty=1.3, ignore_eos=True)
ASKED = LogprobOptions(prompt_start=0, top=3, token_ids=(1, 11))
MODES = {
    "graphs, overlapped": {},
    "graphs, in turn": {"disable_overlap_schedule": True},
    "eager": {"disable_cuda_graph": True, "disable_fused_decode": True},
    "chunks of 48, mixed": {"chunked_prefill_size": 48, "enable_mixed_chunk": True},
    "retraction": {"max_total_tokens": 640, "schedule_conservativeness": 0.05},
    "torch_native": {"attention_backend": "torch_native"},
}


@pytest.fixture(scope="module")
def exact(smollm2) -> PreTrainedModel:
    return hf_reference(smollm2).to("cuda")


def run(smollm2, prompts: list[list[int]], **arguments) -> list[list[TokenChunk]]:
    """The chunks of each prompt's answer; every third does not ask for log-probabilities."""
    defaults = {"max_total_tokens": 16384, "cuda_graph_max_bs": 32}
    engine = Engine(smollm2, dtype="bfloat16", device="cuda", **(defaults | arguments))
    rids = []
    for i, prompt in enumerate(prompts):
        asked = {"logprobs": ASKED if i % 3 else None, "return_hidden_states": i % 4 == 1}
        rids.append(engine.ask(prompt, CHANGED if i % 2 else GREEDY, **asked))
    engine.run()
    assert (engine.scheduler.counters.retractions > 0) == ("max_total_tokens" in arguments)
    return [engine.chunks[rid] for rid in rids]


@torch.inference_mode()
def computed(model: PreTrainedModel, text: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [tokens, vocab] after each token, and hidden states, both float32."""
    output = model(torch.tensor([text], device="cuda"), output_hidden_states=True)
    logprobs = output.logits[0].float().log_softmax(dim=-1)
    return logprobs, output.hidden_states[-1][0].float()


@pytest.mark.parametrize("mode", MODES)
def test_they_are_as_close_to_float32_as_hugging_faces(smollm2, prompts, reference, exact, mode):
    errors, allowed, state_errors, states_allowed = [], [], [], []
    for prompt, chunks in zip(prompts, run(smollm2, prompts, **MODES[mode]), strict=True):
        text = prompt + [token for chunk in chunks for token in chunk.token_ids]
        (truth, true_states), (theirs, their_states) = (
            computed(exact, text),
            computed(reference, text),
        )
        if chunks[0].logprobs is not None:
            parts = [chunks[0].prompt_logprobs, *(chunk.logprobs for chunk in chunks)]
            ours = _all_told(text, parts, truth)
            errors.append((ours - _told_by(truth, text)).abs())
            allowed.append((_told_by(theirs, text) - _told_by(truth, text)).abs())
        if chunks[0].hidden_states is not None:
            rows = np.frombuffer(b"".join(chunk.hidden_states for chunk in chunks), np.float32)
            ours = torch.tensor(rows.reshape(len(text) - 1, -1), device="cuda")
            state_errors.append((ours - true_states[:-1]).abs())
            states_allowed.append((their_states - true_states)[:-1].abs())
    for found, bound in ((errors, allowed), (state_errors, states_allowed)):
        error, limit = torch.cat(found), torch.cat(bound)
        assert error.mean() <= 1.25 * limit.mean()
        assert error.max() <= 2.5 * limit.max()


def _told_by(logprobs: torch.Tensor, text: list[int]) -> torch.Tensor:
    """[tokens - 1, 3]: of each token but the first, and of those that are asked for by their id."""
    wanted = torch.tensor([[token, *ASKED.token_ids] for token in text[1:]], device="cuda")
    return logprobs[:-1].gather(1, wanted)


def _all_told(text: list[int], parts: list, truth: torch.Tensor) -> torch.Tensor:
    """What a request was told of its whole text, as `_told_by` arranges it."""
    chosen = [value for part in parts for value in part.chosen]
    wanted = [place for part in parts for place in part.wanted]
    for part in parts:
        for value, place in zip(part.chosen, part.top, strict=True):
            values = [each for _, each in place]
            assert values == sorted(values, reverse=True)
            assert value <= values[0]
    assert len(chosen) == len(text) - 1
    rows = [[value, *named] for value, named in zip(chosen, wanted, strict=True)]
    return torch.tensor(rows, device=truth.device)


def test_a_greedy_token_comes_first_in_its_list_and_overlap_changes_nothing(smollm2, prompts):
    found = [run(smollm2, prompts, **MODES[mode]) for mode in list(MODES)[:2]]
    for i, (overlapped, in_turn) in enumerate(zip(*found, strict=True)):
        assert overlapped == in_turn
        for chunk in overlapped if i % 3 and not i % 2 else []:
            assert chunk.logprobs is not None
            assert [place[0][0] for place in chunk.logprobs.top] == chunk.token_ids
