"""The Triton backend equals plain softmax attention, over any batch of decodes and chunks."""

import numpy as np
import pytest
import torch

from worker.attention import fresh_prefill
from worker.attention.base import UnsupportedAttention
from worker.kernels.attention_reference import softmax_attention

from ..triton_interpreter import allow_loop_bounds
from .scene import CASES, Scene, random_scene, spec

allow_loop_bounds()

from worker.attention.triton import TritonBackend  # noqa: E402 - there may be no Triton

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="its scenes lie in the CPU's memory; tests/gpu has others"
)


def check(scene: Scene) -> None:
    out = scene.computed(backend_type=TritonBackend)
    torch.testing.assert_close(out, scene.expected(), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("case", CASES)
def test_equals_plain_attention(case, window):
    check(Scene(spec(window=window), CASES[case]))


@pytest.mark.parametrize("seed", range(10))
def test_random_batches(seed):
    check(random_scene(seed))


def test_long_chunks_without_a_prefix_go_to_the_dense_kernel_where_it_is_usable(monkeypatch):
    attended = []

    def attend_group(q, k, v, out, group, scale):
        attended.append(group)
        span = slice(group.start, group.start + group.tokens)
        out[span] = softmax_attention(q[span], k[span], v[span], scale=scale)

    monkeypatch.setattr(fresh_prefill, "MIN_TOKENS", 10)
    monkeypatch.setattr(fresh_prefill, "MIN_GROUP_TOKENS", 11)
    monkeypatch.setattr(fresh_prefill, "attend_group", attend_group)
    scene = Scene(spec(), [(3, 1), (0, 12), (25, 16), (0, 9), (0, 11)])
    check(scene)
    assert not attended
    monkeypatch.setattr(fresh_prefill, "usable", lambda spec, dtype, device: True)
    check(scene)
    assert attended == [fresh_prefill.Group(1, 12, 1), fresh_prefill.Group(38, 11, 1)]


@pytest.mark.parametrize("decodes", [0, 1, 5, 8])
def test_the_plan_of_a_padded_batch_has_the_size_that_graphs_were_promised(decodes):
    cache = [torch.zeros(9, 2, 16)]
    backend = TritonBackend(cache, cache)
    lengths = np.full(decodes, 3000, dtype=np.int32)
    plan = backend.plan_host(lengths, np.ones_like(lengths), decodes, padded=8)
    assert plan is not None
    assert len(plan.words) == backend.plan_size(8)


def test_heads_that_the_copy_engine_cannot_read_are_refused():
    cache = [torch.zeros(9, 2, 20)]
    backend = TritonBackend(cache, cache)
    backend.prepare([spec(head_dim=20)], torch.float32)
    with pytest.raises(UnsupportedAttention, match="heads of size 20; use torch_native"):
        backend.prepare([spec(head_dim=20)], torch.bfloat16)
