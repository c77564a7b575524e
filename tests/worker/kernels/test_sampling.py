"""The kernels draw the very tokens that the CPU's sampler draws."""

import pytest
import torch

from worker.kernels.sampling import draw

from ..sampling.rows import make_table, sample_rows

ROWS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.3},
    {"top_k": 1},
    {"top_k": 3},
    {"top_k": 10_000},
    {"top_p": 0.5, "temperature": 0.7},
    {"top_p": 0.999},
    {"top_p": 1e-6},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 50, "top_p": 0.9, "min_p": 0.01, "temperature": 1.5},
    {"temperature": 1e60, "top_p": 1e-60},
    {"temperature": 1e60, "min_p": 1 - 1e-9},
    {"seed": -(2**63), "prompt_len": 2},
]


def compare(device, logits, parameters, seq_lens, *, random=True, filtered=True) -> torch.Tensor:
    """Tokens of the kernels for rows 0, 1, ..., equal to the CPU's."""
    rows = list(range(len(logits)))
    expected = sample_rows(logits, make_table(parameters, logits.shape[1]), rows, seq_lens)
    before = logits.clone()
    next_tokens = torch.full((len(parameters),), -1, dtype=torch.int32, device=device)
    tokens = draw(
        logits.to(device),
        torch.tensor(rows, dtype=torch.int32, device=device),
        torch.tensor(seq_lens, dtype=torch.int32, device=device),
        make_table(parameters, logits.shape[1], device),
        random=random,
        filtered=filtered,
        next_tokens=next_tokens,
    )
    assert next_tokens.tolist() == tokens.tolist() + [-1] * (len(parameters) - len(logits))
    assert torch.equal(logits, before)
    assert tokens.tolist() == expected.tolist()
    return tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1, 7, 1024, 2500])
def test_rows_of_every_kind_in_one_batch(device, vocab, dtype) -> None:
    generator = torch.Generator().manual_seed(vocab)
    for length in (2, 3):
        logits = (torch.randn(len(ROWS), vocab, generator=generator) * 3).to(dtype)
        compare(device, logits, ROWS, [length] * len(ROWS))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_temperature_alone(device, count) -> None:
    logits = torch.randn(count, 3000, generator=torch.Generator().manual_seed(1))
    parameters = [{"temperature": 0.8}, {"temperature": 0.0}, {}]
    compare(device, logits, parameters, list(range(count)), filtered=False)


def test_greedy_takes_the_first_of_equals(device) -> None:
    logits = torch.zeros(2, 2100)
    logits[1, [1500, 40, 2099]] = 1.0
    tokens = compare(device, logits, [{"temperature": 0.0}] * 2, [0, 0], random=False)
    assert tokens.tolist() == [0, 40]


def test_equal_logits_stay_together_at_the_limit(device) -> None:
    logits = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.0]).repeat(40, 1)
    tokens = compare(device, logits, [{"top_k": 2, "temperature": 3.0}] * 40, [5] * 40)
    assert set(tokens.tolist()) == {0, 1, 2, 3}


def test_a_flat_distribution_is_narrowed_down_in_many_rounds(device) -> None:
    logits = torch.randperm(5000, generator=torch.Generator().manual_seed(2)) / 1e5
    limits = [{"top_k": 2}, {"top_k": 30}, {"top_p": 0.001}, {"min_p": 0.9999}]
    compare(device, logits.repeat(4, 1), limits, [9] * 4)


def test_logits_that_are_forbidden_never_come(device) -> None:
    logits = torch.full((30, 1500), -torch.inf)
    logits[:, [3, 1200]] = torch.tensor([0.0, 0.5])
    tokens = compare(device, logits, [{"temperature": 2.0}] * 30, [1] * 30)
    assert set(tokens.tolist()) == {3, 1200}


def test_the_largest_noise_is_as_exact_as_the_smallest(device) -> None:
    # Over so many draws some u lies closer to 1 than float32 can say: the winner must not change.
    logits = torch.zeros(8, 30_000)
    compare(device, logits, [{}] * 8, list(range(100, 108)), filtered=False)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # from the interpreter's numpy
@pytest.mark.parametrize("number", [torch.nan, -torch.inf, torch.inf])
def test_what_no_sound_model_computes_still_ends_in_a_token(device, number) -> None:
    logits = torch.zeros(len(ROWS), 1500, device=device)
    logits[:, 700:] = number
    rows = torch.arange(len(ROWS), device=device)
    for broken in (logits, torch.full_like(logits, number)):
        table = make_table(ROWS, 1500, device)
        tokens = draw(broken, rows, rows + 2, table, random=True, filtered=True)
        assert all(0 <= token < 1500 for token in tokens.tolist())
