"""Medians, ratios, and what counts as reached."""

from __future__ import annotations

import io
import json
import math

import pytest
from benchmarks.router.row import ROWS, Contestant, Measure, Reach, Row
from benchmarks.router.table import Outcome
from rich.console import Console

from benchmarks.router import table

OURS = Contestant("ours")


def make_row(*measures: Measure, policies: tuple[str, ...] = ("round_robin",)) -> Row:
    return Row("key", "a title", measures, lambda _bench, _one: {}, policies, False, False, False)


def outcomes(measure: str, **runs: list[float]) -> table.Outcomes:
    return {
        Contestant(name.replace("_", "-")): Outcome([{measure: value} for value in values])
        for name, values in runs.items()
    }


def only_line(measure: Measure, **runs: list[float]) -> table.Line:
    (line,) = table.lines(make_row(measure), outcomes(measure.name, **runs))
    return line


def test_medians_are_compared_with_the_best_llm_router():
    measure = Measure("CPU", "ms", Reach(25, of_best_peer=0.5))
    line = only_line(
        measure, ours=[30, 20, 22], smg=[150], sglang_router=[85], vllm_router=[55], nginx=[17]
    )
    assert line.ours == 22
    assert line.best_peer == 55
    assert line.nginx == 17
    assert line.reached is True
    assert table.ratio(line.ours, line.best_peer) == "0.40"


@pytest.mark.parametrize(
    ("reach", "more_is_better", "ours", "reached"),
    [
        (Reach(25), False, 25, True),
        (Reach(25), False, 26, False),
        (Reach(20), True, 25, True),
        (Reach(30), True, 25, False),
        (Reach(of_best_peer=0.5), False, 51, False),
        (Reach(of_best_peer=3), True, 299, False),
        (Reach(of_best_peer=3), True, 300, True),
        (Reach(of_nginx=1.1), False, 11, True),
        (Reach(100, of_nginx=1.1), False, 12, False),
        (Reach(2), False, math.inf, False),
        (Reach(), False, 1, None),
    ],
)
def test_every_limit_must_hold(reach: Reach, more_is_better: bool, ours: float, reached: bool):
    measure = Measure("figure", "", reach, more_is_better)
    line = only_line(measure, ours=[ours], smg=[100], nginx=[10])
    assert line.reached is reached


def test_nothing_is_reached_beside_a_peer_that_is_missing():
    measure = Measure("CPU", "ms", Reach(25, of_best_peer=0.5))
    assert only_line(measure, ours=[1], nginx=[17]).reached is None
    assert only_line(measure, smg=[1]).reached is None


def test_each_policy_of_ours_has_a_line_and_the_rest_is_the_same():
    measure = Measure("TTFT", "ms")
    row = make_row(measure, policies=("cache_aware", "expected_cost"))
    contestants = row.contestants(["smg", "nginx"], {"cache_aware", "expected_cost"})
    assert [one.name for one in contestants] == [
        "smg",
        "nginx",
        "ours, cache_aware",
        "ours, expected_cost",
    ]
    results = {one: Outcome([{"TTFT": float(at)}]) for at, one in enumerate(contestants)}
    first, second = table.lines(row, results)
    assert (first.ours, second.ours) == (2, 3)
    assert first.peers == second.peers
    # A binary that does not know a policy is measured without it.
    assert [one.name for one in row.contestants([], {"cache_aware"})] == ["ours, cache_aware"]


def test_what_failed_is_said_and_what_never_happened_is_null():
    measure = Measure("used after", "s", Reach(1))
    row = make_row(measure)
    results = {row: outcomes("used after", ours=[0.5], smg=[math.inf])}
    results[row][Contestant("nginx")] = Outcome([], ["did not start: [port] taken"])
    assert table.failures(results) == ["key, nginx: did not start: [port] taken"]
    (document,) = json.loads(json.dumps(table.document(results), allow_nan=False))
    assert document["runs"] == {
        "ours": [{"used after": 0.5}],
        "smg": [{"used after": None}],
        "nginx": [],
    }
    assert document["failures"] == {"nginx": ["did not start: [port] taken"]}
    assert document["figures"][0]["reached"] is True
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table.render("title", results))
    text = console.export_text()
    assert "never" in text
    assert "used after, s" in text


def test_figures_are_short():
    assert [table.figure(value) for value in (None, math.inf, 0.12345, 17.04, 5572.4)] == [
        "-",
        "never",
        "0.123",
        "17",
        "5,572",
    ]


def test_reaches_read_as_in_the_design():
    assert table.reach_text(Reach(25, of_best_peer=0.5), False) == "≤ 25, ≤ 0.5 x best peer"
    assert table.reach_text(Reach(20_000, of_best_peer=3), True) == "≥ 20,000, ≥ 3 x best peer"
    assert table.reach_text(Reach(), False) == ""


def test_every_row_is_registered_once_with_its_measures():
    import benchmarks.router.__main__  # noqa: F401 (registers them)

    assert {"tiny", "chat", "latency", "streams", "unread", "hang", "back", "chats"} <= set(ROWS)
    for key, row in ROWS.items():
        assert row.key == key
        names = [measure.name for measure in row.measures]
        assert len(set(names)) == len(names) > 0
