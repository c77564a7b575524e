"""From logits to tokens on a GPU, without a sort: Gumbel-max over what the filters leave.

The reference is `worker.sampling.sampler`, which draws the same tokens on the CPU: the noise is
the same function of seed, position and token.
"""

# Launch options are no parameters of a kernel, and kernels return nothing to Python.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Protocol

import torch
import triton
import triton.language as tl

_BLOCK = 1024
# Programs that fill a GPU of 132 multiprocessors, and the most that share one row.
_PROGRAMS = 1056
_MOST_SPLITS = 128
_NO_TOKEN = tl.constexpr(2**31 - 1)


class RowParameters(Protocol):
    """The columns of a sampling table, each [max rows] with a stride of its own.

    seeds: int64. temperatures (0 is greedy), top_ps, min_ps: float32. top_ks, prompt_lens: int32.
    """

    seeds: torch.Tensor
    temperatures: torch.Tensor
    top_ps: torch.Tensor
    min_ps: torch.Tensor
    top_ks: torch.Tensor
    prompt_lens: torch.Tensor


def draw(
    logits: torch.Tensor,
    rows: torch.Tensor,
    seq_lens: torch.Tensor,
    table: RowParameters,
    *,
    random: bool,
    filtered: bool,
    next_tokens: torch.Tensor | None = None,
) -> torch.Tensor:
    """The next token of each row of logits: [count] int32. Nothing waits for the device.

    logits: [count, vocab] of any floating type, rows contiguous; not changed
    rows, seq_lens: [count] of any integer type: row of `table`, tokens of the sequence before this
    random, filtered: whether any row is not greedy, and whether any has a top-k, top-p or min-p
    next_tokens: [max rows or more] int32, takes the tokens too, each at its row of `table`

    Filters without a threshold: the winner over the whole vocabulary is the winner over the kept
    tokens too, if it is one of them. If it is not, nothing that is as unlikely is, and the draw is
    repeated among the likelier tokens.
    """
    count, vocab = logits.shape
    splits = min(_MOST_SPLITS, max(1, _PROGRAMS // max(count, 1)))
    blocks = -(-vocab // (splits * _BLOCK))
    splits = -(-vocab // (blocks * _BLOCK))
    # Of every chunk: score of its winner, highest logit, weight above the candidate, weight.
    weights = torch.empty((4, count, splits), dtype=torch.float32, device=logits.device)
    # Of every chunk: its winner, and the number of tokens above the candidate.
    tokens = torch.empty((2, count, splits), dtype=torch.int32, device=logits.device)
    drawn = torch.empty(count, dtype=torch.int32, device=logits.device)
    shape = {"VOCAB": vocab, "STRIDE": table.temperatures.stride(0)}
    parameters = (table.temperatures, table.top_ps, table.min_ps, table.top_ks)
    noise = (rows, seq_lens, table.prompt_lens, table.seeds)
    _draw_chunk[(count, splits)](
        logits,
        logits.stride(0),
        *noise,
        table.temperatures,
        weights,
        tokens,
        count,
        blocks,
        SEED_STRIDE=table.seeds.stride(0),
        BLOCK=_BLOCK,
        RANDOM=random,
        FILTERED=filtered,
        **shape,
        num_warps=4,
    )
    if filtered:
        _weigh_chunk[(count, splits)](
            logits,
            logits.stride(0),
            rows,
            *parameters,
            weights,
            tokens,
            count,
            blocks,
            BLOCK=_BLOCK,
            SPLITS=_MOST_SPLITS,
            **shape,
            num_warps=4,
        )
    _settle[(count,)](
        logits,
        logits.stride(0),
        *noise,
        *parameters,
        weights,
        tokens,
        drawn,
        next_tokens,
        count,
        splits,
        SEED_STRIDE=table.seeds.stride(0),
        BLOCK=4 * _BLOCK,
        SPLITS=_MOST_SPLITS,
        FILTERED=filtered,
        **shape,
        num_warps=16 if filtered else 4,
    )
    return drawn


# ===== Three launches: winners of chunks, what lies above the winner, the decision =====
# `rows` and `seq_lens` are parts of a step's one upload: whatever their alignment, and whatever the
# number of rows, one compiled kernel serves all.


@triton.jit(
    do_not_specialize=["count", "blocks"], do_not_specialize_on_alignment=["rows", "seq_lens"]
)
def _draw_chunk(
    logits,
    logits_stride,
    rows,
    seq_lens,
    prompt_lens,
    seeds,
    temperatures,
    weights,
    tokens,
    count,
    blocks,
    VOCAB: tl.constexpr,
    STRIDE: tl.constexpr,
    SEED_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    RANDOM: tl.constexpr,
    FILTERED: tl.constexpr,
):
    index, split, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    source = logits + index.to(tl.int64) * logits_stride
    begin = split * blocks * BLOCK
    end = tl.minimum(begin + blocks * BLOCK, VOCAB)
    if RANDOM:
        row = tl.load(rows + index).to(tl.int64)
        inverse, is_random = _inverse(tl.load(temperatures + row * STRIDE))
        position = tl.load(seq_lens + index) - tl.load(prompt_lens + row * STRIDE)
        key = _noise_key(tl.load(seeds + row * SEED_STRIDE), position)
    else:
        inverse, is_random, key = 1.0, 0.0, 0
    highest, token, peak = _draw(
        source, begin, end, key, inverse, is_random, 0.0, 0.0, VOCAB, BLOCK, RANDOM, False
    )
    place = index * splits + split
    tl.store(weights + place, highest)
    tl.store(tokens + place, token)
    if FILTERED:
        tl.store(weights + count * splits + place, peak)


@triton.jit(do_not_specialize=["count", "blocks"], do_not_specialize_on_alignment=["rows"])
def _weigh_chunk(
    logits,
    logits_stride,
    rows,
    temperatures,
    top_ps,
    min_ps,
    top_ks,
    weights,
    tokens,
    count,
    blocks,
    VOCAB: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
):
    index, split, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    source = logits + index.to(tl.int64) * logits_stride
    row = tl.load(rows + index).to(tl.int64) * STRIDE
    inverse, _ = _inverse(tl.load(temperatures + row))
    begin = split * blocks * BLOCK
    end = tl.minimum(begin + blocks * BLOCK, VOCAB)
    if (tl.load(top_ps + row) >= 1.0) & (tl.load(top_ks + row) >= VOCAB):
        end = begin  # min-p looks at the highest logit only
    token = _winner(weights, tokens, index, splits, SPLITS)
    limit = tl.load(source + token).to(tl.float32)
    peak = _peak(weights + count * splits, index, splits, SPLITS)
    above, mass, total = _weigh(source, begin, end, limit, peak, inverse, VOCAB, BLOCK)
    place = index * splits + split
    tl.store(tokens + count * splits + place, above)
    tl.store(weights + 2 * count * splits + place, mass)
    tl.store(weights + 3 * count * splits + place, total)


@triton.jit(
    do_not_specialize=["count", "splits"], do_not_specialize_on_alignment=["rows", "seq_lens"]
)
def _settle(
    logits,
    logits_stride,
    rows,
    seq_lens,
    prompt_lens,
    seeds,
    temperatures,
    top_ps,
    min_ps,
    top_ks,
    weights,
    tokens,
    drawn,
    next_tokens,
    count,
    splits,
    VOCAB: tl.constexpr,
    STRIDE: tl.constexpr,
    SEED_STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    FILTERED: tl.constexpr,
):
    index = tl.program_id(0)
    token = _winner(weights, tokens, index, splits, SPLITS)
    if FILTERED:
        source = logits + index.to(tl.int64) * logits_stride
        row = tl.load(rows + index).to(tl.int64)
        position = tl.load(seq_lens + index) - tl.load(prompt_lens + row * STRIDE)
        key = _noise_key(tl.load(seeds + row * SEED_STRIDE), position)
        row *= STRIDE
        temperature = tl.load(temperatures + row)
        inverse, is_random = _inverse(temperature)
        top_p, top_k = tl.load(top_ps + row), tl.load(top_ks + row)
        field, parts = count * splits, tl.arange(0, SPLITS)
        inside = parts < splits
        parts += index * splits
        peak = _peak(weights + field, index, splits, SPLITS)
        above = tl.sum(tl.load(tokens + field + parts, mask=inside, other=0), 0)
        mass = tl.sum(tl.load(weights + 2 * field + parts, mask=inside, other=0.0), 0)
        total = tl.sum(tl.load(weights + 3 * field + parts, mask=inside, other=0.0), 0)
        # Without min-p the floor lies lower than any noise lifts a token.
        floor = peak + temperature * tl.log(tl.maximum(tl.load(min_ps + row), 1e-38))
        limit = tl.load(source + token).to(tl.float32)
        allowed = tl.where(top_p < 1.0, top_p * total, float("inf"))
        while (above >= top_k) | (mass >= allowed) | (limit < floor):
            # Every round ends among likelier tokens; the likeliest one passes all filters.
            _, token, _ = _draw(
                source, 0, VOCAB, key, inverse, is_random, limit, floor, VOCAB, BLOCK, True, True
            )
            limit = tl.load(source + token).to(tl.float32)
            above, mass, _ = _weigh(source, 0, VOCAB, limit, peak, inverse, VOCAB, BLOCK)
    tl.store(drawn + index, token)
    if next_tokens is not None:
        tl.store(next_tokens + tl.load(rows + index), token)


# ===== What they share =====


@triton.jit
def _draw(
    source,
    begin,
    end,
    key,
    inverse,
    is_random,
    limit,
    floor,
    VOCAB: tl.constexpr,
    BLOCK: tl.constexpr,
    RANDOM: tl.constexpr,
    LIMITED: tl.constexpr,
):
    """The best noisy score of columns [begin, end), its token, and their highest logit.

    LIMITED: among logits above `limit` that reach `floor`; blocks without any are passed over.
    """
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    peak = tl.full((BLOCK,), float("-inf"), tl.float32)
    winner = tl.full((BLOCK,), 0, tl.int32) + begin
    for start in range(begin, end, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        x = _load(source, columns, VOCAB)
        peak = tl.maximum(peak, x)
        if LIMITED:
            x = tl.where((x > limit) & (x >= floor), x, float("-inf"))
            is_wanted = tl.max(x, 0) > float("-inf")
        else:
            is_wanted = True
        if is_wanted:
            score = x
            if RANDOM:
                score = x * inverse + _gumbel(key, columns) * is_random
            better = score > best
            best = tl.where(better, score, best)
            winner = tl.where(better, columns, winner)
    highest, token = _first_best(best, winner)
    return highest, token, tl.max(peak, 0)


@triton.jit
def _weigh(source, begin, end, limit, peak, inverse, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """Of columns [begin, end): how many lie above `limit`, their weight, and that of all."""
    above = tl.full((BLOCK,), 0, tl.int32)
    mass = tl.full((BLOCK,), 0.0, tl.float32)
    total = tl.full((BLOCK,), 0.0, tl.float32)
    for start in range(begin, end, BLOCK):
        x = _load(source, start + tl.arange(0, BLOCK), VOCAB)
        weight = tl.exp((x - peak) * inverse)
        total += weight
        mass += tl.where(x > limit, weight, 0.0)
        above += (x > limit).to(tl.int32)
    return tl.sum(above, 0), tl.sum(mass, 0), tl.sum(total, 0)


@triton.jit
def _load(source, columns, VOCAB: tl.constexpr):
    return tl.load(source + columns, mask=columns < VOCAB, other=float("-inf")).to(tl.float32)


@triton.jit
def _inverse(temperature):
    """1 / temperature, and 1; for greedy rows 1, and 0, which silences the noise."""
    is_random = temperature > 0.0
    return 1.0 / tl.where(is_random, temperature, 1.0), is_random.to(tl.float32)


@triton.jit
def _first_best(scores, tokens):
    """The highest score, and its token; the first one of several."""
    highest = tl.max(scores, 0)
    return highest, tl.min(tl.where(scores == highest, tokens, _NO_TOKEN), 0)


@triton.jit
def _winner(scores, tokens, index, splits, SPLITS: tl.constexpr):
    """The winner over all chunks of a row."""
    part = tl.arange(0, SPLITS)
    place, inside = index * splits + part, part < splits
    score = tl.load(scores + place, mask=inside, other=float("-inf"))
    token = tl.load(tokens + place, mask=inside, other=_NO_TOKEN)
    return _first_best(score, token)[1]


@triton.jit
def _peak(peaks, index, splits, SPLITS: tl.constexpr):
    """The highest logit of a row."""
    part = tl.arange(0, SPLITS)
    return tl.max(
        tl.load(peaks + index * splits + part, mask=part < splits, other=float("-inf")), 0
    )


@triton.jit
def _noise_key(seed, position):
    """`worker.sampling.noise.noise_keys` of one row: uint64."""
    x = seed.to(tl.uint64, bitcast=True) * 0x9E3779B97F4A7C15
    x += position.to(tl.int64).to(tl.uint64, bitcast=True) * 0xD1B54A32D192ED03
    x += 0x632BE59BD9B4E019
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return (x ^ (x >> 31)) >> 1


@triton.jit
def _gumbel(key, columns):
    """`worker.sampling.noise.gumbel_noise` of one row's columns, in float32.

    -log(u) of a u close to 1, which makes the largest noise, comes from 1 - u by its series:
    float32 holds 1 - u exactly where u would be rounded to 1.
    """
    x = _mix(columns.to(tl.uint32) * 0x9E3779B1 + key.to(tl.uint32))
    x = _mix(x + (key >> 32).to(tl.uint32))
    u = (x.to(tl.float32) + 0.5) * (1.0 / (1 << 32))
    w = ((x ^ 0xFFFFFFFF).to(tl.float32) + 0.5) * (1.0 / (1 << 32))
    series = w * (1.0 + w * (1 / 2 + w * (1 / 3 + w * (1 / 4 + w * (1 / 5)))))
    return -tl.log(tl.where(w < 1 / 16, series, -tl.log(u)))


@triton.jit
def _mix(x):
    """MurmurHash3's 32-bit finalizer: uint32."""
    x ^= x >> 16
    x *= 0x85EBCA6B
    x ^= x >> 13
    x *= 0xC2B2AE35
    return x ^ (x >> 16)
