"""/v1/batches with a scripted scheduler, through the `openai` client."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import openai
import pytest

from worker.api.batch import lease, line_client
from worker.api.openai.batches import BatchBody
from worker.api.openai.types import ChatBody
from worker.messages import FinishReason, GenerateRequest, TokenChunk, TokenChunks

from .batch_requests import (
    CHAT,
    TEXT,
    as_jsonl,
    chat_line,
    ended,
    ids,
    is_free,
    lines_of,
    results,
    start_batch,
    text_line,
)
from .conftest import RunningWorker, StartWorker, eventually
from .fake_scheduler import answer_with
from .test_fuzz import bodies, examples


@pytest.fixture
async def worker(start_worker: StartWorker) -> RunningWorker:
    return is_free(await start_worker())


async def begun(worker: RunningWorker, count: int) -> None:
    await eventually(lambda: len(worker.scheduler.requests) >= count, f"{count} requests")


async def status(worker: RunningWorker, batch_id: str, wanted: str) -> openai.types.Batch:
    batch: Any = None

    async def is_wanted() -> bool:
        nonlocal batch
        batch = await worker.openai().batches.retrieve(batch_id)
        return batch.status == wanted

    await eventually(is_wanted, f"{batch_id} {wanted}")
    return batch


async def test_a_batch_of_chats_runs(worker: RunningWorker) -> None:
    client = worker.openai()
    worker.scheduler.script = answer_with(worker.ids("the café"), cached_tokens=2)
    lines = [chat_line(f"request {i}", max_tokens=20) for i in range(100)]
    made = await start_batch(client, lines, metadata={"for": "a test"})
    assert (made.object, made.status, made.endpoint) == ("batch", "validating", CHAT)
    assert made.expires_at == made.created_at + 24 * 3600
    batch = await ended(client, made)
    assert batch.status == "completed"
    assert batch.metadata == {"for": "a test"}
    assert batch.model == "tiny"
    assert batch.errors is None
    assert batch.error_file_id is None
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (100, 100, 0)
    times = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert list(times) == sorted(time for time in times if time is not None)
    assert (batch.failed_at, batch.expired_at, batch.cancelled_at) == (None, None, None)
    output = await lines_of(client, batch.output_file_id)
    assert ids(output) == ids(lines)
    assert len({line["id"] for line in output}) == 100
    for line in output:
        assert line["id"].startswith("batch_req_")
        assert line["error"] is None
        response = line["response"]
        assert (response["status_code"], bool(response["request_id"])) == (200, True)
        answer = openai.types.chat.ChatCompletion.model_validate(response["body"])
        assert answer.choices[0].message.content == "the café"
    answers = [line["response"]["body"]["usage"] for line in output]
    assert batch.usage is not None
    assert batch.usage.input_tokens == sum(each["prompt_tokens"] for each in answers) > 0
    assert batch.usage.output_tokens == sum(each["completion_tokens"] for each in answers) > 0
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens
    file = await client.files.retrieve(batch.output_file_id or "")
    assert (file.purpose, file.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert file.expires_at is None


async def test_a_batch_of_completions_gives_what_http_gives(start_worker: StartWorker) -> None:
    worker = is_free(await start_worker(api_key="secret", enable_cache_report=True))
    client = worker.openai("secret")
    worker.scheduler.script = answer_with(worker.ids("abc"), cached_tokens=2)
    line = text_line("one", n=2, echo=True)
    batch = await ended(client, await start_batch(client, [line], TEXT))
    (output,) = await lines_of(client, batch.output_file_id)
    headers = {"authorization": "Bearer secret"}
    answer = await worker.http.post(TEXT, json=line["body"], headers=headers)
    expected, got = answer.json(), output["response"]["body"]
    for each in (expected, got):
        del each["id"], each["created"]
    assert got == expected
    assert batch.usage is not None
    assert batch.usage.input_tokens_details.cached_tokens == 2


async def test_lines_that_fail_are_in_the_error_file(worker: RunningWorker) -> None:
    client = worker.openai()
    lines = [
        chat_line("good"),
        chat_line("hot", temperature=-1),
        chat_line("streamed", stream=True),
        chat_line("long", max_tokens=100_000),
        chat_line("strange", colour="red"),
        chat_line("good, too"),
    ]
    made = await start_batch(client, lines)
    batch = await ended(client, made)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (6, 2, 4)
    output, errors = await results(client, batch)
    assert ids(output) == ["good", "good, too"]
    assert ids(errors) == ["hot", "streamed", "long", "strange"]
    params = ["temperature", "stream", "max_tokens", "colour"]
    for line, param in zip(errors, params, strict=True):
        assert line["error"] is None
        assert line["response"]["status_code"] == 400
        assert line["response"]["request_id"]
        error = line["response"]["body"]["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert len(worker.scheduler.requests) == 2


async def test_whatever_a_body_holds_its_line_is_answered_as_over_http(
    worker: RunningWorker,
) -> None:
    client = worker.openai()
    worker.scheduler.script = answer_with(worker.ids("ab"))
    valid = {"messages": [{"role": "user", "content": "hi"}]}
    fuzzed = [each for each in examples(bodies(ChatBody, valid)) if isinstance(each, dict)]
    given = [body for body in fuzzed if body.get("stream") is not True]
    lines = [{**chat_line(str(i)), "body": body} for i, body in enumerate(given)]
    batch = await ended(client, await start_batch(client, lines))
    output, errors = await results(client, batch)
    assert output
    assert errors
    found = {line["custom_id"]: line["response"] for line in output + errors}
    for i, body in enumerate(given):
        expected = await worker.http.post(CHAT, content=json.dumps(body))
        assert found[str(i)]["status_code"] == expected.status_code
        if not expected.is_success:
            assert found[str(i)]["body"] == expected.json()


async def test_whatever_a_batch_is_asked_with_it_is_made_or_refused(
    worker: RunningWorker,
) -> None:
    file = await worker.openai().files.create(file=b"{}", purpose="batch")
    valid = {"input_file_id": file.id, "endpoint": CHAT, "metadata": {"a": "b"}}
    statuses = set()
    for body in examples(bodies(BatchBody, valid)):
        response = await worker.http.post("/v1/batches", content=json.dumps(body))
        assert response.status_code in (200, 400, 404), (body, response.text)
        statuses.add(response.status_code)
    assert statuses >= {200, 400}


async def test_bad_lines_fail_the_batch_before_it_runs(worker: RunningWorker) -> None:
    client = worker.openai()
    lines = [chat_line("a"), "{", chat_line("a"), {**chat_line("b"), "url": TEXT}]
    batch = await ended(client, await start_batch(client, lines))
    assert batch.status == "failed"
    assert batch.failed_at is not None
    assert batch.errors is not None
    assert [(each.line, each.code, each.param) for each in batch.errors.data or []] == [
        (2, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "url_mismatch", "url"),
    ]
    assert (batch.output_file_id, batch.error_file_id) == (None, None)
    assert worker.scheduler.requests == []


@pytest.mark.parametrize(
    ("change", "status_code", "param"),
    [
        ({"endpoint": "/v1/images/edits"}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"metadata": {"k": "v" * 513}}, 400, "metadata.k"),
        ({"metadata": {str(i): "v" for i in range(17)}}, 400, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, 400, None),
        ({"input_file_id": "file-none"}, 404, "input_file_id"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
async def test_wrong_batches_are_refused(
    worker: RunningWorker, change: dict[str, Any], status_code: int, param: str | None
) -> None:
    file = await worker.openai().files.create(file=b"{}", purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **change}
    response = await worker.http.post("/v1/batches", json=body)
    assert response.status_code == status_code
    assert response.json()["error"]["param"] == (param or "output_expires_after.seconds")
    assert (await worker.http.get("/v1/batches")).json()["data"] == []


async def test_only_files_for_batches_are_taken(worker: RunningWorker) -> None:
    client = worker.openai()
    file = await client.files.create(file=as_jsonl([chat_line("a")]), purpose="user_data")
    with pytest.raises(openai.BadRequestError) as error:
        await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert error.value.param == "input_file_id"


async def test_lists_have_pages(worker: RunningWorker) -> None:
    client = worker.openai()
    made = [(await start_batch(client, [chat_line("a")])).id for _ in range(5)]
    assert [each.id async for each in client.batches.list(limit=2)] == made[::-1]
    page = (await worker.http.get("/v1/batches", params={"limit": 3})).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (made[4], made[2], True)
    assert (await worker.http.get("/v1/batches", params={"limit": 101})).status_code == 400
    with pytest.raises(openai.NotFoundError) as error:
        await client.batches.retrieve("batch_none")
    assert error.value.code == "batch_not_found"


async def test_results_expire_when_asked(worker: RunningWorker) -> None:
    client = worker.openai()
    expiry = {"anchor": "created_at", "seconds": 3600}
    batch = await ended(
        client, await start_batch(client, [chat_line("a")], output_expires_after=expiry)
    )
    file = await client.files.retrieve(batch.output_file_id or "")
    assert file.expires_at == file.created_at + 3600


# ===== progress and ends =====


def answer_only(worker: RunningWorker, count: int) -> None:
    """The first `count` requests are answered, the others never."""

    def script(request: GenerateRequest) -> list[TokenChunk]:
        if len(worker.scheduler.requests) > count:
            return []
        return answer_with(worker.ids("abc"))(request)

    worker.scheduler.script = script


async def progress(worker: RunningWorker, batch_id: str, completed: int) -> openai.types.Batch:
    batch: Any = None

    async def has_come_so_far() -> bool:
        nonlocal batch
        batch = await worker.openai().batches.retrieve(batch_id)
        return batch.request_counts.completed == completed

    await eventually(has_come_so_far, f"{completed} completed lines")
    return batch


async def test_progress_shows_and_the_input_file_stays(worker: RunningWorker) -> None:
    client = worker.openai()
    answer_only(worker, 3)
    batch = await start_batch(client, [chat_line(str(i)) for i in range(10)])
    batch = await progress(worker, batch.id, 3)
    assert batch.status == "in_progress"
    assert batch.request_counts is not None
    assert batch.request_counts.total == 10
    with pytest.raises(openai.BadRequestError) as error:
        await client.files.delete(batch.input_file_id)
    assert error.value.code == "file_in_use"


async def test_a_cancelled_batch_keeps_what_was_finished(worker: RunningWorker) -> None:
    client = worker.openai()
    answer_only(worker, 3)
    batch = await start_batch(client, [chat_line(str(i)) for i in range(10)])
    await progress(worker, batch.id, 3)
    cancelling = await client.batches.cancel(batch.id)
    assert cancelling.status == "cancelling"
    batch = await ended(client, batch)
    assert batch.status == "cancelled"
    assert batch.cancelling_at is not None
    assert batch.cancelled_at is not None
    output, errors = await results(client, batch)
    assert len(output) == 3
    assert sorted(ids(output) + ids(errors)) == [str(i) for i in range(10)]
    for line in errors:
        assert (line["response"], line["error"]["code"]) == (None, "batch_cancelled")
    assert batch.request_counts is not None
    assert batch.request_counts.failed == 7
    # What ran was given up, and the input file is free.
    scheduler = worker.scheduler
    await eventually(
        lambda: len(scheduler.aborted) == len(scheduler.requests) - 3, "aborts of all that ran"
    )
    await eventually(lambda: worker.service.engine.open_requests == 0, "no more requests")
    await client.files.delete(batch.input_file_id)
    assert (await client.batches.cancel(batch.id)).status == "cancelled"


async def test_ended_batches_cannot_be_cancelled(worker: RunningWorker) -> None:
    client = worker.openai()
    batch = await ended(client, await start_batch(client, [chat_line("a")]))
    with pytest.raises(openai.BadRequestError, match="completed"):
        await client.batches.cancel(batch.id)


async def test_what_is_not_finished_in_time_has_expired(worker: RunningWorker) -> None:
    client = worker.openai()
    answer_only(worker, 3)
    batch = await start_batch(client, [chat_line(str(i)) for i in range(10)])
    await progress(worker, batch.id, 3)
    await worker.service.storage.database.write(
        lambda db: db.execute("UPDATE batch SET expires_at = ?", (int(time.time()),))
    )
    batch = await ended(client, batch)
    assert batch.status == "expired"
    assert batch.expired_at is not None
    assert batch.finalizing_at is not None
    output, errors = await results(client, batch)
    assert (len(output), len(errors)) == (3, 7)
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}


async def test_ended_batches_leave_no_lines_in_the_index(worker: RunningWorker) -> None:
    client = worker.openai()
    lines = [chat_line(str(i)) for i in range(700)]
    batch = await ended(client, await start_batch(client, lines))
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 700

    async def is_empty() -> bool:
        count = await worker.service.storage.database.read(
            lambda db: db.execute("SELECT count(*) FROM line").fetchone()[0]
        )
        return count == 0

    await eventually(is_empty, "an index without lines")


# ===== the engine =====


async def test_lines_wait_while_other_requests_do(start_worker: StartWorker) -> None:
    worker = await start_worker()  # where two requests wait
    client = worker.openai()
    batch = await start_batch(client, [chat_line("a")])
    await status(worker, batch.id, "in_progress")
    await asyncio.sleep(0.3)
    assert worker.scheduler.requests == []
    worker.scheduler.waiting_requests = 0
    assert (await ended(client, batch)).status == "completed"


@pytest.mark.parametrize(("limit", "most"), [(8, 8), (1000, 32)])
async def test_lines_in_flight_are_bounded(
    start_worker: StartWorker, limit: int, most: int
) -> None:
    worker = is_free(await start_worker(ready={"max_running_requests": limit}))
    answer_only(worker, 0)
    await start_batch(worker.openai(), [chat_line(str(i)) for i in range(100)])
    await begun(worker, most)
    await asyncio.sleep(0.3)
    assert len(worker.scheduler.requests) == most


async def test_a_full_queue_is_tried_again(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_client, "_RETRY_SECONDS", 0.01)
    client = worker.openai()
    full = FinishReason("abort", message="The queue is full", status=503)

    def script(request: GenerateRequest) -> list[TokenChunk]:
        if len(worker.scheduler.requests) <= 3:
            return [TokenChunk(request.rid, [], 0, full)]
        return answer_with(worker.ids("abc"))(request)

    worker.scheduler.script = script
    batch = await ended(client, await start_batch(client, [chat_line("a")]))
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, len(worker.scheduler.requests)) == (1, 4)


async def test_an_aborted_line_runs_again(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_client, "_RETRY_SECONDS", 0.01)
    client = worker.openai()
    answer_only(worker, 0)
    batch = await start_batch(client, [chat_line("a")])
    await begun(worker, 1)
    worker.scheduler.script = answer_with(worker.ids("abc"))
    assert (await worker.http.post("/abort_request", json={"abort_all": True})).is_success
    batch = await ended(client, batch)
    (line,) = await lines_of(client, batch.output_file_id)
    assert line["response"]["body"]["choices"][0]["finish_reason"] == "stop"
    assert len(worker.scheduler.requests) == 2


async def test_a_batch_of_responses_runs(worker: RunningWorker) -> None:
    client = worker.openai()
    worker.scheduler.script = answer_with(worker.ids("abc"))
    endpoint = "/v1/responses"
    body = {"model": "any", "input": "hi", "store": False}
    line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
    batch = await ended(client, await start_batch(client, [line], endpoint))
    (output,) = await lines_of(client, batch.output_file_id)
    answer = openai.types.responses.Response.model_validate(output["response"]["body"])
    assert answer.output_text == "abc"
    assert batch.usage is not None
    assert answer.usage is not None
    assert batch.usage.total_tokens == answer.usage.total_tokens > 0


async def test_a_batch_of_embeddings_runs(start_embedding: StartWorker) -> None:
    worker = is_free(await start_embedding())
    client = worker.openai()
    body = {"model": "any", "input": ["the cat", "the dog"]}
    endpoint = "/v1/embeddings"
    lines = [
        {"custom_id": "good", "method": "POST", "url": endpoint, "body": body},
        {"custom_id": "bad", "method": "POST", "url": endpoint, "body": {**body, "dimensions": 0}},
    ]
    batch = await ended(client, await start_batch(client, lines, endpoint))
    (output,), (error,) = await results(client, batch)
    found = openai.types.CreateEmbeddingResponse.model_validate(output["response"]["body"])
    expected = await client.embeddings.create(**body, encoding_format="float")
    assert found == expected
    assert batch.usage is not None
    assert batch.usage.input_tokens == found.usage.prompt_tokens
    assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 400)


@pytest.mark.parametrize("embeds", [False, True])
async def test_a_batch_that_the_model_cannot_answer_is_refused(
    start_worker: StartWorker, start_embedding: StartWorker, embeds: bool
) -> None:
    worker = await (start_embedding if embeds else start_worker)()
    with pytest.raises(openai.BadRequestError) as error:
        await start_batch(worker.openai(), [], CHAT if embeds else "/v1/embeddings")
    assert (error.value.code, error.value.param) == ("unsupported_model", "endpoint")


async def test_batches_are_for_workers_of_their_model(start_worker: StartWorker) -> None:
    mine = await start_worker(served_model_name="mine")
    other = is_free(await start_worker(served_model_name="other"))
    batch = await start_batch(mine.openai(), [chat_line("a")])
    assert batch.model == "mine"
    await status(other, batch.id, "in_progress")
    assert await ended(other.openai(), await start_batch(other.openai(), [chat_line("b")]))
    assert len(other.scheduler.requests) == 1
    is_free(mine)
    batch = await ended(other.openai(), batch)
    assert (batch.status, len(mine.scheduler.requests)) == ("completed", 1)


async def test_a_line_that_the_engine_gives_up_has_failed(worker: RunningWorker) -> None:
    client = worker.openai()
    reason = FinishReason("abort", message="It cannot be computed", status=500)
    worker.scheduler.script = lambda request: [TokenChunk(request.rid, [], 0, reason)]
    batch = await ended(client, await start_batch(client, [chat_line("a")]))
    (line,) = await lines_of(client, batch.error_file_id)
    assert line["response"]["status_code"] == 500
    assert "cannot be computed" in line["response"]["body"]["error"]["message"]


# ===== several workers, one after the other or at once =====


async def test_two_workers_share_the_lines_of_a_batch(start_worker: StartWorker) -> None:
    workers = [is_free(await start_worker()) for _ in range(2)]
    first, second = (worker.openai() for worker in workers)
    for worker in workers:
        answer_only(worker, 0)
    lines = [chat_line(f"{i}") for i in range(200)]
    batch = await start_batch(first, lines)
    for worker in workers:
        await begun(worker, 8)
    for worker in workers:
        script = worker.scheduler.script = answer_with(worker.ids("abc"))
        for request in worker.scheduler.requests:
            await worker.scheduler.send(TokenChunks(script(request)))
    batch = await ended(second, batch)
    assert await first.batches.retrieve(batch.id) == batch
    output, errors = await results(second, batch)
    assert (ids(output), errors) == (ids(lines), [])
    assert sum(len(worker.scheduler.requests) for worker in workers) == 200


async def test_a_batch_is_cancelled_through_another_worker(start_worker: StartWorker) -> None:
    busy, other = [is_free(await start_worker()) for _ in range(2)]
    other.scheduler.waiting_requests = 1
    answer_only(busy, 0)
    batch = await start_batch(busy.openai(), [chat_line("a")])
    await begun(busy, 1)
    assert (await other.openai().batches.cancel(batch.id)).status == "cancelling"
    assert (await ended(other.openai(), batch)).status == "cancelled"
    await eventually(lambda: len(busy.scheduler.aborted) == 1, "the abort of what runs")


async def test_a_worker_that_ends_gives_its_lines_back_at_once(start_worker: StartWorker) -> None:
    leaving, staying = [is_free(await start_worker()) for _ in range(2)]
    staying.scheduler.waiting_requests = 1
    answer_only(leaving, 0)
    batch = await start_batch(staying.openai(), [chat_line("a")])
    await begun(leaving, 1)
    leaving.batches.cancel()
    staying.scheduler.waiting_requests = 0
    batch = await ended(staying.openai(), batch)
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 1


async def test_lines_of_a_worker_that_died_are_taken_when_its_lease_ends(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, storage = worker.openai(), worker.service.storage
    worker.scheduler.waiting_requests = 1
    batch = await start_batch(client, [chat_line("a"), chat_line("b")])
    await status(worker, batch.id, "in_progress")
    (line,) = await storage.lines.take("worker-dead", 1)
    worker.scheduler.waiting_requests = 0
    await progress(worker, batch.id, 1)
    assert len(worker.scheduler.requests) == 1
    monkeypatch.setattr(lease, "LEASE_SECONDS", -1.0)
    await storage.lines.renew("worker-dead")
    batch = await ended(client, batch)
    output = await lines_of(client, batch.output_file_id)
    assert ids(output) == ["a", "b"]
    assert line.custom_id == "a"


async def test_a_line_that_its_workers_die_of_fails(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, storage = worker.openai(), worker.service.storage
    worker.scheduler.waiting_requests = 1
    batch = await start_batch(client, [chat_line("a"), chat_line("b")])
    await status(worker, batch.id, "in_progress")
    with monkeypatch.context() as during:
        during.setattr(lease, "LEASE_SECONDS", -1.0)
        for i in range(3):
            (line,) = await storage.lines.take(f"worker-dead-{i}", 1)
            assert (line.custom_id, line.attempts) == ("a", i + 1)
    worker.scheduler.waiting_requests = 0
    batch = await ended(client, batch)
    output, errors = await results(client, batch)
    assert (ids(output), ids(errors)) == (["b"], ["a"])
    assert errors[0]["error"]["code"] == "worker_died"
    assert len(worker.scheduler.requests) == 1


async def test_a_late_result_changes_nothing(worker: RunningWorker) -> None:
    client, storage = worker.openai(), worker.service.storage
    worker.scheduler.waiting_requests = 1
    batch = await start_batch(client, [chat_line("a")])
    await status(worker, batch.id, "in_progress")
    (line,) = await storage.lines.take("worker-slow", 1)

    def finished(text: str) -> Any:
        result = json.dumps({"custom_id": "a", "text": text}).encode() + b"\n"
        return line_client.FinishedLine(line, True, result)

    assert await storage.lines.finish([finished("first"), finished("second")])
    assert not await storage.lines.finish([finished("third")])
    storage.tell()
    batch = await ended(client, batch)
    assert not await storage.lines.finish([finished("fourth")])
    assert [line["text"] for line in await lines_of(client, batch.output_file_id)] == ["first"]
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 1
