"""Sessions: what a request's prompt becomes, and what a session remembers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from worker.api import session_store
from worker.messages import FinishReason

from .conftest import RunningWorker, StartWorker, eventually
from .fake_scheduler import answer_with
from .test_native import events_of

ANSWER = [40, 41]


@pytest.fixture
async def session(worker: RunningWorker) -> Session:
    worker.scheduler.script = answer_with(ANSWER, finish=FinishReason("length"))
    return Session(worker, await open_session(worker))


async def open_session(worker: RunningWorker, capacity: int = 1000, **body: Any) -> str:
    response = await worker.http.post(
        "/open_session", json={"capacity_of_str_len": capacity, **body}
    )
    assert response.status_code == 200
    return response.json()


class Session:
    def __init__(self, worker: RunningWorker, session_id: str) -> None:
        self.worker = worker
        self.id = session_id

    async def generate(
        self, prompt: list[int], after: str | None = None, *, rid: str | None = None, **params: Any
    ) -> httpx.Response:
        params = {"id": self.id, "rid": after, **params}
        body = {"input_ids": prompt, "rid": rid, "session_params": params}
        return await self.worker.http.post("/generate", json=body)

    async def go_on(self, prompt: list[int], after: str | None = None, **more: Any) -> str:
        """Returns the id of the request, which must be answered."""
        response = await self.generate(prompt, after, **more)
        assert response.status_code == 200, response.text
        return response.json()["meta_info"]["id"]

    async def refused(self, prompt: list[int], after: str | None = None, **more: Any) -> str:
        response = await self.generate(prompt, after, **more)
        assert response.status_code == 400, response.text
        return response.json()["error"]["message"]

    @property
    def prompts(self) -> list[list[int]]:
        """What the engine was asked to continue."""
        return [request.input_ids for request in self.worker.scheduler.requests]


async def test_a_request_goes_on_after_prompt_and_answer_of_an_earlier_one(
    session: Session,
) -> None:
    first = await session.go_on([5, 6])
    second = await session.go_on([7], first)
    await session.go_on([8], second)
    await session.go_on([9], first)  # a branch
    await session.go_on([3])  # a beginning of its own
    assert session.prompts == [
        [5, 6],
        [5, 6, *ANSWER, 7],
        [5, 6, *ANSWER, 7, *ANSWER, 8],
        [5, 6, *ANSWER, 9],
        [3],
    ]


@pytest.mark.parametrize(
    ("params", "context"),
    [
        ({"offset": None}, [5, 6, 7, 40, 41]),
        ({"offset": 0}, [5, 6, 7, 40, 41]),
        ({"offset": 2}, [5, 6]),
        ({"offset": 99}, [5, 6, 7, 40, 41]),
        ({"offset": -1}, [5, 6, 7, 40]),
        ({"drop_previous_output": True}, [5, 6, 7]),
        ({"drop_previous_output": True, "offset": -1}, [5, 6]),
    ],
)
async def test_offset_and_drop_previous_output_cut_the_context(
    session: Session, params: dict[str, Any], context: list[int]
) -> None:
    first = await session.go_on([5, 6, 7])
    second = await session.go_on([9], first, **params)
    await session.go_on([8], second)
    assert session.prompts[1:] == [[*context, 9], [*context, 9, *ANSWER, 8]]


async def test_replace_forgets_what_went_on_from_a_request_and_keeps_the_request(
    session: Session,
) -> None:
    root = await session.go_on([5])
    child = await session.go_on([6], root)
    grandchild = await session.go_on([7], child)
    again = await session.go_on([8], root, replace=True)
    assert session.prompts[-1] == [5, *ANSWER, 8]
    for gone in (child, grandchild):
        assert "has no request" in await session.refused([9], gone)
    await session.go_on([9], again)
    fresh = await session.go_on([4], replace=True)
    assert session.prompts[-1] == [4]
    assert "has no request" in await session.refused([9], root)
    await session.go_on([9], fresh)


async def test_a_running_request_can_be_replaced_but_not_gone_on_from(session: Session) -> None:
    worker = session.worker
    worker.scheduler.script = answer_with(ANSWER, finish=None)
    running = asyncio.ensure_future(session.generate([5], rid="slow"))
    await eventually(lambda: len(worker.scheduler.requests) == 1, "it runs")
    await asyncio.sleep(0.05)
    assert "still running" in await session.refused([6], "slow")
    worker.scheduler.script = answer_with(ANSWER, finish=FinishReason("length"))
    await session.go_on([6], "slow", replace=True)
    answer = (await running).json()
    assert answer["meta_info"]["finish_reason"] == {
        "type": "abort",
        "message": "Replaced within its session",
    }
    assert session.prompts == [[5], [5, *ANSWER, 6]]
    assert worker.scheduler.aborted == ["slow"]
    await session.go_on([7], "slow")
    assert session.prompts[-1] == [5, *ANSWER, 7]


@pytest.mark.parametrize("stream", [False, True])
async def test_text_streams_and_samples_are_parts_of_a_session_too(
    session: Session, stream: bool
) -> None:
    worker = session.worker
    params: dict[str, Any] = {"id": session.id}
    body = {"text": "hi", "stream": stream, "session_params": params, "rid": "a"}
    response = await worker.http.post("/generate", json=body)
    assert (events_of(response)[-1] if stream else response.json())["meta_info"]["id"] == "a"
    params["rid"] = "a"
    response = await worker.http.post(
        "/generate", json={**body, "rid": "b", "sampling_params": {"n": 2}}
    )
    assert response.status_code == 200
    beginning = worker.ids("")
    hi, own = worker.ids("hi"), worker.ids("hi")[len(beginning) :]
    assert session.prompts == [hi, [*hi, *ANSWER, *own], [*hi, *ANSWER, *own]]
    await session.go_on([9], "b-1")
    assert session.prompts[-1] == [*hi, *ANSWER, *own, *ANSWER, 9]


async def test_a_list_of_prompts_can_be_of_several_sessions(session: Session) -> None:
    worker = session.worker
    other = await open_session(worker)
    first = await session.go_on([5])
    params = [{"id": session.id, "rid": first}, {"id": other}]
    body = {"input_ids": [[6], [7]], "session_params": params}
    assert (await worker.http.post("/generate", json=body)).status_code == 200
    assert session.prompts[1:] == [[5, *ANSWER, 6], [7]]
    body["session_params"] = {"id": session.id, "rid": first}
    assert (await worker.http.post("/generate", json=body)).status_code == 200
    assert session.prompts[3:] == [[5, *ANSWER, 6], [5, *ANSWER, 7]]
    body["session_params"] = params[:1]
    assert (await worker.http.post("/generate", json=body)).status_code == 400


async def test_a_request_that_fails_adds_nothing(session: Session) -> None:
    worker = session.worker
    worker.scheduler.script = answer_with([], finish=FinishReason("abort", message="no"))
    assert (await session.generate([5], rid="x")).status_code == 500
    worker.scheduler.script = answer_with(ANSWER, finish=None)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await session.generate([5], rid="y")
    await eventually(lambda: worker.scheduler.aborted == ["y"], "its client has left")
    for gone in ("x", "y"):
        assert "has no request" in await session.refused([6], gone)


async def test_a_rid_is_one_request_of_a_session(session: Session) -> None:
    await session.go_on([5], rid="same")
    assert "has a request 'same' already" in await session.refused([6], rid="same")


async def test_sessions_open_and_close(worker: RunningWorker) -> None:
    assert await open_session(worker, session_id="mine") == "mine"
    response = await worker.http.post(
        "/open_session", json={"capacity_of_str_len": 10, "session_id": "mine"}
    )
    assert response.status_code == 400
    assert (
        await worker.http.post("/close_session", json={"session_id": "mine"})
    ).status_code == 200
    assert await Session(worker, "mine").refused([5]) == (
        "session_params.id: no session 'mine' is open"
    )
    response = await worker.http.post("/close_session", json={"session_id": "mine"})
    assert response.json()["error"]["param"] == "session_id"
    for wrong in ({}, {"capacity_of_str_len": 0}, {"capacity_of_str_len": 1, "session_id": ""}):
        assert (await worker.http.post("/open_session", json=wrong)).status_code == 400


async def test_capacity_is_the_length_of_the_whole_prompt_in_characters(
    worker: RunningWorker,
) -> None:
    worker.scheduler.script = answer_with(worker.ids("ab"), finish=FinishReason("length"))
    session = Session(worker, await open_session(worker, capacity=9))
    first = await session.go_on(worker.ids("café"))
    second = await session.go_on(worker.ids("xyz"), first)
    refusal = await session.refused(worker.ids("é"), second)
    assert "12 characters" in refusal
    assert "capacity_of_str_len of 9" in refusal


async def test_without_a_tokenizer_capacity_counts_tokens(start_worker: StartWorker) -> None:
    worker = await start_worker(tokenizer=None, skip_tokenizer_init=True)
    worker.scheduler.script = answer_with(ANSWER, finish=FinishReason("length"))
    session = Session(worker, await open_session(worker, capacity=6))
    first = await session.go_on([5, 6])
    await session.go_on([7, 8], first)
    assert session.prompts[-1] == [5, 6, *ANSWER, 7, 8]
    assert "7 characters" in await session.refused([7, 8, 9], first)


async def test_sessions_are_bounded_and_idle_ones_make_room(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_store, "MAX_SESSIONS", 2)
    monkeypatch.setattr(session_store, "MAX_TURNS", 3)
    worker.scheduler.script = answer_with(ANSWER, finish=FinishReason("length"))
    session = Session(worker, await open_session(worker))
    await open_session(worker)
    assert (
        await worker.http.post("/open_session", json={"capacity_of_str_len": 10})
    ).status_code == 400
    for prompt in ([5], [6], [7]):
        await session.go_on(prompt)
    assert "holds 3 requests" in await session.refused([8])
    worker.scheduler.script = answer_with(ANSWER, finish=None)
    asking = asyncio.ensure_future(session.generate([9], replace=True))
    await eventually(lambda: [9] in session.prompts, "it runs")
    monkeypatch.setattr(session_store, "IDLE_SECONDS", -1.0)
    await open_session(worker)
    assert len(worker.service.sessions) == 2, "the one with a running request stays"
    await worker.http.post("/abort_request", json={"abort_all": True})
    await asking


async def test_an_unknown_session_is_told_from_a_wrong_field(start_worker: StartWorker) -> None:
    worker = await start_worker()
    for params in ({"id": "x", "rids": "a"}, {"rid": "a"}, "x", [{"id": 1}]):
        body = {"input_ids": [5], "session_params": params}
        response = await worker.http.post("/generate", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"].startswith("session_params")
