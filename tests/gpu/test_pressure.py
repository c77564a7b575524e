"""Thousands of requests through a pool that is too small, some of them aborted on the way."""

from __future__ import annotations

import numpy as np
import pytest

from ..worker.checkpoints import VOCAB_SIZE, hf_reference, make_checkpoint
from ..worker.engine.harness import Engine
from .agreement import NEAR_TIE_FLOAT32, check_greedy

REQUESTS = 2000


@pytest.mark.parametrize(
    ("overlap", "radix"),
    [(True, True), (False, True), (True, False)],
    ids=["overlap", "no overlap", "no radix cache"],
)
def test_nothing_leaks_and_greedy_answers_stay_right(
    tmp_path, monkeypatch, sharing_plans, overlap, radix
):
    """Shared prefixes are read once even where that saves next to nothing."""
    monkeypatch.setattr("worker.attention.triton._LAUNCH_BYTES", 0)
    folder = make_checkpoint(tmp_path, "llama3")
    engine = Engine(
        folder,
        device="cuda",
        num_threads=None,
        max_total_tokens=1500,
        chunked_prefill_size=96,
        cuda_graph_max_bs=64,
        schedule_conservativeness=0.05,
        disable_overlap_schedule=not overlap,
        disable_radix_cache=not radix,
    )
    sharing_plans.clear()
    rng = np.random.default_rng(3)
    prefixes = [rng.integers(3, VOCAB_SIZE, 150).tolist() for _ in range(4)]
    wanted: dict[str, tuple[list[int], int, bool]] = {}
    running: list[str] = []
    aborted: set[str] = set()
    while len(wanted) < REQUESTS or not engine.scheduler.is_idle:
        for _ in range(min(int(rng.integers(0, 24)), REQUESTS - len(wanted))):
            shared = prefixes[rng.integers(4)][: rng.integers(1, 150)]
            prompt = shared + rng.integers(3, VOCAB_SIZE, rng.integers(1, 40)).tolist()
            length, greedy = int(rng.integers(1, 60)), bool(rng.integers(2))
            temperature = 0.0 if greedy else 1.0
            rid = engine.add(prompt, length, temperature=temperature, ignore_eos=True)
            wanted[rid] = prompt, length, greedy
            running.append(rid)
        if rng.random() < 0.3:
            victim = running.pop(rng.integers(len(running))) if running else ""
            if victim and victim not in engine.finish:
                engine.scheduler.abort(victim)
                aborted.add(victim)
        engine.step()
    engine.check_idle()
    assert engine.scheduler.counters.retractions > 0
    assert any(sharing_plans) == radix
    assert len(aborted) > 20
    assert set(engine.finish) == set(wanted) - aborted
    answers = {rid: engine.answer(rid) for rid in engine.finish}
    assert all(len(answers[rid]) == wanted[rid][1] for rid in answers)
    greedy = [rid for rid in answers if wanted[rid][2]][:200]
    prompts, tokens = [wanted[rid][0] for rid in greedy], [answers[rid] for rid in greedy]
    check_greedy(hf_reference(folder), prompts, tokens, NEAR_TIE_FLOAT32)
