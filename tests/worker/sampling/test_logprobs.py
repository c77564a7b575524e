"""Log-probabilities of tokens, the likeliest and named ones, slice by slice."""

from __future__ import annotations

import pytest
import torch

from worker.sampling.logprobs import score, slice_rows

VOCAB = 50


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(7,), (1, 2, 4), (3, 0, 4)])
def test_they_are_of_float32_and_do_not_depend_on_the_slices(dtype, sizes):
    logits = (torch.randn(7, VOCAB, generator=torch.Generator().manual_seed(1)) * 9).to(dtype)
    before, chosen, named = logits.clone(), tokens(7), tokens(7, 3).int()
    found = score(logits.split(sizes), chosen, named, top=5)
    expected = logits.double().log_softmax(dim=-1)
    exact = {"atol": 1e-5, "rtol": 0, "check_dtype": False}
    torch.testing.assert_close(found.chosen, expected.gather(1, chosen[:, None])[:, 0], **exact)
    torch.testing.assert_close(found.wanted, expected.gather(1, named.long()), **exact)
    torch.testing.assert_close(found.top, expected.topk(5).values, **exact)
    torch.testing.assert_close(found.top, expected.gather(1, found.top_tokens), **exact)
    assert {values.dtype for values in (found.chosen, found.top, found.wanted)} == {torch.float32}
    assert torch.equal(logits, before)


def test_equal_ones_stand_by_their_ids():
    logits = torch.zeros(1, VOCAB)
    logits[0, [40, 3, 20]] = 2.0
    logits[0, [30, 10]] = 1.0
    found = score([logits], tokens(1), tokens(1, 0), top=5)
    assert found.top_tokens.tolist() == [[3, 20, 40, 10, 30]]


def test_a_forbidden_token_has_none_and_no_list_is_longer_than_the_vocabulary():
    logits = torch.zeros(1, VOCAB)
    logits[0, 4] = -torch.inf
    found = score([logits], torch.tensor([4]), torch.empty(1, 0), top=VOCAB + 1)
    assert found.chosen.tolist() == [-torch.inf]
    assert found.top_tokens.shape == (1, VOCAB)
    assert found.top_tokens[0, -1] == 4
    assert found.wanted.shape == (1, 0)


def test_slices_are_of_bounded_memory():
    assert slice_rows(128_256) * 128_256 * 4 <= 128 << 20 < (slice_rows(128_256) + 1) * 128_256 * 4
    assert slice_rows(1 << 40) == 1
