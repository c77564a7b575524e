"""Prefixes that decoding requests share on several levels are read once, and nothing else changes.

SmolLM2 is asked for facts that stand far ahead in a prompt, in parts that all, some or few of the
requests share: who reads another's prefix answers wrongly. Then one layer of the sizes of real
models, over random trees, beside attention in float32.
"""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from worker.attention.base import AttentionSpec

pytest.importorskip("triton")

from benchmarks.engine.attention_layer import AttentionLayer, Decoding

from worker.kernels.decode_attention import decode_attention_reference

from .agreement import NEAR_TIE_BFLOAT16, check_greedy, gaps
from .smollm2 import GREEDY, answers, engine

# Numbers made up at random, which these answers consist of, often nearly tie.
SAME_SHARE = 0.94

TOWNS = ["Ash", "Birch", "Cedar", "Elm", "Fir", "Hazel", "Larch", "Maple", "Oak", "Rowan", "Yew"]


def facts(rng: random.Random, count: int) -> list[str]:
    years = rng.sample(range(1200, 1900), count)
    return [
        f"In {year} there were {rng.randint(20, 999)} houses in {rng.choice(TOWNS)}wood. "
        for year in years
    ]


@pytest.fixture(scope="module")
def tree(tokenizer) -> list[list[int]]:
    """36 prompts: all share 60 facts, twelve each eight more, three each four more."""
    rng = random.Random(5)
    texts = []
    root = facts(rng, 60)
    for branch in (facts(rng, 8) for _ in range(3)):
        for twig in (facts(rng, 4) for _ in range(4)):
            for level in (root, branch, twig):
                question = rng.choice(level).split(" houses")[0].rsplit(" ", 1)[0]
                texts.append("".join(root + branch + twig) + question)
    return [tokenizer(text)["input_ids"] for text in texts]


@pytest.fixture
def tree_answers(smollm2, tree, sharing_plans):
    """Of an engine with other options; `sharing_plans` are those of its steps."""

    def answered(**arguments) -> list[list[int]]:
        # They end at different times, so that groups shrink.
        sampling = [GREEDY | {"max_new_tokens": 12 + 4 * (i % 5)} for i in range(len(tree))]
        with engine(smollm2, cuda_graph_max_bs=48, **arguments) as made:
            sharing_plans.clear()
            return answers(made, tree, sampling)

    return answered


@pytest.mark.parametrize(
    "arguments",
    [{}, {"page_size": 16}, {"disable_cuda_graph": True, "enable_mixed_chunk": True}],
    ids=["graphs", "pages of 16", "eager, mixed"],
)
def test_greedy_tokens(tree, tree_answers, reference, sharing_plans, arguments):
    found = tree_answers(**arguments)
    assert sum(sharing_plans) >= 12
    check_greedy(reference, tree, found, NEAR_TIE_BFLOAT16, SAME_SHARE)


def test_greedy_tokens_without_sharing(tree, tree_answers, reference, sharing_plans):
    found = tree_answers(disable_prefix_sharing=True)
    assert not any(sharing_plans)
    check_greedy(reference, tree, found, NEAR_TIE_BFLOAT16, SAME_SHARE)


def test_an_fp8_cache_costs_no_more_when_it_is_shared(tree, tree_answers, reference, sharing_plans):
    """It moves logits further than a near-tie: answers are as near as they are without sharing."""
    distances = []
    for alone in (False, True):
        found = tree_answers(kv_cache_dtype="fp8_e4m3", disable_prefix_sharing=alone)
        assert any(sharing_plans) != alone
        distances.append(
            torch.cat([gaps(reference, *pair) for pair in zip(tree, found, strict=True)])
        )
    shared, alone = distances
    assert shared.mean() <= 1.25 * alone.mean() + 0.01
    assert (shared == 0).float().mean() >= (alone == 0).float().mean() - 0.03


# ===== one layer over random trees =====

MOST_SEQUENCES = 160


def random_tree(rng: random.Random, depth: int, next_slot: int = 0) -> list[list[int]]:
    """Slots of sequences in the order of a walk over a tree of `depth` levels of shared spans."""
    found: list[list[int]] = []

    def walk(prefix: list[int], levels: int) -> None:
        nonlocal next_slot
        length = rng.choice([1, 100, 500, 1500]) if levels else rng.randint(1, 300)
        own = list(range(next_slot, next_slot + length))
        next_slot += length
        if not levels:
            found.append(prefix + own)
            return
        for _ in range(rng.choice([1, 2, 5, 20, 64]) if levels == 1 else rng.randint(1, 4)):
            if len(found) < MOST_SEQUENCES:
                walk(prefix + own, levels - 1)

    while len(found) < MOST_SEQUENCES // 2:
        walk([], depth)
    return found


def decoding(sequences: list[list[int]]) -> Decoding:
    """A step of them; the slots are scattered, and past the end of a sequence there are none."""
    seq_lens = np.array([len(slots) for slots in sequences], dtype=np.int32)
    shared_lens = np.zeros_like(seq_lens)
    for s, (last, slots) in enumerate(pairwise(sequences), start=1):
        common = min(len(last), len(slots)) - 1  # the last token is this step's
        differs = np.not_equal(last[:common], slots[:common])
        shared_lens[s] = differs.argmax() if differs.any() else common
    scattered = np.random.default_rng(0).permutation(1 + max(map(max, sequences)))
    page_table = np.zeros((len(sequences), seq_lens.max()), dtype=np.int32)
    for row, slots in zip(page_table, sequences, strict=True):
        row[: len(slots)] = scattered[slots]
    return Decoding(page_table, seq_lens, shared_lens)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("heads", "kv_cache_dtype", "window"),
    [(32, "auto", None), (16, "auto", None), (32, "fp8_e4m3", None), (32, "auto", 512)],
    ids=["8B", "Qwen3-0.6B", "FP8", "window"],
)
def test_random_trees(depth, heads, kv_cache_dtype, window):
    """No further from float32 than without sharing, within what bfloat16 rounds."""
    torch.manual_seed(depth)
    step = decoding(random_tree(random.Random(depth), depth))
    spec = AttentionSpec(0, heads, 8, 128, 128**-0.5, window)
    layer = AttentionLayer(spec, step, torch.device("cuda"), kv_cache_dtype=kv_cache_dtype)
    truth = decode_attention_reference(
        layer.q.float(),
        layer.k_cache.float(),
        layer.v_cache.float(),
        rows=torch.arange(len(step.seq_lens)),
        page_table=torch.from_numpy(step.page_table).cuda(),
        seq_lens=torch.from_numpy(step.seq_lens),
        scale=spec.scale,
        sliding_window=window,
    )
    plans = [layer.plan(shares) for shares in (True, False)]
    assert [plan.shares_prefixes for plan in plans] == [True, False]
    shared, alone = ((layer.attend(plan)().float() - truth).abs() for plan in plans)
    assert shared.max() <= 1.5 * alone.max()
    assert shared.mean() <= 1.1 * alone.mean()
