"""One step over a paged cache: what an attention backend computes, and plain softmax attention."""

import itertools
import random
from dataclasses import replace

import numpy as np
import torch

from worker.attention.base import AttentionBackend, AttentionSpec, forward_context
from worker.attention.batch import ForwardBatch
from worker.attention.torch_native import TorchNativeBackend

SLOTS = 6000


class Scene:
    """Sequences of random tokens, each with a history in the cache and some new tokens."""

    def __init__(
        self,
        spec: AttentionSpec,
        lengths: list[tuple[int, int]],
        seed: int = 0,
        shared_lens: list[int] | None = None,
    ) -> None:
        """`lengths`: (tokens cached before, new tokens) of each sequence; decodes come first.

        shared_lens: how many of its first tokens each sequence has in common with the one before
        """
        generator = torch.Generator().manual_seed(seed)
        self.spec = spec
        self.lengths = lengths
        total = max(before + new for before, new in lengths)
        kv_shape = (SLOTS + 1, spec.num_kv_heads, spec.head_dim)
        self.k_cache, self.v_cache = torch.zeros(kv_shape), torch.zeros(kv_shape)
        free = torch.randperm(SLOTS, generator=generator).tolist()
        self.page_table = torch.zeros((len(lengths) + 3, total + 5), dtype=torch.int32)
        self.rows = torch.tensor(random.Random(seed).sample(range(len(lengths) + 3), len(lengths)))
        self.k, self.v, out_slots = [], [], []
        slots = torch.empty(0, dtype=torch.int64)
        for row, (before, new), shared in zip(
            self.rows.tolist(), lengths, shared_lens or [0] * len(lengths), strict=True
        ):
            own = [free.pop() for _ in range(before + new - shared)]
            slots = torch.cat([slots[:shared], torch.tensor(own)])
            self.page_table[row, : before + new] = slots.to(torch.int32)
            k, v = torch.randn(2, before + new, *kv_shape[1:], generator=generator)
            if shared:
                k[:shared], v[:shared] = self.k[-1][:shared], self.v[-1][:shared]
            self.k_cache[slots[:before]], self.v_cache[slots[:before]] = k[:before], v[:before]
            self.k.append(k)
            self.v.append(v)
            out_slots.append(slots[before:])
        tokens = sum(new for _, new in lengths)
        self.q = torch.randn(tokens, spec.num_heads, spec.head_dim, generator=generator)
        decodes = 0
        while decodes < len(lengths) and lengths[decodes][1] == 1:
            decodes += 1
        self.batch = ForwardBatch(
            input_ids=torch.zeros(tokens, dtype=torch.int64),
            positions=torch.cat([torch.arange(before, before + new) for before, new in lengths]),
            out_slots=torch.cat(out_slots),
            rows=self.rows,
            page_table=self.page_table,
            seq_lens_device=torch.tensor([before + new for before, new in lengths]),
            query_starts=torch.tensor([0, *itertools.accumulate(new for _, new in lengths)]),
            seq_lens=np.array([before + new for before, new in lengths], dtype=np.int32),
            query_lens=np.array([new for _, new in lengths], dtype=np.int32),
            num_decodes=decodes,
            shared_lens=None if shared_lens is None else np.array(shared_lens, dtype=np.int32),
        )

    def computed(
        self,
        dtype: torch.dtype = torch.float32,
        backend_type: type[AttentionBackend] = TorchNativeBackend,
    ) -> torch.Tensor:
        """What a backend computes in a step like the model runner's."""
        k_cache, v_cache = self.k_cache.to(dtype), self.v_cache.to(dtype)
        backend = backend_type([k_cache], [v_cache])
        backend.prepare([self.spec], dtype)
        decodes = self.batch.num_decodes
        planned = backend.plan_host(
            self.batch.seq_lens,
            self.batch.query_lens,
            decodes,
            padded=decodes,
            shared_lens=self.batch.shared_lens,
        )
        batch = self.batch
        if planned is not None:
            words = torch.from_numpy(planned.words)
            batch = replace(batch, plan=words, shares_prefixes=planned.shares_prefixes)
        backend.plan(batch)
        new = [
            (k[before:], v[before:])
            for k, v, (before, _) in zip(self.k, self.v, self.lengths, strict=True)
        ]
        k = torch.cat([k for k, _ in new]).to(dtype)
        v = torch.cat([v for _, v in new]).to(dtype)
        with forward_context(backend, batch):
            backend.write(k, v, self.spec)
            out = backend.attend(self.q.to(dtype), k, v, self.spec)
        assert torch.equal(k_cache[self.batch.out_slots], k)
        assert torch.equal(v_cache[self.batch.out_slots], v)
        return out.float()

    def expected(self) -> torch.Tensor:
        """One sequence, one head, one query at a time."""
        spec, parts, start = self.spec, [], 0
        group = spec.num_heads // spec.num_kv_heads
        for k, v, (before, new) in zip(self.k, self.v, self.lengths, strict=True):
            out = torch.empty(new, spec.num_heads, spec.head_dim)
            for i in range(new):
                position = before + i
                first = 0 if spec.sliding_window is None else position + 1 - spec.sliding_window
                seen = slice(max(first, 0), position + 1)
                for head in range(spec.num_heads):
                    scores = k[seen, head // group] @ self.q[start + i, head] * spec.scale
                    out[i, head] = scores.softmax(0) @ v[seen, head // group]
            parts.append(out)
            start += new
        return torch.cat(parts)


def spec(heads=6, kv_heads=2, head_dim=16, window=None) -> AttentionSpec:
    return AttentionSpec(0, heads, kv_heads, head_dim, head_dim**-0.5, window)


CASES = {
    "one decode": [(37, 1)],
    "first token of all": [(0, 1)],
    "decodes of one length": [(20, 1)] * 4,
    "decodes of similar lengths": [(20, 1), (22, 1), (21, 1)],
    "decodes of very different lengths": [(3, 1), (300, 1), (40, 1), (0, 1), (129, 1)],
    "one prompt": [(0, 33)],
    "a chunk after a prefix": [(50, 17)],
    "several chunks": [(0, 5), (30, 9), (7, 20)],
    "mixed": [(3, 1), (90, 1), (0, 12), (25, 6)],
}


def random_scene(seed: int) -> Scene:
    rng = random.Random(seed)
    decodes = [(rng.choice([0, 1, 5, 50, 200]), 1) for _ in range(rng.randint(0, 6))]
    chunks = [(rng.choice([0, 1, 30]), rng.randint(2, 20)) for _ in range(rng.randint(0, 3))]
    return Scene(spec(window=rng.choice([None, 16])), decodes + chunks or [(4, 1)], seed)
