"""Requests get the same tokens however they are batched, and memory is never lost."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.messages import FinishReason
from worker.scheduler.scheduler import FAILED_STEPS_LIMIT, Scheduler

from .fake_engine import FakeEngine, expected_answer


@pytest.fixture(autouse=True, params=[False, True], ids=["in turn", "overlapped"])
def overlap(request, monkeypatch):
    """Everything here holds whether or not a step is planned while the last one is computed."""
    monkeypatch.setattr(FakeEngine, "overlap", request.param)


def prompts(count: int, *, seed: int = 0, low: int = 1, high: int = 60) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(50) for _ in range(rng.randint(low, high))] for _ in range(count)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunked_prefill_size": 7},
        {"chunked_prefill_size": 16, "enable_mixed_chunk": True},
        {"schedule_policy": "fcfs"},
        {"page_size": 4},
        {"page_size": 4, "chunked_prefill_size": 6},
        {"disable_radix_cache": True},
        {"total_tokens": 128},
        {"total_tokens": 128, "page_size": 4, "chunked_prefill_size": 10},
        {"total_tokens": 128, "disable_radix_cache": True, "enable_mixed_chunk": True},
        {"max_running_requests": 1},
        {"prefix_sharing": False},
    ],
)
def test_every_request_gets_its_own_answer(options):
    engine = FakeEngine(**options)
    wanted = {}
    for i, prompt in enumerate(prompts(30, seed=len(repr(options)))):
        engine.add(f"r{i}", prompt, max_new_tokens=20)
        wanted[f"r{i}"] = expected_answer(prompt, 20)
    engine.run()
    assert engine.answers == wanted


def test_a_pool_that_is_too_small_for_all_retracts_and_still_answers_right():
    engine = FakeEngine(total_tokens=100, schedule_conservativeness=0.1)
    wanted = {}
    for i, prompt in enumerate(prompts(12, seed=1, low=5, high=10)):
        engine.add(f"r{i}", prompt, max_new_tokens=60)
        wanted[f"r{i}"] = expected_answer(prompt, 60)
    engine.run()
    assert engine.answers == wanted
    assert engine.scheduler.counters.retractions > 0


def test_a_shared_prefix_is_computed_once():
    engine = FakeEngine()
    prefix = prompts(1, low=60, high=60)[0]
    for i in range(4):
        engine.add(f"r{i}", [*prefix, i], max_new_tokens=2)
    engine.run()
    assert engine.computed_tokens <= 60 + 4 * 3
    assert [engine.chunks[f"r{i}"][0].cached_tokens for i in range(4)].count(60) == 3


@pytest.mark.parametrize("page_size", [1, 4, 64])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("count", [8, 150])
def test_a_prefix_that_takes_several_steps_is_computed_once(count, mixed, page_size):
    """Also where the queue is too long for ranking, and while a small chunk of it is computed."""
    engine = FakeEngine(
        total_tokens=64 * 400,
        context_length=256,
        page_size=page_size,
        max_running_requests=200,
        chunked_prefill_size=60,
        enable_mixed_chunk=mixed,
    )
    prefix = prompts(1, low=128, high=128)[0]
    engine.add("before", [0] * 33, max_new_tokens=2)  # leaves a small budget to the first chunk
    for i in range(count):
        engine.add(f"r{i}", [*prefix, 100 + i, *[7] * 11], max_new_tokens=1)
    engine.run()
    assert engine.computed_tokens == 33 + 1 + 128 + count * 12


def test_prompts_wait_for_whole_pages_only():
    """What lies in a page that another prompt fills otherwise will never be there to be used."""
    engine = FakeEngine(total_tokens=64 * 20, context_length=256, page_size=64)
    prefix = prompts(1, low=100, high=100)[0]
    engine.add("first", [*prefix, 49], max_new_tokens=20)
    engine.step()
    for i in range(6):
        engine.add(f"r{i}", [*prefix, i], max_new_tokens=2)
    engine.step()
    engine.step()
    assert [len(step.prefills) for step in engine.steps if step.prefills] == [1, 6]


def test_a_long_queue_is_admitted_by_groups_that_begin_alike():
    engine = FakeEngine(total_tokens=1 << 14, max_prefill_tokens=128, max_running_requests=200)
    prefixes = prompts(10, seed=8, low=60, high=60)
    for i in range(150):
        engine.add(f"r{i}", [*prefixes[i % 10], 100 + i], max_new_tokens=100)
    while len(engine.scheduler.running) < 30:
        engine.step()
    groups = {int(request.rid[1:]) % 10 for request in engine.scheduler.running}
    assert groups == {0, 1, 2}


def test_a_long_queue_passes_nobody_over_for_ever():
    engine = FakeEngine(total_tokens=1 << 14, max_running_requests=2)
    hot = prompts(1, low=40, high=40, seed=3)[0]
    engine.add("hot", hot, max_new_tokens=80)
    engine.step()
    engine.add("cold", [7] * 5, max_new_tokens=1)
    for i in range(300):
        engine.add(f"hot{i}", [*hot, 100 + i], max_new_tokens=1)
    engine.run()
    order = list(engine.answers)
    assert 20 < order.index("cold") < 50


def test_cached_tokens_are_reported_and_the_last_prompt_token_is_always_computed():
    engine = FakeEngine()
    prompt = prompts(1, low=20, high=20)[0]
    for rid in ("first", "again"):
        engine.add(rid, prompt, max_new_tokens=3)
        engine.run()
    assert engine.chunks["first"][-1].cached_tokens == 0
    assert engine.chunks["again"][-1].cached_tokens == 19
    assert engine.answers["first"] == engine.answers["again"]


@pytest.mark.parametrize("chunk", [None, 7])
def test_a_prompt_alone_is_computed_and_answered_without_a_token(chunk):
    engine = FakeEngine(context_length=40, chunked_prefill_size=chunk)
    prompt = prompts(1, low=40, high=40)[0]
    engine.add("decodes", [7], max_new_tokens=30)
    for rid in ("first", "again"):
        engine.add(rid, prompt, max_new_tokens=0)
        for _ in range(20):
            engine.step()
        [answer] = engine.chunks[rid]
        assert (answer.token_ids, answer.finish) == ([], FinishReason("length"))
    assert (
        answer.cached_tokens == 39
    )  # a prompt that is all there still has its last token computed
    engine.run()
    assert engine.answers["decodes"] == expected_answer([7], 30)
    state = engine.scheduler.state("q")
    assert (state.prompt_tokens_total, state.generated_tokens_total) == (81, 30)
    engine.add("long", [1] * 41, max_new_tokens=0)
    assert engine.finish("long").message == "The prompt has 41 tokens; it must fit in 40."


def test_eos_and_stop_tokens_end_a_request_and_ignore_eos_ignores_only_the_first():
    prompt = [1, 2, 3]
    answer = expected_answer(prompt, 20)
    eos, stop = answer[5], answer[9]
    assert eos not in answer[:5]
    assert stop not in answer[:9]
    engine = FakeEngine(eos_token_ids=(eos,))
    engine.add("eos", prompt, max_new_tokens=20)
    engine.add("stop", prompt, max_new_tokens=20, ignore_eos=True, stop_token_ids=(stop,))
    engine.run()
    assert engine.answers["eos"] == answer[:6]
    assert (engine.finish("eos").kind, engine.finish("eos").matched) == ("stop", eos)
    assert engine.answers["stop"] == answer[:10]
    assert (engine.finish("stop").kind, engine.finish("stop").matched) == ("stop", stop)


def test_chunks_of_a_stream_hold_as_many_tokens_as_asked_after_the_first():
    engine = FakeEngine()
    engine.add("each", [1], max_new_tokens=7)
    engine.add("three", [2], max_new_tokens=7, stream_interval=3)
    engine.add("end", [3], max_new_tokens=7, stream_interval=0)
    engine.run()
    sizes = {rid: [len(c.token_ids) for c in chunks] for rid, chunks in engine.chunks.items()}
    assert sizes == {"each": [1] * 7, "three": [1, 3, 3], "end": [1, 6]}


def test_those_that_come_last_are_refused_when_more_wait_than_may():
    engine = FakeEngine(max_running_requests=2, max_queued_requests=3)
    for i in range(7):
        engine.add(f"r{i}", [i], max_new_tokens=4)
    engine.run()
    refused = {rid for rid, chunks in engine.chunks.items() if chunks[-1].finish.kind == "abort"}
    assert refused == {"r5", "r6"}
    assert [len(engine.chunks[rid]) for rid in refused] == [1, 1]
    assert {engine.chunks[rid][0].finish.status for rid in refused} == {503}
    for i in range(5):
        assert engine.answers[f"r{i}"] == expected_answer([i], 4)


def test_retracted_requests_are_never_refused():
    options = {"schedule_conservativeness": 0.1, "max_queued_requests": 1}
    engine = FakeEngine(total_tokens=100, **options)
    wanted = {}
    for i, prompt in enumerate(prompts(5, seed=1, low=5, high=8)):
        engine.add(f"r{i}", prompt, max_new_tokens=30)
        wanted[f"r{i}"] = expected_answer(prompt, 30)
        engine.step()
        engine.step()
    most = 0
    while not engine.scheduler.is_idle:
        engine.step()
        most = max(most, len(engine.scheduler.waiting))
    assert most > 1
    assert engine.answers == wanted


def test_prompts_that_cannot_fit_are_refused_and_answers_are_cut_at_the_context():
    engine = FakeEngine(context_length=32)
    engine.add("long", [1] * 32)
    engine.add("empty", [])
    engine.add("edge", [1] * 31, max_new_tokens=10)
    engine.add("edge", [1])
    engine.run()
    assert (engine.finish("long").kind, engine.finish("long").status) == ("abort", 400)
    assert "32 tokens" in engine.finish("long").message
    assert engine.finish("empty").kind == "abort"
    finishes = [chunk.finish.kind for chunk in engine.chunks["edge"]]
    assert finishes == ["abort", "length"]
    assert len(engine.answers["edge"]) == 1


def test_aborting_frees_a_request_wherever_it_is():
    engine = FakeEngine(chunked_prefill_size=8, max_running_requests=2)
    engine.add("runs", [1, 2], max_new_tokens=50)
    engine.add("partial", prompts(1, low=40, high=40)[0], max_new_tokens=50)
    engine.add("waits", [3, 4], max_new_tokens=50)
    for _ in range(3):
        engine.step()
    scheduler = engine.scheduler
    assert scheduler.partial is not None
    assert scheduler.partial.rid == "partial"
    for rid in ("partial", "runs", "waits", "unknown"):
        scheduler.abort(rid)
        engine.cache.check()
    assert scheduler.is_idle
    engine.run()


def test_prefill_and_decode_take_turns_while_a_long_prompt_comes_in():
    engine = FakeEngine(chunked_prefill_size=8)
    engine.add("short", [1], max_new_tokens=30)
    engine.step()
    engine.step()
    engine.add("long", prompts(1, low=60, high=60)[0], max_new_tokens=2)
    for _ in range(10):
        engine.step()
    kinds = ["prefill" if step.prefills else "decode" for step in engine.steps[2:12]]
    assert kinds == ["prefill", "decode"] * 5


def test_mixed_chunks_decode_in_the_same_step():
    engine = FakeEngine(chunked_prefill_size=8, enable_mixed_chunk=True)
    engine.add("short", [1], max_new_tokens=30)
    engine.step()
    engine.add("long", prompts(1, low=60, high=60)[0], max_new_tokens=2)
    for _ in range(5):
        engine.step()
    assert all(step.prefills and step.decodes for step in engine.steps[1:6])


def test_lpm_prefers_cached_prefixes_but_passes_nobody_over_for_ever():
    engine = FakeEngine(max_running_requests=1, schedule_policy="lpm")
    hot = prompts(1, low=40, high=40, seed=3)[0]
    engine.add("warm", hot, max_new_tokens=1)
    engine.run()
    engine.add("cold", [7] * 5, max_new_tokens=1)
    for i in range(100):
        engine.add(f"hot{i}", [*hot, i % 50], max_new_tokens=1)
    engine.run()
    order = list(engine.answers)
    assert order.index("cold") > 5
    assert order.index("cold") < 50


def test_fcfs_keeps_the_order_of_arrival():
    engine = FakeEngine(max_running_requests=1, schedule_policy="fcfs")
    for i, prompt in enumerate(prompts(10, seed=4)):
        engine.add(f"r{i}", prompt, max_new_tokens=1)
    engine.run()
    assert list(engine.answers) == [f"r{i}" for i in range(10)]


def test_a_step_that_fails_costs_its_own_requests_only():
    engine = FakeEngine(max_running_requests=2)
    for i, prompt in enumerate(prompts(4, seed=5)):
        engine.add(f"r{i}", prompt, max_new_tokens=4)
    engine.step()
    engine.fail_next = RuntimeError("device lost")
    engine.run()
    kinds = sorted(engine.finish(f"r{i}").kind for i in range(4))
    assert kinds == ["abort", "abort", "length", "length"]
    assert any(
        "device lost" in (chunks[-1].finish.message or "") for chunks in engine.chunks.values()
    )


def test_an_engine_that_fails_again_and_again_ends_the_process():
    engine = FakeEngine()

    def fail(rid: str) -> None:
        engine.add(rid, [1, 2, 3])
        engine.fail_next = RuntimeError("broken")
        engine.step()

    for i in range(FAILED_STEPS_LIMIT - 1):
        fail(f"r{i}")
    with pytest.raises(RuntimeError, match="broken"):
        fail("last")


def test_flushing_empties_the_cache_only_while_idle():
    engine = FakeEngine()
    engine.add("r", [1, 2, 3])
    assert not engine.scheduler.flush_cache()
    engine.run()
    assert engine.cache.cached_tokens > 0
    assert engine.scheduler.flush_cache()
    assert engine.cache.free_tokens == engine.cache.total_tokens


def test_five_hundred_random_requests_with_random_aborts_leave_nothing_behind():
    rng = random.Random(6)
    engine = FakeEngine(total_tokens=200, chunked_prefill_size=16)
    aborted = set()
    wanted = {}
    for i in range(500):
        prompt = [rng.randrange(3) for _ in range(rng.randint(1, 60))]
        limit = rng.randint(0, 40)
        wanted[f"r{i}"] = expected_answer(prompt, limit)
        engine.add(f"r{i}", prompt, max_new_tokens=limit)
        for _ in range(rng.randrange(4)):
            engine.step()
        if rng.random() < 0.3:
            rid = f"r{rng.randrange(i + 1)}"
            engine.scheduler.abort(rid)
            aborted.add(rid)
            engine.cache.check()
    engine.run()
    for rid, answer in wanted.items():
        got = engine.answers.get(rid, [])
        assert got == answer or (rid in aborted and got == answer[: len(got)])
    state = engine.scheduler.state("q")
    assert state.free_tokens + state.cached_tokens == state.total_tokens
    assert (state.running_requests, state.waiting_requests, state.held_tokens) == (0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    total=st.sampled_from([64, 100, 256]),
    page_size=st.sampled_from([1, 2]),
    chunk=st.sampled_from([None, 5, 16]),
    mixed=st.booleans(),
    radix=st.booleans(),
)
def test_any_mix_of_options_and_arrivals_gives_the_same_answers(
    seed, total, page_size, chunk, mixed, radix
):
    rng = random.Random(seed)
    engine = FakeEngine(
        total_tokens=total,
        context_length=60,
        page_size=page_size,
        chunked_prefill_size=chunk,
        enable_mixed_chunk=mixed,
        disable_radix_cache=not radix,
        schedule_conservativeness=rng.choice([0.1, 1.0]),
    )
    wanted = {}
    for i in range(20):
        prompt = [rng.randrange(2) for _ in range(rng.randint(1, 40))]
        limit = rng.randint(0, 20)
        wanted[f"r{i}"] = expected_answer(prompt, min(limit, 60 - len(prompt)))
        engine.add(f"r{i}", prompt, max_new_tokens=limit)
        for _ in range(rng.randrange(3)):
            engine.step()
    engine.run()
    assert engine.answers == wanted


def test_requests_that_share_a_prefix_decode_side_by_side():
    engine = FakeEngine(total_tokens=512)
    prefixes = prompts(3, seed=4, low=40, high=40)
    for i in range(12):
        engine.add(f"r{i}", [*prefixes[i % 3], i], max_new_tokens=30)
    while len(engine.scheduler.running) < 12:
        engine.step()
    engine.step()
    groups = [int(request.rid[1:]) % 3 for request in engine.steps[-1].decodes]
    changes = sum(a != b for a, b in itertools.pairwise(groups))
    assert (len(groups), changes) == (12, 2)


def test_chunks_are_small_while_far_more_requests_decode_than_wait():
    engine = FakeEngine(
        total_tokens=1024,
        max_prefill_tokens=1024,
        chunked_prefill_size=64,
        considerate_chunk_size=8,
    )
    for i, prompt in enumerate(prompts(8, seed=5, low=16, high=16)):
        engine.add(f"r{i}", prompt, max_new_tokens=60)
    while len(engine.scheduler.running) < 8:
        engine.step()
    assert max(sum(map(len, step.prefills)) for step in engine.steps) == 64
    engine.steps.clear()
    engine.add("long", prompts(1, seed=6, low=40, high=40)[0])
    engine.run()
    assert {len(chunk) for step in engine.steps for chunk in step.prefills} == {8}


def test_what_is_computed_again_is_not_taken_for_a_shared_prefix(monkeypatch):
    engine, prompt, refused = FakeEngine(), list(range(20)), set()
    engine.add("before", prompt)
    engine.run()

    def refuse_first(scheduler, flight, result):
        new = set(flight.sampled) - refused
        refused.update(new)
        return new

    monkeypatch.setattr(Scheduler, "_follow", refuse_first)
    for rid in "ab":
        engine.add(rid, prompt)
    engine.run()  # which checks every step's shared lengths
    assert len(refused) == 2
    assert engine.answers["a"] == engine.answers["b"] == expected_answer(prompt, 8)
