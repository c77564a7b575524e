"""What the backend tells FlashInfer makes plain attention; FlashInfer itself is played in torch."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worker.attention.base import AttentionSpec, UnsupportedAttention, forward_context
from worker.attention.registry import ATTENTION_BACKENDS
from worker.kernels.attention_reference import softmax_attention

from .scene import CASES, SLOTS, Scene, random_scene, spec

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="its scenes lie in the CPU's memory"
)


class Wrapper:
    """Pages of one token; each sequence's queries are its last tokens."""

    def __init__(self, workspace, layout, **options):
        assert (workspace.dtype, layout) == (torch.uint8, "NHD")
        self.options, self.plans = options, 0

    def reset_workspace_buffer(self, workspace, plan_memory):
        self.plan_memory = plan_memory

    def remember(self, query_starts, starts, indices, last_page, shape, options):
        assert starts.dtype == torch.int32
        assert starts.device.type == "cpu"
        assert last_page.tolist() == [1] * (len(starts) - 1)
        self.query_starts, self.starts = query_starts.tolist(), starts.tolist()
        self.indices, self.shape, self.planned = indices.long(), shape, options
        self.plans += 1

    def run(self, q, pages):
        heads, kv_heads, head_dim, page_size = self.shape
        k, v = (cache[:, 0] for cache in pages)
        assert (q.shape[1:], k.shape[1:]) == ((heads, head_dim), (kv_heads, head_dim))
        assert page_size == pages[0].shape[1] == 1
        assert (q.dtype, k.dtype) == (self.planned["q_data_type"], self.planned["kv_data_type"])
        window_left = self.planned.get("window_left", -1)
        parts = []
        for s in range(len(self.starts) - 1):
            slots = self.indices[self.starts[s] : self.starts[s + 1]]
            queries = q[self.query_starts[s] : self.query_starts[s + 1]]
            out = softmax_attention(
                queries,
                k[slots].to(q.dtype),
                v[slots].to(q.dtype),
                scale=self.planned["sm_scale"],
                sliding_window=None if window_left < 0 else window_left + 1,
                logit_soft_cap=self.planned["logits_soft_cap"],
            )
            parts.append(out)
        return torch.cat(parts).to(q.dtype)


class Prefill(Wrapper):
    def plan(self, query_starts, starts, indices, last_page, *shape, causal, **options):
        assert causal
        self.remember(query_starts, starts, indices, last_page, shape, options)


class Decode(Wrapper):
    def plan(self, starts, indices, last_page, *shape, **options):
        assert self.options["use_cuda_graph"]
        assert indices.data_ptr() == self.options["paged_kv_indices_buffer"].data_ptr()
        assert len(indices) <= len(self.options["paged_kv_indices_buffer"])
        queries = torch.arange(len(starts))
        self.remember(queries, starts, indices, last_page, shape, options)


@pytest.fixture(autouse=True)
def backend(monkeypatch):
    """The backend's factory, with FlashInfer replaced."""
    fake = SimpleNamespace(
        BatchPrefillWithPagedKVCacheWrapper=Prefill, BatchDecodeWithPagedKVCacheWrapper=Decode
    )
    monkeypatch.setitem(sys.modules, "flashinfer", fake)
    monkeypatch.setattr("worker.attention.flashinfer._WORKSPACE_BYTES", 64)
    return ATTENTION_BACKENDS["flashinfer"]()


