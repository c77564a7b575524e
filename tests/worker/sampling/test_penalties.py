"""Penalties, bias and least length against their formulas, through growth and reuse of slots."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worker.sampling.penalties import Penalties, PenaltyTable
from worker.sampling.table import Sampling, SamplingRow

from .rows import CPU, make_table, sample_rows

VOCAB = 12


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def apply(wanted: Penalties, logits: torch.Tensor, place: int | None = None) -> torch.Tensor:
    table = PenaltyTable(VOCAB, CPU)
    slots = torch.tensor([table.assign(0, wanted)])
    places = torch.tensor([len(wanted.output) if place is None else place])
    return table.apply(logits[None], slots, places)[0]


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.linspace(-3, 3, VOCAB)


def test_frequency_counts_and_presence_does_not(logits):
    text = (ids(0, 1, 1), ids(1, 2, 2, 2))
    expected = logits.clone()
    expected[1] -= 0.5
    expected[2] -= 1.5
    torch.testing.assert_close(apply(Penalties(*text, frequency=0.5), logits), expected)
    expected = logits.clone()
    expected[[1, 2]] += 0.25
    torch.testing.assert_close(apply(Penalties(*text, presence=-0.25), logits), expected)


def test_repetition_looks_at_the_prompt_too_and_at_signs(logits):
    expected = logits.clone()
    expected[[0, 1]] *= 2.0  # below zero
    expected[10] /= 2.0
    changed = apply(Penalties(ids(0, 10), ids(1), repetition=2.0), logits)
    torch.testing.assert_close(changed, expected)


def test_the_smallest_repetition_penalty_keeps_numbers_finite(logits):
    logits[3] = 0.0
    changed = apply(Penalties(ids(0, 3, 10), ids(), repetition=1e-300), logits)
    assert changed.isfinite().all()
    assert changed.argmax() == 10


def test_bias_is_added_for_ever_and_stops_are_forbidden_for_a_while(logits):
    wanted = Penalties(ids(3), ids(), bias=((4, 5.0), (5, -100.0)), min_new_tokens=2, stops=(7, 8))
    expected = logits.clone()
    expected[4] += 5
    expected[5] -= 100
    torch.testing.assert_close(apply(wanted, logits, place=2), expected)
    expected[[7, 8]] = -torch.inf
    for place in (0, 1):
        torch.testing.assert_close(apply(wanted, logits, place=place), expected)


def test_tables_grow_and_slots_are_used_again(logits):
    table = PenaltyTable(VOCAB, CPU)
    wanted = [
        Penalties(ids(i), ids(i, i), frequency=0.1 * i, bias=((1, float(i)),) * i) for i in range(6)
    ]
    slots = [table.assign(0, each) for each in wanted]
    assert len(set(slots)) == 6
    assert 0 not in slots

    def check(slot: int, each: Penalties) -> None:
        changed = table.apply(logits[None], torch.tensor([slot]), torch.tensor([2]))[0]
        torch.testing.assert_close(changed, apply(each, logits))

    for slot, each in zip(slots, wanted, strict=True):
        check(slot, each)
    assert table.assign(slots[2], None) == 0
    assert table.assign(slots[3], wanted[1]) == slots[3]
    assert table.assign(0, wanted[4]) == slots[2]
    check(slots[3], wanted[1])
    check(slots[2], wanted[4])
    torch.testing.assert_close(
        table.apply(logits[None], torch.tensor([0]), torch.tensor([0]))[0], logits
    )


def test_sampled_tokens_are_counted_where_they_were_sampled():
    wanted = Penalties(ids(5), ids(), frequency=1.0, presence=0.5)
    greedy = {"temperature": 0.0}
    table = make_table([{**greedy, "penalties": wanted}, greedy], VOCAB)
    logits = torch.zeros(2, VOCAB)
    logits[:, 3], logits[:, 9], logits[:, 11] = 4.0, 3.0, 2.0
    answer = [sample_rows(logits, table, [0, 1], [1 + i, 1 + i]).tolist() for i in range(6)]
    # Token 3 goes from 4 to 2.5 to 1.5, 9 from 3 to 1.5, 11 from 2 to 0.5; the lower one of equals.
    assert [tokens[0] for tokens in answer] == [3, 9, 3, 11, 3, 9]
    assert [tokens[1] for tokens in answer] == [3] * 6


def test_only_steps_that_need_them_pay_for_them():
    wanted = Penalties(ids(5), ids(), presence=0.5)
    table = make_table([{"penalties": wanted}, {"top_k": 2}, {"temperature": 0.0}], VOCAB)
    assert table.flags(np.array([1, 2])) == Sampling.RANDOM | Sampling.TOP_K | Sampling.GREEDY
    assert table.flags(np.array([0])) == Sampling.RANDOM | Sampling.PENALTIES
    assert table.flags(np.array([2])) == Sampling.GREEDY


def test_a_new_request_takes_a_row_over():
    wanted = Penalties(ids(5), ids(), bias=((4, 100.0),))
    table = make_table([{"penalties": wanted}, {}], VOCAB)
    logits = torch.zeros(1, VOCAB)
    assert sample_rows(logits, table, [0], [1]).tolist() == [4]
    table.set_rows([SamplingRow(row=0, prompt_len=1, seed=0, temperature=0.0)])
    assert table.flags(np.array([0])) == Sampling.GREEDY
    assert sample_rows(logits, table, [0], [1]).tolist() == [0]
