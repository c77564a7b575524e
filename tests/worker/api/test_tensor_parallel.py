"""Two ranks behind one worker's HTTP: they answer as one does, and end as one."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from ..checkpoints import make_checkpoint
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from .worker_process import WorkerProcess, children_of, wait_until_gone

OPTIONS = ["--dtype", "float32", "--num-threads", "2", "--max-total-tokens", "600"]
OPTIONS += ["--chunked-prefill-size", "64", "--schedule-conservativeness", "0.1"]
OPTIONS += ["--log-level", "warning"]
PROGRAM = ["-m", "worker.launch_server"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_tokenizer(tmp_path_factory.mktemp("model"))
    return make_checkpoint(folder, "llama3", vocab_size=300)


def start(folder: Path, ranks: int) -> WorkerProcess:
    arguments = ["--model-path", str(folder), "--tp-size", str(ranks), "--device", "cpu"]
    return WorkerProcess(PROGRAM, [*arguments, *OPTIONS])


@pytest.fixture(scope="module")
def workers(folder: Path) -> Iterator[tuple[WorkerProcess, WorkerProcess]]:
    """One of one rank and one of two. When the tests are done, a signal ends all of their ranks."""
    started = start(folder, 1), start(folder, 2)
    try:
        yield started
        (scheduler,) = children_of(started[1].process.pid)
        (follower,) = children_of(scheduler)
        for worker in started:
            worker.process.send_signal(signal.SIGTERM)
            assert worker.finish() == (0, "")
        wait_until_gone(follower)
    finally:
        for worker in started:
            worker.close()


@pytest.fixture(scope="module")
def urls(workers: tuple[WorkerProcess, WorkerProcess]) -> list[str]:
    return [worker.event("ready")["url"] for worker in workers]


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=120, trust_env=False) as client:
        yield client


def prompts(count: int) -> list[list[int]]:
    choice = random.Random(count)
    return [[choice.randrange(3, 270) for _ in range(choice.randint(1, 90))] for _ in range(count)]


async def answers(http: httpx.AsyncClient, url: str, **sampling) -> list[str]:
    params = {"max_new_tokens": 20, "ignore_eos": True, **sampling}
    body = {"input_ids": prompts(8), "sampling_params": params}
    response = await http.post(f"{url}/generate", json=body)
    assert response.status_code == 200, response.text
    return [answer["text"] for answer in response.json()]


async def test_greedy_answers_are_those_of_one_rank(http: httpx.AsyncClient, urls) -> None:
    one, two = [await answers(http, url, temperature=0) for url in urls]
    assert len(set(one)) == 8
    assert two == one


async def test_seeded_samples_are_those_of_one_rank(http: httpx.AsyncClient, urls) -> None:
    one, two = [await answers(http, url, temperature=1, seed=7) for url in urls]
    assert two == one


async def test_ranks_stay_in_step_through_samples_aborts_and_retractions(
    http: httpx.AsyncClient, urls: list[str]
) -> None:
    url = urls[1]

    async def ask(number: int, prompt: list[int]) -> None:
        params = {"max_new_tokens": 100, "ignore_eos": True}
        body = {"input_ids": prompt, "sampling_params": params, "stream": True}
        async with http.stream("POST", f"{url}/generate", json=body) as response:
            lines = response.aiter_lines()
            async for _ in lines:
                if number % 3 == 0:
                    return  # the client leaves: the request is aborted

    expected = await answers(http, url, temperature=0)
    async with asyncio.timeout(120):
        await asyncio.gather(*(ask(*each) for each in enumerate(prompts(16))))
        while (await http.post(f"{url}/flush_cache")).status_code != httpx.codes.OK:
            await asyncio.sleep(0.05)
    state = (await http.get(f"{url}/get_server_info")).json()["state"]
    assert state["free_tokens"] == state["total_tokens"] == 600
    assert state["retractions_total"] > 0
    assert await answers(http, url, temperature=0) == expected


def test_a_killed_rank_ends_the_worker_and_is_named(folder: Path) -> None:
    worker = start(folder, 2)
    worker.event("ready")
    (scheduler,) = children_of(worker.process.pid)
    (follower,) = children_of(scheduler)
    os.kill(follower, signal.SIGKILL)
    code, errors = worker.finish()
    assert code == 1
    assert errors.count("tensor-parallel rank 1 was killed by SIGKILL") == 1
    assert "Traceback" not in errors
    wait_until_gone(scheduler)


def test_a_model_that_ranks_cannot_divide_is_one_line(folder: Path) -> None:
    worker = start(folder, 8)
    assert "--tp-size 8: 4 attention heads" in worker.event("failed")["error"]
    assert worker.finish() == (1, "")
