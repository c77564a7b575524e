"""Figures are arithmetic over the times of chunks."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import pytest
from benchmarks.serving.backends import Answer
from benchmarks.serving.figures import Figures, request_documents
from benchmarks.serving.load import Run
from benchmarks.serving.plot import Axis, draw
from benchmarks.serving.workloads import Request
from rich.console import Console

REQUEST = Request("words", input_length=90, output_length=4)


def answer(sent: float, *chunk_times: float, **known: object) -> Answer:
    return Answer(
        REQUEST,
        sent=sent,
        chunk_times=list(chunk_times),
        chunk_tokens=[1] * len(chunk_times),
        finished=True,
        **known,  # pyright: ignore[reportArgumentType]
    )


def figures(*answers: Answer, duration: float = 10.0, cpu: float = 1.0, **facts: bool) -> Figures:
    return Figures.of(Run(list(answers), duration, cpu), **{"paced": False, **facts})


def test_latencies_of_one_answer():
    found = figures(answer(1.0, 1.5, 1.6, 1.8, 2.1)).document()
    assert found["mean_ttft_ms"] == pytest.approx(500)
    assert found["mean_e2e_latency_ms"] == pytest.approx(1100)
    assert found["mean_itl_ms"] == pytest.approx(200)
    assert found["median_itl_ms"] == pytest.approx(200)
    assert found["mean_tpot_ms"] == pytest.approx(200)


def test_percentiles_are_over_requests():
    found = figures(*(answer(0.0, i / 1000) for i in range(1, 101))).document()
    assert found["median_ttft_ms"] == pytest.approx(50.5)
    assert found["p90_ttft_ms"] == pytest.approx(90.1)
    assert found["p95_ttft_ms"] == pytest.approx(95.05)
    assert found["p99_ttft_ms"] == pytest.approx(99.01)
    assert "mean_tpot_ms" not in found, "an answer of one token has no time per token"
    assert "mean_itl_ms" not in found


def test_tokens_of_a_chunk_share_its_gap():
    several = answer(0.0, 1.0, 1.6, 1.7, output_tokens=8)
    several.chunk_tokens = [4, 3, 1]
    found = figures(several)
    assert found.latencies[2].seconds == pytest.approx([0.2, 0.2, 0.2, 0.1])
    assert found.document()["mean_tpot_ms"] == pytest.approx(100)
    assert found.totals()["tokens_per_chunk"] == pytest.approx(8 / 3)


def test_throughput_counts_whole_answers():
    answers = [
        answer(0.0, 1.0, 2.0, prompt_tokens=100, output_tokens=2, cached_tokens=64),
        answer(5.0, 6.0, 9.0, prompt_tokens=50, output_tokens=2, cached_tokens=0),
        answer(5.0, 6.0, 9.0, prompt_tokens=50, output_tokens=2, failure="it broke off"),
    ]
    totals = figures(*answers).totals()
    assert (totals["completed"], totals["failed"]) == (2, 1)
    assert totals["total_input_tokens"] == 150
    assert totals["total_output_tokens"] == 4
    assert totals["total_cached_tokens"] == 64
    assert totals["request_throughput"] == pytest.approx(0.2)
    assert totals["input_throughput"] == pytest.approx(15)
    assert totals["output_throughput"] == pytest.approx(0.4)
    assert totals["total_throughput"] == pytest.approx(15.4)
    assert totals["concurrency"] == pytest.approx((2 + 4) / 10)
    assert totals["client_cpu_share"] == pytest.approx(0.1)


def test_without_usage_chunks_are_tokens_and_prompts_as_meant():
    found = figures(answer(0.0, 1.0, 2.0, 3.0))
    totals = found.totals()
    assert (totals["total_input_tokens"], totals["total_output_tokens"]) == (90, 3)
    assert totals["total_cached_tokens"] is None
    assert "1 answers had no usage" in printed(found)


def printed(found: Figures) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(found.render("a title"))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_failures_are_shown_with_their_reasons():
    failed = [Answer(REQUEST, failure="HTTP 503: [busy]")] * 2 + [Answer(REQUEST, failure="gone")]
    text = printed(figures(answer(0.0, 1.0, output_tokens=1), *failed))
    assert "3 requests failed" in text
    assert "2 x HTTP 503: [busy]" in text
    assert "1 x gone" in text


def test_a_run_without_answers_has_figures():
    found = figures(Answer(REQUEST, failure="gone"))
    assert found.document()["failures"] == {"gone": 1}
    assert found.document()["output_throughput"] == 0
    assert "1 x gone" in printed(found)
    ElementTree.fromstring(draw(found, "nothing"))


def test_a_busy_client_says_so():
    one = answer(0.0, 1.0, output_tokens=1)
    assert "client was busy" in printed(figures(one, cpu=9.0))
    assert "client was busy" not in printed(figures(one, cpu=5.0))


def test_delays_are_shown_where_requests_had_their_time():
    late = answer(0.75, 1.0)
    late.due = 0.5
    assert figures(late, paced=True).document()["mean_send_delay_ms"] == pytest.approx(250)
    assert "mean_send_delay_ms" not in figures(late).document()


def test_requests_are_listed_as_they_were_sent():
    second = answer(2.0, 2.5, 3.0, prompt_tokens=7, output_tokens=2, cached_tokens=3)
    listed = request_documents([second, Answer(REQUEST, sent=1.0, failure="gone")])
    assert [each["sent"] for each in listed] == [1.0, 2.0]
    assert listed[0] | {"failure": "gone", "ttft": None, "e2e_latency": None} == listed[0]
    assert listed[1] == {
        "sent": 2.0,
        "ttft": 0.5,
        "e2e_latency": 1.0,
        "input_tokens": 7,
        "output_tokens": 2,
        "cached_tokens": 3,
        "failure": None,
    }


# ===== the picture =====


def test_a_plot_has_a_line_for_each_latency_and_for_what_goes_on():
    two = [answer(0.0, 1.0, 2.0, 2.0), answer(4.0, 5.0, 6.0)]
    document = ElementTree.fromstring(draw(figures(*two, paced=True), "a <title>"))
    lines = document.findall(".//{*}polyline")
    assert len(lines) == 4 + 2
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 64 <= x <= 404
            assert 56 <= y <= 300
    assert [text.text for text in document.findall("{*}text")] == ["a <title>"]
    latencies = [text.text for text in document.findall(".//{*}text") if text.text in NAMES]
    assert latencies == list(NAMES)


NAMES = ("TTFT", "TPOT", "ITL", "E2E")


@pytest.mark.parametrize(
    ("most", "ticks"),
    [(0, [0, 0.5, 1.0]), (1, [0, 0.5, 1.0]), (7, [0, 2, 4, 6, 8]), (130, [0, 50, 100, 150])],
)
def test_linear_axes_have_round_steps(most, ticks):
    assert Axis.linear(most).ticks == pytest.approx(ticks)
    assert Axis.linear(most).share(ticks[-1]) == 1


def test_logarithmic_axes_are_whole_powers():
    axis = Axis.powers(3, 400)
    assert axis.ticks == [1, 10, 100, 1000]
    assert axis.share(10) == pytest.approx(1 / 3)
    assert Axis.powers(10, 10).ticks == [10, 100]