def check(scene: Scene, backend, dtype=torch.float32) -> None:
    out = scene.computed(dtype, backend_type=backend)
    torch.testing.assert_close(out, scene.expected(), atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("case", CASES)
def test_equals_plain_attention(backend, case, window):
    check(Scene(spec(window=window), CASES[case]), backend)


@pytest.mark.parametrize("seed", range(5))
def test_random_batches(backend, seed):
    check(random_scene(seed), backend)


class Captured:
    """A batch of decodes with tensors of its own, padded, as a CUDA graph has it."""

    def __init__(self, backend, scene: Scene, size: int, specs: list[AttentionSpec]) -> None:
        self.caches = [scene.k_cache.clone()] * len(specs), [scene.v_cache.clone()] * len(specs)
        self.backend = backend(*self.caches)
        self.backend.prepare(specs, torch.float32)
        spare = torch.full((1, scene.page_table.shape[1]), SLOTS, dtype=torch.int32)
        ones = np.ones(size, dtype=np.int32)
        self.batch = replace(
            scene.batch,
            rows=torch.full((size,), len(scene.page_table)),
            page_table=torch.cat([scene.page_table, spare]),
            seq_lens_device=torch.ones(size, dtype=torch.int32),
            plan=torch.zeros(self.backend.plan_size(size), dtype=torch.int32),
            seq_lens=ones,
            query_lens=ones,
            num_decodes=size,
            captured=True,
        )

    def replay(self, rows: torch.Tensor, seq_lens: np.ndarray) -> None:
        size, count = len(self.batch.rows), len(rows)
        self.batch.rows.fill_(len(self.batch.page_table) - 1)
        self.batch.rows[:count] = rows
        self.batch.seq_lens_device.fill_(1)
        self.batch.seq_lens_device[:count] = torch.from_numpy(seq_lens)
        planned = self.backend.plan_host(seq_lens, np.ones_like(seq_lens), count, padded=size)
        self.batch.plan.copy_(torch.from_numpy(planned.words))
        self.backend.plan(self.batch)

    def attend(self, q: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
        padded = torch.zeros(len(self.batch.rows), *q.shape[1:])
        padded[: len(q)] = q
        with forward_context(self.backend, self.batch):
            return self.backend.attend(padded, padded, padded, spec)[: len(q)]


def test_a_graph_s_wrapper_is_planned_anew_in_its_own_memory(backend):
    scene = Scene(spec(), [(20, 1), (300, 1), (5, 1)])
    k = torch.cat([k[-1:] for k in scene.k])
    v = torch.cat([v[-1:] for v in scene.v])
    scene.k_cache[scene.batch.out_slots], scene.v_cache[scene.batch.out_slots] = k, v
    specs = [scene.spec, replace(scene.spec, layer_id=1, sliding_window=16)]
    captured = Captured(backend, scene, 8, specs)
    nothing = np.empty(0, dtype=np.int32)
    captured.replay(torch.empty(0, dtype=torch.int64), nothing)  # as at the capture
    wrappers = dict(captured.backend._planned)
    captured.replay(scene.rows, scene.batch.seq_lens)
    assert captured.backend._planned == wrappers
    assert all(type(w) is Decode and w.plans == 2 for w in wrappers.values())
    torch.testing.assert_close(captured.attend(scene.q, scene.spec), scene.expected())
    scene.spec = specs[1]
    torch.testing.assert_close(captured.attend(scene.q, specs[1]), scene.expected())


@pytest.mark.parametrize(("heads", "on_tensor_cores"), [(2, False), (6, False), (8, True)])
def test_grouped_queries_are_decoded_on_tensor_cores(backend, heads, on_tensor_cores):
    scene = Scene(spec(heads=heads), [(3, 1)])
    captured = Captured(backend, scene, 1, [scene.spec])
    captured.replay(scene.rows, scene.batch.seq_lens)
    (wrapper,) = captured.backend._planned.values()
    assert wrapper.options["use_tensor_cores"] == on_tensor_cores


def test_layers_that_agree_share_a_plan(backend):
    cache = [torch.zeros(9, 2, 16)] * 4
    flashinfer = backend(cache, cache)
    windows = [None, 8, None, 8]
    specs = [replace(spec(window=w), layer_id=i) for i, w in enumerate(windows)]
    flashinfer.prepare(specs, torch.float32)
    assert len(flashinfer._chunks) == 2
    lengths = np.array([20, 3], dtype=np.int32)
    starts = flashinfer.plan_host(lengths, np.ones_like(lengths), 2, padded=4).words
    assert starts.tolist() == [0, 20, 23, 24, 25, 0, 8, 11, 12, 13]
    assert len(starts) == flashinfer.plan_size(4)


def test_fa3_is_asked_for_by_name():
    cache = [torch.zeros(9, 2, 16)]
    fa3 = ATTENTION_BACKENDS["flashinfer_fa3"]()
    backend = fa3(cache, cache)
    backend.prepare([spec()], torch.float32)
    assert [w.options["backend"] for w in backend._chunks.values()] == ["fa3"]
    narrow = [cache[0].to(torch.float8_e4m3fn)]
    with pytest.raises(UnsupportedAttention, match="FA3 reads no torch.float8_e4m3fn"):
        fa3(narrow, narrow).prepare([spec()], torch.float32)


def test_sinks_are_refused(backend):
    cache = [torch.zeros(9, 2, 16)]
    with pytest.raises(UnsupportedAttention, match="sinks"):
        backend(cache, cache).prepare([replace(spec(), sinks=torch.zeros(6))], torch.float32)


def test_without_the_package_the_error_says_what_to_install(backend, monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    with pytest.raises(UnsupportedAttention, match=r"radixfleet\[gpu\]"):
        backend([torch.zeros(9, 2, 16)], [torch.zeros(9, 2, 16)])
