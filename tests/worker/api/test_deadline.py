"""Every request has a deadline, which the HTTP process keeps."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from worker.messages import TokenChunks

from .conftest import RunningWorker, StartWorker, eventually
from .fake_scheduler import answer_with


def failed_events(response: httpx.Response) -> list[Any]:
    """The JSON of each event of a stream that an error ends."""
    lines = response.text.strip().split("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.fixture
async def hurried(start_worker: StartWorker) -> RunningWorker:
    """A worker whose scheduler says "ab" and then no more; requests have a tenth of a second."""
    worker = await start_worker(request_timeout=0.1)
    worker.scheduler.script = answer_with(worker.ids("ab"), finish=None)
    return worker


@pytest.mark.parametrize("n", [1, 2])
async def test_what_is_not_answered_in_time_is_aborted_with_a_504(
    hurried: RunningWorker, n: int
) -> None:
    body = {"text": "hi", "rid": "slow", "sampling_params": {"n": n}}
    response = await hurried.http.post("/generate", json=body)
    assert response.status_code == 504
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("timeout_error", "timeout")
    assert "--request-timeout" in error["message"]
    await eventually(lambda: len(hurried.scheduler.aborted) == n, "the engine is told")
    assert (await hurried.http.get("/get_load")).json() == {"load": 0}
    with pytest.raises(openai.InternalServerError) as caught:
        await hurried.openai().completions.create(model="tiny", prompt="hi")
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")


async def test_a_stream_ends_with_what_had_come_and_an_error_event(hurried: RunningWorker) -> None:
    body = {"text": "hi", "stream": True, "rid": "slow"}
    response = await hurried.http.post("/generate", json=body)
    assert response.status_code == 200
    *answers, error = failed_events(response)
    assert answers[-1]["text"] == "ab"
    assert error["error"]["code"] == "timeout"
    assert hurried.scheduler.aborted == ["slow"]


async def test_tokens_do_not_put_the_deadline_off(hurried: RunningWorker) -> None:
    hurried.scheduler.script = answer_with([], finish=None)

    async def keep_talking() -> None:
        await eventually(lambda: bool(hurried.scheduler.requests), "the request is there")
        while not hurried.scheduler.aborted:
            chunk = answer_with(hurried.ids("a"), finish=None)(hurried.scheduler.requests[0])
            await hurried.scheduler.send(TokenChunks(chunk))
            await asyncio.sleep(0.01)

    talking = asyncio.ensure_future(keep_talking())
    response = await hurried.http.post("/generate", json={"text": "hi", "stream": True})
    await talking
    assert failed_events(response)[-1]["error"]["code"] == "timeout"


async def test_without_a_limit_nothing_ends(start_worker: StartWorker) -> None:
    worker = await start_worker(request_timeout=0)
    worker.scheduler.script = answer_with([], finish=None)
    asking = asyncio.ensure_future(worker.http.post("/generate", json={"text": "a", "rid": "x"}))
    await asyncio.sleep(0.2)
    assert not asking.done()
    await worker.http.post("/abort_request", json={"rid": "x"})
    assert (await asking).status_code == 200
