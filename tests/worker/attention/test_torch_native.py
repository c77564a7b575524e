"""The torch backend equals plain softmax attention, over any batch of decodes and prompt chunks."""

from dataclasses import replace

import pytest
import torch

from worker.attention.base import UnsupportedAttention
from worker.attention.torch_native import TorchNativeBackend, attend, attend_reference

from .scene import CASES, SLOTS, Scene, random_scene, spec


@pytest.mark.parametrize("window", [None, 1, 8, 64])
@pytest.mark.parametrize("case", CASES)
def test_equals_plain_attention(case, window):
    scene = Scene(spec(window=window), CASES[case])
    torch.testing.assert_close(scene.computed(), scene.expected(), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (8, 1), (9, 3)])
@pytest.mark.parametrize("head_dim", [8, 64, 80, 128])
def test_head_shapes(heads, kv_heads, head_dim):
    scene = Scene(spec(heads, kv_heads, head_dim), CASES["mixed"])
    torch.testing.assert_close(scene.computed(), scene.expected(), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_is_close(case):
    scene = Scene(spec(), CASES[case])
    torch.testing.assert_close(
        scene.computed(torch.bfloat16), scene.expected(), atol=0.03, rtol=0.03
    )


@pytest.mark.parametrize("seed", range(20))
def test_random_batches(seed):
    scene = random_scene(seed)
    torch.testing.assert_close(scene.computed(), scene.expected(), atol=3e-6, rtol=1e-5)


def test_what_lies_in_foreign_slots_does_not_matter():
    scene = Scene(spec(), CASES["decodes of very different lengths"])
    before = scene.computed()
    used = torch.cat(
        [scene.page_table[r, :n] for r, n in zip(scene.rows, scene.batch.seq_lens, strict=True)]
    )
    foreign = torch.ones(SLOTS + 1, dtype=torch.bool)
    foreign[used.to(torch.int64)] = False
    foreign[SLOTS] = False
    scene.k_cache[foreign] = 1e4
    scene.v_cache[foreign] = 1e4
    assert torch.equal(scene.computed(), before)


@pytest.mark.parametrize("causal", [True, False])
def test_the_fused_kernel_equals_the_reference_with_its_log_sum_exp(causal):
    q, k, v = torch.randn(3, 2, 3, 7, 16, generator=torch.Generator().manual_seed(0))
    fused, fused_lse = attend(q, k, v, scale=0.25, causal=causal)
    plain, plain_lse = attend_reference(q, k, v, scale=0.25, causal=causal)
    torch.testing.assert_close(fused, plain)
    torch.testing.assert_close(fused_lse, plain_lse)


@pytest.mark.parametrize("what", [{"sinks": torch.zeros(6)}, {"logit_soft_cap": 30.0}], ids=str)
def test_what_it_does_not_compute_is_refused(what):
    cache = [torch.zeros(9, 2, 16)]
    with pytest.raises(UnsupportedAttention, match="sinks nor a soft cap"):
        TorchNativeBackend(cache, cache).prepare([replace(spec(), **what)], torch.float32)
