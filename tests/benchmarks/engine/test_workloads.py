"""The batches of the offline benchmark are those that its table names; speeds are arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.engine.engines import OfflineEngine
from benchmarks.engine.workloads import WORKLOADS, Batch, Sizes

from benchmarks.engine import workloads


class Clockwork(OfflineEngine):
    """Takes a second for each prompt token and ten for each output token, by the fake clock."""

    name, version = "clockwork", "1"

    def __init__(self, cut_short: int = 0) -> None:
        self.now = 0.0
        self.cut_short = cut_short

    def generate(self, prompts, output_lengths, temperature):
        self.now += sum(map(len, prompts)) + 10 * sum(output_lengths)
        return sum(output_lengths) - self.cut_short

    def clear_prefix_cache(self) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def engine(monkeypatch):
    engine = Clockwork()
    monkeypatch.setattr(workloads.time, "perf_counter", lambda: engine.now)
    return engine


def batch(name: str, shrink: int = 1) -> Batch:
    return WORKLOADS[name].make(Sizes(np.random.default_rng(0), 1000, shrink))


@pytest.mark.parametrize(
    ("name", "count", "input_length", "output_length"),
    [
        ("one", 1, 128, 512),
        ("eight", 8, 128, 512),
        ("batch64", 64, 1024, 256),
        ("prefill", 32, 4096, 1),
        ("shared", 1024, 2176, 256),
    ],
)
def test_batches_of_equal_requests(name, count, input_length, output_length):
    made = batch(name)
    assert [len(prompt) for prompt in made.prompts] == [input_length] * count
    assert made.output_lengths == [output_length] * count
    assert made.temperature == 0.0


def test_mixed_lengths_are_uniform_and_the_same_every_time():
    made = batch("mixed256")
    for lengths in ([len(prompt) for prompt in made.prompts], made.output_lengths):
        assert len(lengths) == 256
        assert 100 <= min(lengths) < 150
        assert 974 < max(lengths) <= 1024
        assert np.mean(lengths) == pytest.approx(562, abs=40)
    assert made.temperature == 0.6
    assert made == batch("mixed256")


def test_groups_share_a_prefix_and_nothing_more():
    prompts = batch("shared").prompts
    assert all(prompts[i][:2048] == prompts[i - i % 16][:2048] for i in range(len(prompts)))
    assert len({tuple(prompt[:64]) for prompt in prompts}) == 64
    assert len({tuple(prompt[2048:]) for prompt in prompts}) == 1024


def test_the_prefix_cache_is_on_where_prefixes_are_shared_alone():
    assert [name for name, workload in WORKLOADS.items() if workload.prefix_cache] == ["shared"]


def test_shrinking_divides_counts_and_lengths():
    made = batch("batch64", shrink=16)
    assert [len(prompt) for prompt in made.prompts] == [64] * 4
    assert made.output_lengths == [16] * 4


def test_speeds(engine):
    made = Batch([[1] * 50, [2] * 30], [3, 7])
    whole = 80 + 10 * 10
    assert workloads.output_speed(engine, made) == pytest.approx(10 / whole)
    assert workloads.input_speed(engine, made) == pytest.approx(80 / whole)
    assert workloads.total_speed(engine, made) == pytest.approx(90 / whole)
    assert workloads.decode_speed(engine, made) == pytest.approx(1 / 10)


def test_an_answer_that_is_cut_short_is_no_figure(engine):
    engine.cut_short = 1
    with pytest.raises(RuntimeError, match="9 tokens instead of 10"):
        workloads.output_speed(engine, Batch([[1]], [10]))
