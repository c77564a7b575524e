"""The fleet simulator: its workers against arithmetic, its traces, and whole replays."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from benchmarks.simulator.__main__ import POLICIES, Scene, main, run
from benchmarks.simulator.cache import PrefixCache
from benchmarks.simulator.placements import PerfectSessions, RouterPolicy
from benchmarks.simulator.plots import write_plots
from benchmarks.simulator.replay import Outcome, at_load, replay, specs
from benchmarks.simulator.traces import SYNTHETIC, Request, Trace, read_trace
from benchmarks.simulator.worker import WorkerSpec

PLAIN = WorkerSpec(
    prefill_tokens_per_second=1000.0,
    attention_doubles_at=1e12,
    decode_seconds=0.1,
    decode_seconds_per_stream=0.0,
    step_overhead_seconds=0.0,
    chunk_tokens=100,
    kv_tokens=10_000,
)


def outcome(requests: list[Request], spec: WorkerSpec = PLAIN) -> Outcome:
    trace = Trace("test", requests, block_tokens=10, load=0.5)
    return replay("one worker", trace, [spec], PerfectSessions(1))


def request(seconds: float, blocks: range, output: int = 1) -> Request:
    return Request(seconds, 10 * len(blocks), output, tuple(blocks))


def test_a_prompt_takes_its_tokens_time_and_a_held_one_does_not() -> None:
    alone = outcome([request(0, range(20))] * 2)
    assert alone.ttft_p50 == pytest.approx(0.205, abs=1e-6)
    later = outcome([request(0, range(20)), request(9, range(25))])
    # 200 tokens, then 50 of which nothing is held.
    assert later.ttft_p50 == pytest.approx((0.2 + 0.05) / 2)
    assert later.hit_rate == 1.0


def test_prompts_wait_for_each_other_and_chunks_share_steps_with_decoding() -> None:
    both = outcome([request(0, range(10)), request(0, range(100, 110))])
    assert both.ttft_p50 == pytest.approx((0.1 + 0.2) / 2)
    # The first answer runs on: each of the two chunks is followed by one decode step.
    mixed = outcome([request(0, range(10), output=1000), request(0.1, range(100, 120))])
    assert mixed.ttft_p50 == pytest.approx((0.1 + 2 * (0.1 + 0.1)) / 2)


def test_a_request_in_the_middle_of_a_decode_step_waits_for_its_end() -> None:
    result = outcome([request(0, range(10), output=1000), request(0.15, range(100, 110))])
    # Steps end at 0.1, 0.2, ...; then one chunk and one decode step.
    assert result.ttft_p50 == pytest.approx((0.1 + (0.05 + 0.2)) / 2)


def test_answers_wait_for_memory_and_all_come_in_the_end() -> None:
    small = replace(PLAIN, kv_tokens=150)
    requests = [request(0, range(100 * n, 100 * n + 10), output=30) for n in range(5)]
    result = outcome(requests, small)
    # One at a time: 0.1 s of prefill and 29 decode steps each.
    assert result.ttft_p50 == pytest.approx(2 * (0.1 + 2.9) + 0.1)


def test_the_cache_keeps_what_is_used_and_evicts_the_end_of_the_oldest_first() -> None:
    cache = PrefixCache()
    cache.insert([1, 2, 3])
    cache.insert([4, 5, 6])
    cache.pin([1])
    cache.evict_down_to(4)
    assert (cache.match([1, 2, 3]), cache.match([4, 5, 6])) == (1, 3)
    cache.evict_down_to(0)
    assert (cache.match([1]), cache.match([4])) == (1, 0)
    cache.unpin([1])
    cache.evict_down_to(0)
    assert len(cache) == 0


def test_ideal_hits_are_those_of_one_unbounded_cache() -> None:
    requests = [request(0, range(5)), request(1, range(3)), request(2, range(8))]
    trace = Trace("test", requests, block_tokens=10, load=0.5)
    # A prompt that is held completely still computes its last token.
    assert trace.ideal_hits() == [0, 29, 50]


def test_a_trace_file_is_read_and_a_wrong_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    entry = {"timestamp": 1500, "input_length": 600, "output_length": 0, "hash_ids": [7, 8]}
    path.write_text(json.dumps(entry) + "\n")
    trace = read_trace(path)
    assert trace.requests == [Request(1.5, 600, 1, (7, 8))]
    for wrong in ({**entry, "input_length": 2000}, {"timestamp": 1}, []):
        path.write_text(json.dumps(entry) + "\n" + json.dumps(wrong) + "\n")
        with pytest.raises(ValueError, match="line 2"):
            read_trace(path)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_made_up_traces_repeat_by_seed_and_get_their_pace(name: str) -> None:
    trace = SYNTHETIC[name](4, 0.1, 3)
    assert trace == SYNTHETIC[name](4, 0.1, 3)
    assert trace != SYNTHETIC[name](4, 0.1, 4)
    times = [request.seconds for request in trace.requests]
    assert times == sorted(times)
    fleets = [specs(trace, count, mixed=False) for count in (4, 8)]
    paces = [at_load(trace, fleet).requests[-1].seconds for fleet in fleets]
    assert paces[0] == pytest.approx(2 * paces[1])


@pytest.mark.parametrize("policy", POLICIES)
def test_a_replay_repeats_by_seed(policy: str) -> None:
    trace = SYNTHETIC["chats"](4, 0.2, 1)
    fleet = specs(trace, 4, mixed=True)
    scene = Scene("chats", at_load(trace, fleet), fleet)
    assert run(scene, policy, seed=5) == run(scene, policy, seed=5)


def test_expected_cost_keeps_chats_and_spreads_one_prompt() -> None:
    trace = SYNTHETIC["chats"](8, 1.0, 1)
    fleet = specs(trace, 8, mixed=False)
    chats = replay("", at_load(trace, fleet), fleet, RouterPolicy("expected_cost", 8, 1))
    assert chats.hit_rate > 0.98
    assert chats.prefill_max_to_mean < 1.1
    trace = SYNTHETIC["one prompt"](8, 1.0, 1)
    fleet = specs(trace, 8, mixed=False)
    shared = replay("", at_load(trace, fleet), fleet, RouterPolicy("expected_cost", 8, 1))
    assert shared.load_max_to_mean < 1.05


def test_the_command_prints_a_table_and_refuses_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["--trace", "chats", "--workers", "2", "--policies", "random,least_load", "--quick"])
    printed = capsys.readouterr().out
    assert "chats: 2 workers" in printed
    assert all(name in printed for name in ("random", "least_load", "perfect sessions"))
    for arguments, reason in (
        (["--trace", "nothing.jsonl"], "no such file"),
        (["--policies", "best"], "best is none of"),
        (["--workers", "two"], "give numbers"),
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert reason in capsys.readouterr().err


def test_plots_are_well_formed_and_have_a_bar_for_every_result(tmp_path: Path) -> None:
    rows = [
        {"scene": scene, "workers": 4, "outcome": asdict(Outcome(policy, 0.5, 1, 1, 0.01, ttft))}
        for scene in ("chats", "a <trace>, mixed GPUs")
        for policy, ttft in (("random", 0.2), ("least_load", 3.0))
    ]
    paths = write_plots(tmp_path, rows)
    assert len(paths) == 2
    for path in paths:
        bars = ElementTree.parse(path).getroot().findall(".//{*}title")
        assert len(bars) == 4
