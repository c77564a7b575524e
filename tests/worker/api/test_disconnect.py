"""A client that goes away ends its requests at once, and those of nobody else."""

from __future__ import annotations

import asyncio
import json

import pytest

from .conftest import RunningWorker, eventually
from .fake_scheduler import answer_with


async def open_request(worker: RunningWorker, path: str, body: dict) -> asyncio.StreamWriter:
    """Send a request over a connection of its own and leave the answer unread."""
    host, port = worker.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    writer.write(head.encode() + content)
    await writer.drain()
    return writer


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "body", "count"),
    [
        ("/generate", {"text": "a"}, 1),
        ("/generate", {"text": ["a", "b", "c"]}, 3),
        ("/generate", {"text": ["a", "b"], "sampling_params": {"n": 2}}, 4),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "n": 3}, 3),
        ("/v1/completions", {"prompt": ["a", "b"]}, 2),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, 1),
    ],
)
@pytest.mark.parametrize("tokens_before", [0, 3])
async def test_disconnect_aborts_every_request_of_the_call(
    worker: RunningWorker, path: str, body: dict, count: int, stream: bool, tokens_before: int
) -> None:
    scheduler = worker.scheduler
    scheduler.script = answer_with(worker.ids("abc")[:tokens_before], finish=None)
    writer = await open_request(worker, path, {**body, "stream": stream})
    await eventually(lambda: len(scheduler.requests) == count, "all requests arrive")
    assert scheduler.aborted == []
    writer.close()
    await eventually(lambda: len(scheduler.aborted) == count, "all requests are aborted")
    assert set(scheduler.aborted) == {request.rid for request in scheduler.requests}


async def test_disconnect_leaves_other_requests_alone(worker: RunningWorker) -> None:
    scheduler = worker.scheduler
    scheduler.script = answer_with(worker.ids("abc"), finish=None)
    leaves = await open_request(worker, "/generate", {"text": "a", "rid": "leaves"})
    stays = await open_request(worker, "/generate", {"text": "a", "rid": "stays"})
    await eventually(lambda: len(scheduler.requests) == 2, "both arrive")
    leaves.close()
    await eventually(lambda: scheduler.aborted == ["leaves"], "one is aborted")
    scheduler.script = answer_with(worker.ids("ok"))
    assert (await worker.http.post("/generate", json={"text": "b"})).json()["text"] == "ok"
    assert scheduler.aborted == ["leaves"]
    stays.close()
    await eventually(lambda: scheduler.aborted == ["leaves", "stays"], "the other is aborted")


async def test_finished_requests_are_not_aborted(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("ok"))
    for stream in (True, False):
        await worker.http.post("/generate", json={"text": "b", "stream": stream})
    assert (await worker.http.get("/get_server_info")).status_code == 200
    assert worker.scheduler.aborted == []


async def test_requests_end_with_an_error_when_the_engine_is_gone(worker: RunningWorker) -> None:
    scheduler = worker.scheduler
    scheduler.script = answer_with(worker.ids("abc"), finish=None)
    body = {"text": "a", "stream": False}
    waiting = asyncio.ensure_future(worker.http.post("/generate", json=body))
    streaming = asyncio.ensure_future(worker.http.post("/generate", json={**body, "stream": True}))
    await eventually(lambda: len(scheduler.requests) == 2, "both arrive")
    await asyncio.sleep(0.05)
    worker.service.engine.fail("the scheduler process was killed by SIGKILL")
    response = await waiting
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "the scheduler process was killed by SIGKILL"
    last = (await streaming).text.strip().rsplit("\n\n", 1)[-1]
    assert "killed by SIGKILL" in json.loads(last.removeprefix("data: "))["error"]["message"]
    assert (await worker.http.post("/generate", json=body)).status_code == 503
    assert (await worker.http.get("/health")).status_code == 503
