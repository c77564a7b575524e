"""Tokens come with the probabilities that the filters leave, and seeds decide them."""

import pytest
import torch

from worker.sampling.noise import gumbel_noise, noise_keys
from worker.sampling.sampler import sample
from worker.sampling.table import Sampling

from .rows import draw_many, make_table, sample_rows

PUBLISHED_KEYS = [
    3952864364094478165,
    2113045494921382065,
    9112285854252934323,
    1718672148849895467,
]
PUBLISHED_NOISE = [3.144047, 0.413762, 0.647551]


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


FILTERS = [
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
]


@pytest.mark.parametrize("parameters", FILTERS)
def test_tokens_come_as_often_as_their_probability_says(parameters):
    logits = torch.randn(40, generator=torch.Generator().manual_seed(1)) * 2
    expected = allowed(logits, **parameters)
    count = 20_000
    seen = torch.bincount(draw_many(logits, count, **parameters), minlength=40) / count
    assert (seen[expected == 0] == 0).all()
    kept = expected > 0
    chi_square = (count * (seen - expected)[kept] ** 2 / expected[kept]).sum()
    assert float(chi_square) < 3 * int(kept.sum()) + 15


def test_top_p_looks_at_the_whole_vocabulary_when_it_must():
    logits = torch.zeros(5000)
    assert len(draw_many(logits, 300, top_p=0.9).unique()) > 250
    logits[17] = 20.0
    assert (draw_many(logits, 300, top_p=0.9) == 17).all()


@pytest.mark.parametrize("other", [{}, {"top_p": 0.5}])
def test_top_k_beyond_the_candidates_is_exact(other):
    vocab, top_k, count = 3000, 1500, 4000
    table = make_table([{"top_k": top_k}, other], vocab)
    logits = torch.linspace(0, 0.001, vocab).repeat(count + 1, 1)
    logits[-1, 0] = 50.0  # the other row's top-p is settled among the candidates
    tokens = sample_rows(logits, table, [0] * count + [1], [*range(count), 0])[:-1]
    assert vocab - top_k <= int(tokens.min()) < vocab - top_k + 50


def test_rows_of_one_batch_do_not_disturb_each_other():
    logits = torch.randn(6, 500, generator=torch.Generator().manual_seed(3))
    parameters = [
        {"temperature": 0.0},
        {"top_k": 5},
        {"top_p": 0.5},
        {"min_p": 0.3},
        {},
        {"temperature": 0.3, "top_k": 2000, "top_p": 0.99},
    ]
    table = make_table(parameters, 500)
    together = sample_rows(logits, table, list(range(6)), [4] * 6)
    for i in range(6):
        alone = sample_rows(logits[i : i + 1], table, [i], [4])
        assert int(alone[0]) == int(together[i])
    assert int(together[0]) == int(logits[0].argmax())


def test_logits_may_have_the_models_own_type():
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(4)).bfloat16()
    table = make_table([{"top_p": 0.9}], 300)
    rows, places = [0] * 50, list(range(50))
    half = sample_rows(logits, table, rows, places)
    assert torch.equal(half, sample_rows(logits.float(), table, rows, places))


def test_what_is_too_cool_to_divide_by_is_greedy():
    table = make_table([{"temperature": 1e-30, "top_p": 0.5}], 10)
    logits = torch.randn(1, 10, generator=torch.Generator().manual_seed(0))
    assert sample_rows(logits, table, [0], [0]).tolist() == logits.argmax(-1).tolist()


def test_the_likeliest_token_passes_any_filter_and_hot_is_finite():
    table = make_table([{"temperature": 1e60, "top_p": 1e-60, "min_p": 1.0}], 10)
    assert float(table.top_ps[0]) > 0
    assert float(table.min_ps[0]) < 1
    assert torch.isfinite(table.temperatures).all()


def test_a_forbidden_token_never_comes_however_hot():
    logits = torch.tensor([0.0, -torch.inf, 1.0])
    assert set(draw_many(logits, 50, temperature=1e60).tolist()) == {0, 2}


def test_the_next_tokens_of_a_batch_lie_at_its_rows():
    table = make_table([{"temperature": 0.0}] * 4, 8)
    rows, logits, next_tokens = torch.tensor([3, 1]), torch.eye(8)[[5, 6]], torch.full((4,), -1)
    sample(logits, rows, rows, table, Sampling.GREEDY, next_tokens)
    assert next_tokens.tolist() == [-1, 6, -1, 5]


def test_a_retracted_request_draws_what_it_would_have_drawn():
    # The place in the answer counts: not how long the prompt is, nor which row the request has.
    logits = torch.zeros(1, 1000)
    table = make_table([{"seed": 3, "prompt_len": 7}, {"seed": 3, "prompt_len": 100}], 1000)
    first = sample_rows(logits, table, [0], [20])
    assert torch.equal(first, sample_rows(logits, table, [1], [113]))
    assert not torch.equal(first, sample_rows(logits, table, [1], [114]))


def test_keys_and_noise_stay_as_they_were_published():
    # splitmix64 of seed and position: answers to a seed must not change with a version.
    seeds = torch.tensor([0, 1, -5, 2**63 - 1])
    keys = noise_keys(seeds, torch.tensor([0, 7, 3, 100_000]))
    assert keys.tolist() == PUBLISHED_KEYS
    noise = gumbel_noise(keys[:1], 3)[0].tolist()
    assert noise == pytest.approx(PUBLISHED_NOISE, abs=1e-6)


def test_keys_depend_on_seed_and_position_and_noise_on_keys():
    grid = torch.cartesian_prod(torch.arange(-5, 50), torch.arange(50))
    keys = noise_keys(grid[:, 0], grid[:, 1])
    assert len(keys.unique()) == 55 * 50
    assert bool((keys >= 0).all())
    noise = gumbel_noise(keys.sort().values[:200], 1000)
    assert torch.isfinite(noise).all()
    assert abs(float(noise.mean()) - 0.5772) < 0.01
    assert abs(float(noise.var()) - 1.6449) < 0.03
    correlation = torch.corrcoef(noise[:50])
    assert float((correlation - torch.eye(50)).abs().max()) < 0.15
