"""The command, against a worker's HTTP server with a scripted scheduler."""

from __future__ import annotations

import asyncio
import json
from xml.etree import ElementTree

import pytest
from benchmarks.serving.__main__ import main
from tests.benchmarks.serving.sse_server import SseServer, serving, whole
from tests.worker.api.conftest import start_worker, tokenizer  # noqa: F401 - fixtures
from tests.worker.api.fake_scheduler import answer_with
from tests.worker.tokenization.tiny_tokenizer import write_tiny_tokenizer

LIMITS = {"context_length": 65536, "max_total_tokens": 65536}
SMALL = ("--dataset-name", "random", "--random-input-len", "600", "--random-output-len", "5")


@pytest.fixture
async def worker(start_worker):  # noqa: F811
    running = await start_worker(ready=LIMITS, enable_cache_report=True)
    running.scheduler.script = answer_with(list(range(36, 46)), cached_tokens=3)
    return running


async def run(*flags: str) -> int:
    """Exit code of the command, which has a loop of its own."""
    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(main, flags)
    return ended.value.code  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("backend", ["sglang", "openai", "openai-chat"])
async def test_every_api_is_counted_as_the_server_counts(worker, backend, tmp_path, capsys):
    files = tmp_path / "run.json", tmp_path / "run.svg"
    flags = ("--backend", backend, "--num-prompts", "7", "--random-range-ratio", "1")
    outputs = ("--output", str(files[0]), "--plot", str(files[1]))
    assert await run("--base-url", worker.url, *flags, *SMALL, *outputs) == 0
    samples, warm_up, measured = (
        worker.scheduler.requests[:2],
        worker.scheduler.requests[2:3],
        worker.scheduler.requests[3:],
    )
    assert [request.sampling.max_new_tokens for request in samples] == [1, 1]
    assert len(warm_up) == 1
    assert len({tuple(request.input_ids) for request in measured}) == 7
    assert all(request.sampling.max_new_tokens == 5 for request in measured)
    assert all(request.sampling.ignore_eos for request in measured)
    document = json.loads(files[0].read_text())
    figures = document["figures"]
    assert (figures["completed"], figures["failed"]) == (7, 0)
    assert figures["total_output_tokens"] == 7 * 5
    assert figures["total_cached_tokens"] == 7 * 3
    sent = [len(request.input_ids) for request in measured]
    assert figures["total_input_tokens"] == sum(sent)
    assert all(length == pytest.approx(600, rel=0.15) for length in sent)
    assert figures["p99_ttft_ms"] > 0
    assert figures["median_itl_ms"] >= 0
    assert [request["output_tokens"] for request in document["requests"]] == [5] * 7
    ElementTree.parse(files[1])
    printed = capsys.readouterr().out
    assert f"random, all at once, {backend}: tiny" in printed
    assert "time to first token" in printed


async def test_failures_are_printed_and_counted(worker, tmp_path, capsys):
    file = tmp_path / "run.json"
    questions = tmp_path / "sharegpt.json"
    chats = [["hello there " * 2, "yes " * 8], ["much " * 40_000, "no " * 8]]
    content = [{"conversations": [{"value": text} for text in chat]} for chat in chats]
    questions.write_text(json.dumps(content))
    flags = ("--dataset-path", str(questions), "--warmup-requests", "0", "--output", str(file))
    assert await run("--base-url", worker.url, *flags) == 0
    figures = json.loads(file.read_text())["figures"]
    assert (figures["completed"], figures["failed"]) == (1, 1)
    (reason,) = figures["failures"]
    assert reason.startswith("HTTP 400: The prompt has ")
    assert "1 requests failed" in capsys.readouterr().out


async def test_the_cache_is_flushed_after_the_warm_up(worker):
    assert await run("--base-url", worker.url, *SMALL, "--num-prompts", "1", "--flush-cache") == 0
    worker.scheduler.flush_succeeds = False
    assert await run("--base-url", worker.url, *SMALL, "--num-prompts", "1", "--flush-cache") == 1


async def test_lengths_are_the_tokenizers_where_the_server_does_not_count(tiny_tokenizer, capsys):
    pieces = whole("200 OK", b'data: {"choices": [{"text": "a", "finish_reason": "stop"}]}\n\n')
    server = SseServer(pieces)
    flags = ("--backend", "openai", "--model", "m", *SMALL, "--tokenizer", str(tiny_tokenizer))
    async with serving(server) as url:
        assert await run("--base-url", url, *flags, "--num-prompts", "2") == 0
    prompts = [body["prompt"] for _, _, body in server.asked[3:]]
    assert all(len(prompt.split()) < 300 for prompt in prompts)
    assert "2 answers had no usage" in capsys.readouterr().out


@pytest.fixture
def tiny_tokenizer(tmp_path):
    return write_tiny_tokenizer(tmp_path / "tiny")


async def test_a_server_that_does_not_serve_ends_the_command(capsys):
    server = SseServer(whole("503 Busy", b'{"error": {"message": "loading [x]"}}'))
    async with serving(server) as url:
        assert await run("--base-url", url, "--model", "m") == 1
        assert "the first request failed: HTTP 503: loading [x]" in capsys.readouterr().err
        assert await run("--base-url", url) == 1
        assert "/v1/models: HTTP 503" in capsys.readouterr().err


async def test_wrong_options_are_named(worker, tmp_path, capsys):
    missing = str(tmp_path / "missing.json")
    for flags, reason in (
        (("--dataset-path", missing), "missing.json"),
        (("--dataset-name", "mooncake"), "--dataset-path"),
        (("--tokenizer", missing), "no model at"),
        (("--request-rate", "0"), "above 0"),
        (("--warmup-requests", "-1"), "at least 0"),
        (("--random-range-ratio", "2"), "between 0 and 1"),
        (("--extra-request-body", "[1]"), "must be an object"),
        (("--extra-request-body", "{"), "is not JSON"),
        (("--backend", "grpc"), "invalid choice"),
    ):
        assert await run("--base-url", worker.url, *flags) == 2
        assert reason in capsys.readouterr().err.replace("\n", "")


async def test_a_trace_is_replayed(worker, tmp_path, capsys):
    trace = tmp_path / "trace.jsonl"
    line = {"timestamp": 0, "input_length": 700, "output_length": 4, "hash_ids": [1, 2]}
    trace.write_text(f"{json.dumps(line)}\n{json.dumps({**line, 'timestamp': 20})}\n")
    flags = ("--dataset-name", "mooncake", "--dataset-path", str(trace), "--trace-speed", "2")
    assert await run("--base-url", worker.url, *flags, "--warmup-requests", "0") == 0
    first, second = worker.scheduler.requests[2:]
    assert first.input_ids == second.input_ids
    printed = capsys.readouterr().out
    assert "the trace's times x 2" in printed
    assert "sent after it was due" in printed
