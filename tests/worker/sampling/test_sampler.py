"""Tokens come with the probabilities that the filters leave, and seeds decide them."""

import pytest
import torch

from worker.sampling.batch import SamplingBatch, SamplingRow, noise_key
from worker.sampling.sampler import gumbel_noise, sample

CPU = torch.device("cpu")


def row(temperature=1.0, top_p=1.0, top_k=-1, min_p=0.0, key=0) -> SamplingRow:
    return SamplingRow(temperature, top_p, top_k, min_p, key)


def draw(logits: torch.Tensor, count: int, **parameters) -> torch.Tensor:
    """Frequencies of each token over `count` draws with different keys."""
    rows = [row(key=noise_key(7, i), **parameters) for i in range(count)]
    batch = SamplingBatch.build(rows, len(logits), CPU)
    tokens = sample(logits.repeat(count, 1), batch)
    return torch.bincount(tokens, minlength=len(logits)) / count


def allowed(logits: torch.Tensor, temperature=1.0, top_p=1.0, top_k=-1, min_p=0.0) -> torch.Tensor:
    """Probabilities that the filters leave, one token at a time."""
    probabilities = (logits / temperature).softmax(0)
    order = probabilities.argsort(descending=True).tolist()
    kept, mass = [], 0.0
    for rank, token in enumerate(order):
        p = float(probabilities[token])
        if mass >= top_p or (top_k > 0 and rank >= top_k) or p < min_p * float(probabilities.max()):
            break
        kept.append(token)
        mass += p
    result = torch.zeros_like(probabilities)
    result[kept] = probabilities[kept]
    return result / result.sum()


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_k": 1},
        {"top_p": 0.7},
        {"top_p": 0.05},
        {"min_p": 0.2},
        {"top_k": 8, "top_p": 0.8, "min_p": 0.02},
        {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
    ],
)
def test_tokens_come_as_often_as_their_probability_says(parameters):
    logits = torch.randn(40, generator=torch.Generator().manual_seed(1)) * 2
    expected = allowed(logits, **parameters)
    count = 20_000
    seen = draw(logits, count, **parameters)
    assert (seen[expected == 0] == 0).all()
    kept = expected > 0
    chi_square = (count * (seen - expected)[kept] ** 2 / expected[kept]).sum()
    assert float(chi_square) < 3 * int(kept.sum()) + 15


def test_top_p_looks_at_the_whole_vocabulary_when_it_must():
    vocab = 5000
    rows = [row(top_p=0.9, key=noise_key(1, i)) for i in range(300)]
    tokens = sample(torch.zeros(300, vocab), SamplingBatch.build(rows, vocab, CPU))
    assert len(tokens.unique()) > 250
    peaked = torch.zeros(300, vocab)
    peaked[:, 17] = 20.0
    assert (sample(peaked, SamplingBatch.build(rows, vocab, CPU)) == 17).all()


def test_top_k_beyond_the_candidates_is_exact():
    vocab, top_k = 3000, 1500
    logits = torch.linspace(0, 0.001, vocab).repeat(4000, 1)
    rows = [row(top_k=top_k, key=noise_key(2, i)) for i in range(4000)]
    tokens = sample(logits, SamplingBatch.build(rows, vocab, CPU))
    assert int(tokens.min()) >= vocab - top_k
    assert int(tokens.min()) < vocab - top_k + 50


def test_rows_of_one_batch_do_not_disturb_each_other():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 500, generator=generator)
    rows = [
        row(temperature=0.0),
        row(top_k=5, key=11),
        row(top_p=0.5, key=12),
        row(min_p=0.3, key=13),
        row(key=14),
        row(temperature=0.3, top_k=2000, top_p=0.99, key=15),
    ]
    together = sample(logits.clone(), SamplingBatch.build(rows, 500, CPU))
    for i, one in enumerate(rows):
        alone = sample(logits[i : i + 1].clone(), SamplingBatch.build([one], 500, CPU))
        assert int(alone[0]) == int(together[i])
    assert int(together[0]) == int(logits[0].argmax())


def test_greedy_batches_need_no_tensors():
    assert SamplingBatch.build([row(temperature=0.0)] * 3, 10, CPU) is None
    logits = torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    assert sample(logits, None).tolist() == logits.argmax(-1).tolist()


def test_keys_depend_on_seed_and_position_and_noise_on_keys():
    keys = {noise_key(seed, position) for seed in range(-5, 50) for position in range(50)}
    assert len(keys) == 55 * 50
    assert all(0 <= key < 2**63 for key in keys)
    noise = gumbel_noise(torch.tensor(sorted(keys)[:200]), 1000)
    assert torch.isfinite(noise).all()
    assert abs(float(noise.mean()) - 0.5772) < 0.01
    assert abs(float(noise.var()) - 1.6449) < 0.03
    correlation = torch.corrcoef(noise[:50])
    assert float((correlation - torch.eye(50)).abs().max()) < 0.15
