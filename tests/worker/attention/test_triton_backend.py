"""The Triton backend equals plain softmax attention, over any batch of decodes and chunks."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from worker.attention import fresh_prefill
from worker.attention.base import AttentionSpec, UnsupportedAttention
from worker.kernels.attention_reference import softmax_attention

from ..triton_interpreter import allow_loop_bounds
from .scene import CASES, Scene, random_scene, spec

allow_loop_bounds()

from worker.attention import triton as triton_backend  # noqa: E402 - there may be no Triton
from worker.attention.triton import TritonBackend  # noqa: E402
from worker.kernels.decode_attention import (  # noqa: E402
    DecodeWorkspace,
    max_partials,
    split_target,
)
from worker.kernels.prefix_attention import prefix_attention  # noqa: E402

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="its scenes lie in the CPU's memory; tests/gpu has others"
)


def check(scene: Scene) -> None:
    out = scene.computed(backend_type=TritonBackend)
    torch.testing.assert_close(out, scene.expected(), atol=3e-6, rtol=1e-5)


def backend_for(shape: AttentionSpec) -> TritonBackend:
    cache = [torch.zeros(9, shape.num_kv_heads, shape.head_dim)]
    backend = TritonBackend(cache, cache)
    backend.prepare([shape], torch.float32)
    return backend


def without_sharing(scene: Scene) -> Scene:
    alone = copy.copy(scene)
    alone.batch = replace(scene.batch, shared_lens=None)
    return alone


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("case", CASES)
def test_equals_plain_attention(case, window):
    check(Scene(spec(window=window), CASES[case]))


@pytest.mark.parametrize("seed", range(10))
def test_random_batches(seed):
    check(random_scene(seed))


SHARED = {  # tokens cached before of each sequence, and how many of them it shares
    "one group": ([90, 100, 95, 300], [0, 80, 80, 80]),
    "groups and a stranger": ([70, 100, 50, 200, 180], [0, 70, 0, 0, 170]),
    "nodes within a node": ([150, 260, 250, 200, 220, 110], [0, 100, 240, 100, 180, 70]),
    "more than a tile": ([100 + i for i in range(40)], [0, *[99 for _ in range(39)]]),
}


@pytest.fixture
def every_span_pays(monkeypatch):
    monkeypatch.setattr(triton_backend, "_LAUNCH_BYTES", 0)


@pytest.fixture
def launched(monkeypatch):
    """Grows by one with each launch of the prefix kernel."""
    launched = []
    monkeypatch.setattr(
        triton_backend,
        "prefix_attention",
        lambda *args, **options: launched.append(prefix_attention(*args, **options)),
    )
    return launched


@pytest.mark.parametrize("heads", [(6, 2), (3, 3), (8, 1)])
@pytest.mark.parametrize("window", [None, 60])
@pytest.mark.parametrize("case", SHARED)
def test_shared_prefixes_are_read_once(case, window, heads, every_span_pays, launched):
    before, shared_lens = SHARED[case]
    lengths = [(tokens, 1) for tokens in before]
    scene = Scene(spec(*heads, window=window), lengths, shared_lens=shared_lens)
    check(scene)
    assert len(launched) == 1
    check(without_sharing(scene))
    assert len(launched) == 1


@pytest.mark.parametrize("window", [None, 60])
@pytest.mark.parametrize("decodes", [0, 2])
@pytest.mark.parametrize("case", SHARED)
def test_chunks_after_a_shared_prefix_read_it_once(
    case, decodes, window, every_span_pays, launched
):
    before, shared_lens = SHARED[case]
    lengths = [(tokens, 1 + 2 * (i % 3)) for i, tokens in enumerate(before)]
    scene = Scene(
        spec(window=window),
        [(90, 1)] * decodes + lengths,
        shared_lens=[0, 80][:decodes] + shared_lens,
    )
    scene.batch = replace(scene.batch, num_decodes=decodes)
    check(scene)
    assert len(launched) == 1 + (decodes > 0)


@pytest.mark.parametrize("seed", range(12))
def test_random_trees(seed, every_span_pays, launched):
    rng = random.Random(seed)
    before, shared_lens = [rng.randint(0, 300)], [0]
    for _ in range(rng.randint(8, 30)):
        before.append(rng.randint(0, 300))
        shared_lens.append(rng.choice([0, 64, 100, 200, before[-1]]))
        shared_lens[-1] = min(shared_lens[-1], before[-1], before[-2])
    sinks = torch.randn(6) if seed % 3 == 0 else None
    cap = 3.0 if seed % 3 == 1 else None
    shape = replace(spec(window=rng.choice([None, 50])), sinks=sinks, logit_soft_cap=cap)
    scene = Scene(shape, [(tokens, 1) for tokens in before], seed, shared_lens)
    shared, alone = (
        each.computed(backend_type=TritonBackend) for each in (scene, without_sharing(scene))
    )
    assert len(launched) == 1
    torch.testing.assert_close(shared, alone, atol=3e-6, rtol=1e-5)


def test_room_for_shared_prefixes_is_taken_only_where_a_step_shares_some(
    monkeypatch, every_span_pays
):
    allocate, sizes = DecodeWorkspace.allocate, []

    def observed(*args):
        workspace = allocate(*args)
        sizes.append(len(workspace.outs))
        return workspace

    monkeypatch.setattr(DecodeWorkspace, "allocate", observed)
    before, shared_lens = SHARED["one group"]
    scene = Scene(spec(), [(tokens, 1) for tokens in before], shared_lens=shared_lens)
    check(without_sharing(scene))
    assert sizes == [max_partials(split_target(8, 2))]
    check(scene)
    assert sizes[1:] == [sizes[0] + 8192]


def test_the_plan_of_a_padded_batch_that_shares_has_the_promised_size_too(every_span_pays):
    backend = backend_for(spec())
    lengths = np.full(5, 3000, dtype=np.int32)
    shared_lens = np.array([0, 2900, 2900, 0, 2000], dtype=np.int32)
    plan = backend.plan_host(lengths, np.ones_like(lengths), 5, padded=8, shared_lens=shared_lens)
    assert plan is not None
    assert plan.shares_prefixes
    assert len(plan.words) == backend.plan_size(8, shares_prefixes=True)
    assert backend.keys_read(plan, lengths, padded=8) == lengths.sum() - shared_lens.sum()
    assert backend.plan_size(8, shares_prefixes=True) > backend.plan_size(8)


def test_a_little_that_is_shared_is_not_worth_a_launch():
    backend = backend_for(spec())
    lengths = np.full(4, 300, dtype=np.int32)
    shared_lens = np.array([0, 200, 200, 200], dtype=np.int32)
    plan = backend.plan_host(lengths, np.ones_like(lengths), 4, padded=4, shared_lens=shared_lens)
    assert plan is not None
    assert not plan.shares_prefixes
    assert len(plan.words) == backend.plan_size(4)
    assert backend.keys_read(plan, lengths, padded=4) == lengths.sum()


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
