"""/abort_request and /get_load."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .conftest import RunningWorker, eventually
from .fake_scheduler import answer_with
from .test_native import events_of


async def running(worker: RunningWorker, *bodies: dict[str, Any]) -> list[asyncio.Task]:
    """Calls of /generate that have got the text "ab" each, and would never end."""
    worker.scheduler.script = answer_with(worker.ids("ab"), finish=None, cached_tokens=1)
    tasks = [
        asyncio.ensure_future(worker.http.post("/generate", json={"text": "hi", **body}))
        for body in bodies
    ]
    await eventually(lambda: len(worker.scheduler.requests) >= len(bodies), "all calls arrive")
    await asyncio.sleep(0.05)
    return tasks


@pytest.mark.parametrize("stream", [False, True])
async def test_aborted_request_is_answered_with_what_there_is(
    worker: RunningWorker, stream: bool
) -> None:
    stop = {"stop": "bc"}
    body = {"rid": "job-1", "stream": stream, "sampling_params": stop}
    (task,) = await running(worker, body)
    answer = await worker.http.post("/abort_request", json={"rid": "job-1"})
    assert answer.json() == {"aborted": 1}
    response = await task
    assert response.status_code == 200
    result = events_of(response)[-1] if stream else response.json()
    assert result["text"] == "ab"
    assert result["meta_info"]["cached_tokens"] == 1
    assert result["meta_info"]["finish_reason"] == {
        "type": "abort",
        "message": "Aborted by /abort_request",
    }
    assert worker.scheduler.aborted == ["job-1"]


async def test_abort_takes_the_beginning_of_several_ids(worker: RunningWorker) -> None:
    bodies = [{"rid": rid, "sampling_params": {"n": 2}} for rid in ("job-1", "job-2", "other")]
    tasks = await running(worker, *bodies)
    assert (await worker.http.get("/get_load")).json() == {"load": 6}
    answer = await worker.http.post("/abort_request", json={"rid": "job-"})
    assert answer.json() == {"aborted": 4}
    assert sorted(worker.scheduler.aborted) == ["job-1-0", "job-1-1", "job-2-0", "job-2-1"]
    assert (await worker.http.get("/get_load")).json() == {"load": 2}
    assert (await worker.http.post("/abort_request", json={"rid": "x"})).json() == {"aborted": 0}
    answer = await worker.http.post("/abort_request", json={"abort_all": True})
    assert answer.json() == {"aborted": 2}
    assert {task.result().status_code for task in tasks if await task} == {200}
    assert (await worker.http.get("/get_load")).json() == {"load": 0}


async def test_chat_says_that_it_was_aborted(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("ab"), finish=None)
    messages: Any = [{"role": "user", "content": "hi"}]
    stream = await worker.openai().chat.completions.create(
        model="m", messages=messages, stream=True
    )
    first = await anext(stream)
    await worker.http.post("/abort_request", json={"rid": first.id})
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices[0].finish_reason == "abort"


@pytest.mark.parametrize("body", [{}, {"rid": ""}, {"rid": "a", "abort_all": True}])
async def test_abort_needs_an_id_or_all(worker: RunningWorker, body: dict[str, Any]) -> None:
    response = await worker.http.post("/abort_request", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "rid"
