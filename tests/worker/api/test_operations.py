"""What who runs a worker sees of the real engine: its log, its metrics, and the end of a hang."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from ..checkpoints import make_checkpoint
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from .test_metrics import Figures
from .worker_process import WorkerProcess

Start = Callable[..., WorkerProcess]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_tokenizer(tmp_path_factory.mktemp("model"))
    return make_checkpoint(folder, "llama3", vocab_size=300)


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    started: list[WorkerProcess] = []

    def start_one(*arguments: str, program: tuple[str, ...]) -> WorkerProcess:
        given = ["--model-path", str(folder), "--device", "cpu", "--num-threads", "1"]
        started.append(WorkerProcess(program, [*given, "--max-total-tokens", "600", *arguments]))
        return started[-1]

    yield start_one
    for worker in started:
        worker.close()


def test_log_and_metrics_say_what_was_computed(start: Start) -> None:
    options = ["--enable-metrics", "--decode-log-interval", "4", "--served-model-name", "m"]
    worker = start(*options, program=("-m", "worker.launch_server"))
    url = worker.event("ready")["url"]
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    prompt = list(range(5, 45))
    for _ in range(2):
        answer = client.completions.create(
            model="m", prompt=prompt, max_tokens=9, extra_body={"ignore_eos": True}
        )
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (40, 9)
    figures = Figures(httpx.get(f"{url}/metrics", trust_env=False).text)
    assert (figures["prompt_tokens_total"], figures["generation_tokens_total"]) == (80, 18)
    assert figures.counts() == (2, 2, 2)
    assert figures["cache_hit_rate"] == 39 / 80
    assert figures["num_running_reqs"] == figures["num_queue_reqs"] == 0
    assert figures["num_used_tokens"] == figures["gen_throughput"] == 0
    worker.process.send_signal(signal.SIGTERM)
    code, log = worker.finish()
    assert code == 0
    lines = re.findall(r"INFO scheduler: (Prefill|Decode) batch\. (.*)", log)
    assert [kind for kind, _ in lines] == ["Prefill", "Decode", "Decode"] * 2
    assert "#new-token: 40, #cached-token: 0" in lines[0][1]
    assert "#new-token: 1, #cached-token: 39, cache hit rate: 48.75%" in lines[3][1]
    for _, line in (lines[1], lines[4]):
        assert "#running-req: 1" in line
        assert float(re.findall(r"gen throughput \(token/s\): ([\d.]+)", line)[0]) > 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_hang_ends_the_worker_and_says_where_each_rank_was(start: Start, ranks: int) -> None:
    program = (str(Path(__file__).with_name("hanging_worker.py")),)
    worker = start("--watchdog-timeout", "1", "--tp-size", str(ranks), program=program)
    url = worker.event("ready")["url"]
    assert httpx.get(f"{url}/health", trust_env=False).status_code == 200
    response = httpx.post(f"{url}/generate", json={"text": "hi"}, timeout=60, trust_env=False)
    reason = "no step for 1 seconds, with 0 requests running and 1 waiting"
    assert response.status_code == 500
    assert reason in response.json()["error"]["message"]
    code, log = worker.finish()
    assert code == 1
    assert "CRITICAL scheduler: the scheduler hangs: no step for 1 seconds" in log
    assert "in hang_with_requests" in log
    assert log.count("in follow\n") == ranks - 1
    assert f"the worker ends: the scheduler process failed: {reason}" in log
