"""The workloads ask what their options say, the same for the same seed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
import pytest
from benchmarks.serving.__main__ import parse
from benchmarks.serving.texts import Texts
from benchmarks.serving.workloads import WORKLOADS, Request, Source


def make(*flags: str, texts: Texts | None = None) -> list[Request]:
    args = parse(list(flags))
    return WORKLOADS[args.dataset_name].make(Source(args, texts or Texts()))


def words(request: Request) -> list[str]:
    return request.prompt.split()


RANDOM = ("--dataset-name", "random", "--num-prompts", "400")
SHARED = ("--dataset-name", "generated-shared-prefix")
MOONCAKE = ("--dataset-name", "mooncake", "--dataset-path")


def test_random_lengths_lie_between_the_ratio_and_the_greatest():
    flags = ("--random-input-len", "100", "--random-output-len", "50", "--random-range-ratio")
    requests = make(*RANDOM, *flags, "0.5")
    assert all(len(words(request)) == request.input_length for request in requests)
    inputs = [request.input_length for request in requests]
    outputs = [request.output_length for request in requests]
    assert (min(inputs), max(inputs)) == (50, 100)
    assert (min(outputs), max(outputs)) == (25, 50)
    assert {(r.input_length, r.output_length) for r in make(*RANDOM, *flags, "1")} == {(100, 50)}
    assert min(r.input_length for r in make(*RANDOM, *flags, "0")) < 10


def test_the_seed_makes_the_prompts():
    assert make(*RANDOM) == make(*RANDOM)
    assert make(*RANDOM) != make(*RANDOM, "--seed", "2")


def test_what_the_server_adds_belongs_to_a_prompt():
    texts = Texts(tokens_per_word=2.0, overhead=20)
    (request,) = make("--dataset-name", "random", "--num-prompts", "1", "--random-range-ratio", "1")
    (shorter,) = make(
        *("--dataset-name", "random", "--num-prompts", "1", "--random-range-ratio", "1"),
        texts=texts,
    )
    assert len(words(request)) == 1024
    assert len(words(shorter)) == (1024 - 20) // 2


def test_groups_share_a_system_prompt_and_nothing_more():
    sizes = ("--gsp-num-groups", "3", "--gsp-prompts-per-group", "4", "--gsp-output-len", "7")
    requests = make(*SHARED, *sizes, "--gsp-system-prompt-len", "30", "--gsp-question-len", "10")
    assert len(requests) == 12
    assert {(len(words(r)), r.input_length, r.output_length) for r in requests} == {(40, 40, 7)}
    groups: dict[str, set[str]] = {}
    for request in requests:
        groups.setdefault(" ".join(words(request)[:30]), set()).add(request.prompt)
    assert [len(members) for members in groups.values()] == [4, 4, 4]
    first_two = [" ".join(words(request)[:30]) for request in requests[:4]]
    assert len(set(first_two)) > 1, "the groups come one after the other"


# ===== sharegpt =====


def test_lengths_without_a_file_are_log_normal():
    requests = make("--num-prompts", "4000")
    inputs = np.array([request.input_length for request in requests])
    outputs = np.array([request.output_length for request in requests])
    assert np.median(inputs) == pytest.approx(69, rel=0.1)
    assert np.median(outputs) == pytest.approx(190, rel=0.1)
    assert inputs.min() >= 4
    assert max(inputs.max(), outputs.max()) <= 1024
    assert all(len(words(request)) == request.input_length for request in requests)


def test_lengths_do_not_hang_on_the_server():
    def lengths(texts: Texts) -> list[tuple[int, int]]:
        return [(r.input_length, r.output_length) for r in make("--num-prompts", "50", texts=texts)]

    assert lengths(Texts()) == lengths(Texts(tokens_per_word=1.7, overhead=30))


def test_a_context_length_leaves_out_what_is_longer():
    requests = make("--num-prompts", "300", "--sharegpt-context-len", "200")
    assert len(requests) == 300
    assert max(request.input_length + request.output_length for request in requests) <= 200
    with pytest.raises(ValueError, match="no room"):
        make("--sharegpt-context-len", "100", "--sharegpt-output-len", "100")


def test_a_sharegpt_file(tmp_path):
    file = tmp_path / "sharegpt.json"

    def chat(*texts: str) -> dict:
        return {"conversations": [{"from": "x", "value": text} for text in texts]}

    question, answer = "what is a radix tree " * 4, "a tree " * 20
    chats = [chat(question, answer, "more"), chat("alone " * 9), chat("no", answer), chat()]
    file.write_text(json.dumps(chats))
    (request,) = make("--dataset-path", str(file), texts=Texts(overhead=3))
    assert request == Request(question, len(question) // 4 + 3, len(answer) // 4)
    (fixed,) = make("--dataset-path", str(file), "--sharegpt-output-len", "9")
    assert fixed.output_length == 9


def test_questions_of_mt_bench(tmp_path):
    file = tmp_path / "questions.jsonl"
    lines = [json.dumps({"turns": [f"question number {i} of many", "and?"]}) for i in range(9)]
    file.write_text("\n".join(lines))
    requests = make("--dataset-path", str(file), "--num-prompts", "5")
    assert len({request.prompt for request in requests}) == 5
    assert all(request.prompt.startswith("question number") for request in requests)
    assert len({request.output_length for request in requests}) > 1


@pytest.mark.parametrize("content", ["{}", "[1]", "no json", '{"turns": []}'])
def test_other_files_are_refused(tmp_path, content):
    file = tmp_path / "other.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="neither ShareGPT's JSON"):
        make("--dataset-path", str(file))


# ===== mooncake =====


@dataclass(frozen=True)
class Line:
    """A line of a trace."""

    timestamp: int
    input_length: int
    output_length: int
    hash_ids: list[int]


@pytest.fixture
def trace(tmp_path):
    lines = [Line(0, 1100, 3, [7, 8, 9]), Line(3000, 1024, 5, [7, 8]), Line(9000, 600, 1, [10, 8])]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(json.dumps(vars(line)) for line in lines) + os.linesep)
    return str(path)


def test_equal_hashes_are_equal_text(trace):
    first, second, third = (words(request) for request in make(*MOONCAKE, trace))
    assert [len(first), len(second), len(third)] == [1100, 1024, 600]
    assert first[:1024] == second
    assert third[512:600] == second[512:600]
    assert third[:512] != second[:512]
    assert first[1024:] != second[: 1100 - 1024]


def test_the_trace_says_when(trace):
    requests = make(*MOONCAKE, trace, "--trace-speed", "3", "--num-prompts", "2")
    assert [request.seconds for request in requests] == [0.0, 1.0]
    assert [request.output_length for request in requests] == [3, 5]


@pytest.mark.parametrize("tokens_per_word", [1.0, 1.3, 0.7])
def test_shorter_blocks_shorten_prompts(trace, tokens_per_word):
    texts = Texts(tokens_per_word=tokens_per_word)
    requests = make(*MOONCAKE, trace, "--trace-block-len", "64", texts=texts)
    assert [request.input_length for request in requests] == [138, 128, 75]
    for request in requests:
        assert len(words(request)) * tokens_per_word == pytest.approx(request.input_length, abs=2)


def test_a_trace_is_needed():
    with pytest.raises(ValueError, match="--dataset-path"):
        make("--dataset-name", "mooncake")
