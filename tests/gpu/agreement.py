"""When two implementations of a model agree, though they round differently.

Greedy answers: each token must be the reference's own choice after the same text, or nearly tie
with it: the reference's logits of the two differ by at most NEAR_TIE. Since the reference is asked
after each prefix of *our* answer, one near-tie does not end the comparison.

NEAR_TIE for bfloat16: SmolLM2's highest logits lie between 16 and 45, where bfloat16 has steps of
0.125 and 0.25, so that one rounding of the head's output moves a logit by that much.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

NEAR_TIE_BFLOAT16 = 0.25
NEAR_TIE_FLOAT32 = 0.02  # products of tensor cores round float32 to 10 bits of mantissa


@torch.inference_mode()
def reference_logits(reference: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    """After every token: [tokens, vocab] float32."""
    return reference(torch.tensor([list(tokens)], device=reference.device)).logits[0].float()


def gaps(reference: PreTrainedModel, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """How far the reference prefers its own choice to each token of `answer`: [tokens] float32."""
    logits = reference_logits(reference, prompt + answer)[len(prompt) - 1 : -1]
    chosen = logits.gather(1, torch.tensor(answer, device=logits.device)[:, None])[:, 0]
    return logits.max(dim=1).values - chosen


def check_greedy(
    reference: PreTrainedModel,
    prompts: Sequence[list[int]],
    answers: Sequence[list[int]],
    near_tie: float,
    same_share: float = 0.97,
) -> None:
    """Every token is the reference's or nearly ties with it; `same_share` of them are its own."""
    found = torch.cat([gaps(reference, *pair) for pair in zip(prompts, answers, strict=True)])
    assert found.max() <= near_tie, f"the reference prefers another token by {found.max():.3f}"
    share = float((found == 0).float().mean())
    assert share >= same_share, f"{share:.1%} of the tokens are the reference's own"
