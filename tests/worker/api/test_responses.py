"""/v1/responses, through the `openai` client where it can say it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from worker.messages import FinishReason, GenerateRequest, TokenChunk

from .conftest import RunningWorker, StartWorker, eventually
from .fake_scheduler import answer_with
from .worker_process import WorkerProcess

CHAT = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


async def create(worker: RunningWorker, **arguments: Any) -> Any:
    return await worker.openai().responses.create(**{"model": "any", "input": "hi", **arguments})


def sent(worker: RunningWorker) -> GenerateRequest:
    """The last request that reached the engine."""
    return worker.scheduler.requests[-1]


def prompt_of(worker: RunningWorker) -> str:
    tokens = sent(worker).input_ids
    return worker.service.tokenizer.decode(tokens, skip_special_tokens=False)


def fail_after(token_ids: list[int], *, message: str) -> Any:
    """A script: these tokens, then the engine gives the request up."""

    def script(request: GenerateRequest) -> list[TokenChunk]:
        end = FinishReason("abort", message=message)
        return [TokenChunk(request.rid, token_ids, 0), TokenChunk(request.rid, [], 0, end)]

    return script


# ===== create =====


async def test_a_response_is_the_clients_type_with_every_field(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("the café"), cached_tokens=4)
    response = await create(worker, temperature=0)
    assert response.id.startswith("resp_")
    assert (response.object, response.status, response.model) == ("response", "completed", "any")
    assert response.output_text == "the café"
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert message.id.startswith("msg_")
    assert message.content[0].annotations == message.content[0].logprobs == []
    assert response.completed_at >= response.created_at
    assert (response.error, response.incomplete_details) == (None, None)
    request = sent(worker)
    assert request.rid == response.id
    assert request.input_ids == worker.ids(CHAT)
    assert request.sampling.temperature == 0
    usage = response.usage
    assert usage.input_tokens == len(request.input_ids)
    assert usage.input_tokens_details.cached_tokens == 4
    assert usage.input_tokens_details.cache_write_tokens == len(request.input_ids) - 4
    assert usage.output_tokens == len(worker.ids("the café")) + 1
    assert usage.output_tokens_details.reasoning_tokens == 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert Response.model_fields.keys() - response.model_fields_set == set()
    Response.model_validate(response.model_dump())


async def test_parameters_are_echoed(worker: RunningWorker) -> None:
    given = {
        "instructions": "be brief",
        "max_output_tokens": 20,
        "max_tool_calls": 3,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "key",
        "prompt_cache_retention": "in_memory",
        "safety_identifier": "id",
        "temperature": 0.5,
        "tool_choice": "none",
        "top_p": 0.25,
        "truncation": "auto",
        "user": "me",
    }
    response = await create(worker, **given)
    assert {name: getattr(response, name) for name in given} == given
    assert response.to_dict()["store"] is True


async def test_neutral_values_are_taken(worker: RunningWorker) -> None:
    response = await create(
        worker,
        background=False,
        include=[],
        reasoning={"effort": None, "summary": None},
        service_tier="priority",
        store=False,
        text={"format": {"type": "text"}, "verbosity": "medium"},
        tools=[],
        tool_choice="auto",
        top_logprobs=0,
        stream=False,
        extra_body={"conversation": None, "prompt": None, "context_management": []},
    )
    assert response.service_tier == "default"
    assert response.to_dict()["store"] is False


async def test_without_a_limit_an_answer_may_fill_the_context(worker: RunningWorker) -> None:
    await create(worker)
    assert sent(worker).sampling.max_new_tokens == 512 - len(sent(worker).input_ids)


async def test_the_limit_makes_a_response_incomplete(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("abcdef"))
    response = await create(worker, max_output_tokens=3)
    assert response.output_text == "abc"
    assert response.status == response.output[0].status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.completed_at is None


async def test_additions_for_sampling_reach_the_engine(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("one\n\ntwo"), finish=None)
    extra = {"top_k": 3, "min_p": 0.2, "repetition_penalty": 0.9, "seed": 5, "stop": "\n\n"}
    response = await create(worker, extra_body=extra)
    assert (response.output_text, response.status) == ("one", "completed")
    sampling = sent(worker).sampling
    assert (sampling.top_k, sampling.min_p, sampling.seed) == (3, 0.2, 5)
    assert sampling.repetition_penalty == 0.9
    assert worker.scheduler.aborted == [response.id]


async def test_items_become_the_prompt_that_a_chat_has(worker: RunningWorker) -> None:
    items = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "input_text", "text": t} for t in ("a", "b")]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "x", "annotations": [], "logprobs": []},
            ],
        },
        {"type": "message", "role": "user", "content": "c"},
    ]
    await create(worker, instructions="first", input=items)
    from_items = sent(worker).input_ids
    messages: Any = [
        {"role": "system", "content": "first"},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "c"},
    ]
    await worker.openai().chat.completions.create(model="any", messages=messages)
    assert sent(worker).input_ids == from_items


async def test_log_probabilities_are_those_of_a_chat(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("the é 😀"))
    asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = await create(worker, **asked)
    assert response.top_logprobs == 2
    entries = response.output[0].content[0].to_dict()["logprobs"]
    messages: Any = [{"role": "user", "content": "hi"}]
    chat = await worker.openai().chat.completions.create(
        model="any", messages=messages, logprobs=True, top_logprobs=2
    )
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    expected = [entry.to_dict() for entry in logprobs.content or []]
    assert expected[-1]["bytes"] is None, "the token that stops is not shown"
    for each in expected:
        for entry in (each, *each["top_logprobs"]):
            entry["bytes"] = entry["bytes"] or []
    assert entries == expected
    pieces = []
    async for event in await create(worker, **asked, stream=True):
        if event.type == "response.output_text.delta":
            pieces += event.to_dict()["logprobs"]
        if event.type == "response.output_text.done":
            assert event.to_dict()["logprobs"] == entries
        if event.type == "response.content_part.added":
            assert event.part.logprobs == [], "nothing is there yet"
    assert pieces == entries
    assert (await create(worker)).output[0].content[0].logprobs == []


async def test_input_tokens_are_counted_without_an_answer(worker: RunningWorker) -> None:
    counted = await worker.openai().responses.input_tokens.count(model="any", input="hi")
    assert counted.input_tokens == len(worker.ids(CHAT))
    assert worker.scheduler.requests == []


@pytest.mark.parametrize(
    ("arguments", "message", "param"),
    [
        ({"input": []}, "required", "input"),
        ({"input": 5}, "string", "input"),
        ({"input": ["hi"]}, "should be an object", "input[0]"),
        ({"input": [{"role": "narrator", "content": "x"}]}, "'assistant', not", "input[0].role"),
        ({"input": [{"role": "user"}]}, "required", "input[0].content"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            '"input_image" is not supported',
            "input[0].content[0].type",
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "refusal"}]}]},
            '"refusal" is not supported',
            "input[0].content[0].type",
        ),
        ({"input": [{"role": "user", "content": "x", "y": 1}]}, "Unknown", "input[0].y"),
        (
            {"input": [{"type": "web_search_call", "id": "a", "status": "completed"}]},
            '"web_search_call" is not supported',
            "input[0].type",
        ),
        ({"input": [{"role": "assistant", "content": "x"}]}, "must not be the assist", "input"),
        (
            {"input": [{"type": "reasoning", "summary": [2**64]}, {"role": "user", "content": ""}]},
            "64-bit",
            "input[0].summary",
        ),
        (
            {"input": [{"role": "user", "content": [{"text": "x"}]}]},
            "required",
            "input[0].content[0].type",
        ),
        ({"input": "x" * 600}, "at most 512 tokens", "input"),
        ({"max_output_tokens": 0}, "greater than or equal to 1", "max_output_tokens"),
        ({"max_output_tokens": 500}, "at most 512 tokens", "max_output_tokens"),
        ({"tool_choice": "required"}, "there are no tools", "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "required", "text.format.name"),
        ({"text": {"verbosity": "low"}}, "not supported", "text.verbosity"),
        ({"reasoning": {"effort": "much"}}, "'xhigh' or 'max', not", "reasoning.effort"),
        ({"reasoning": {"summary": "auto"}}, "not supported", "reasoning.summary"),
        ({"background": True}, "true is not supported", "background"),
        ({"conversation": "conv_1"}, "not supported", "conversation"),
        ({"prompt": {"id": "p"}}, "not supported", "prompt"),
        ({"include": ["reasoning.encrypted_content"]}, "output_text.logprobs', not", "include[0]"),
        ({"top_logprobs": 2}, "only to be given when include has", "top_logprobs"),
        ({"top_logprobs": 21}, "less than or equal to 20", "top_logprobs"),
        ({"stream_options": {}}, "only to be given when stream is true", "stream_options"),
        (
            {"stream": True, "extra_body": {"stream_options": {"include_usage": True}}},
            "Unknown field",
            "stream_options.include_usage",
        ),
        ({"truncation": "middle"}, "'auto' or 'disabled'", "truncation"),
        ({"metadata": {"k" * 65: "v"}}, "at most 64 characters", f"metadata.{'k' * 65}.[key]"),
        ({"metadata": {str(i): "" for i in range(17)}}, "at most 16 items", "metadata"),
        ({"extra_body": {"n": 2}}, "Unknown field: 'n'", "n"),
        ({"extra_body": {"chat_template_kwargs": {"tools": []}}}, "not to be set", None),
    ],
)
async def test_what_is_not_done_is_refused(
    worker: RunningWorker, arguments: dict[str, Any], message: str, param: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await create(worker, **arguments)
    error: Any = caught.value.body
    assert message in error["message"]
    if param is not None:
        assert error["param"] == param
    assert worker.scheduler.requests == []


# ===== stream =====


async def test_events_come_in_order_and_numbered(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("a é"))
    body = {"input": "hi", "stream": True}
    answer = (await worker.http.post("/v1/responses", json=body)).text
    names, events = [], []
    for block in answer.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        names.append(name.removeprefix("event: "))
        events.append(json.loads(data.removeprefix("data: ")))
    assert names == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["type"] for event in events] == names
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["response"]["status"] == "in_progress"
    assert {event["item_id"] for event in events if "item_id" in event} == {events[2]["item"]["id"]}


@pytest.mark.parametrize("text", ["the café 😀", ""])
@pytest.mark.parametrize("limit", [None, 2])
async def test_a_stream_is_the_answer_in_pieces(
    worker: RunningWorker, text: str, limit: int | None
) -> None:
    worker.scheduler.script = answer_with(worker.ids(text), cached_tokens=2)
    whole = (await create(worker, max_output_tokens=limit)).to_dict()
    pieces, last = [], None
    async for event in await create(worker, stream=True, max_output_tokens=limit):
        if event.type == "response.output_text.delta":
            pieces.append(event.delta)
        last = event
    assert last is not None
    assert last.type == f"response.{whole['status']}"
    streamed = last.response.to_dict()
    assert "".join(pieces) == streamed["output"][0]["content"][0]["text"]
    for response in (whole, streamed):
        for changing in ("id", "created_at", "completed_at"):
            del response[changing]
        del response["output"][0]["id"]
    assert streamed == whole


async def test_the_clients_stream_helper_understands(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("the café"))
    async with worker.openai().responses.stream(model="any", input="hi") as stream:
        snapshots = [e.snapshot async for e in stream if e.type == "response.output_text.delta"]
        final = await stream.get_final_response()
    assert snapshots[-1] == final.output_text == "the café"


async def test_a_failure_before_the_first_token_has_a_status(worker: RunningWorker) -> None:
    full = FinishReason("abort", message="The queue is full", status=503)
    worker.scheduler.script = answer_with([], finish=full)
    with pytest.raises(openai.InternalServerError) as caught:
        await create(worker, stream=True)
    assert caught.value.status_code == 503


async def test_a_failure_in_mid_stream_is_the_last_event(worker: RunningWorker) -> None:
    worker.scheduler.script = fail_after(worker.ids("the"), message="out of memory")
    events = [event async for event in await create(worker, stream=True)]
    failed = events[-1]
    assert failed.type == "response.failed"
    assert failed.sequence_number == len(events) - 1
    assert failed.response.status == "failed"
    assert failed.response.error.code == "server_error"
    assert failed.response.error.message == "out of memory"
    assert failed.response.output_text == "the"
    with pytest.raises(openai.NotFoundError):
        await worker.openai().responses.retrieve(failed.response.id)


async def test_an_engine_that_is_gone_ends_the_stream(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("ab"), finish=None)
    events = []
    async for event in await create(worker, stream=True):
        events.append(event.type)
        if event.type == "response.output_text.delta" and len(events) == 6:
            worker.service.engine.fail("The engine is gone")
    assert events[-1] == "response.failed"


async def test_abort_request_cancels(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("ab"), finish=None)
    async for event in await create(worker, stream=True):
        if event.type == "response.created":
            aborted = await worker.http.post("/abort_request", json={"rid": event.response.id})
            assert aborted.json() == {"aborted": 1}
        last = event
    assert last.type == "response.incomplete"
    assert (last.response.status, last.response.incomplete_details) == ("cancelled", None)


async def test_a_client_that_leaves_aborts_its_response(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("ab"), finish=None)
    stream = await create(worker, stream=True)
    event = await anext(aiter(stream))
    await stream.close()
    await eventually(lambda: worker.scheduler.aborted == [event.response.id], "the abort")


async def test_a_response_counts_in_the_metrics(start_worker: StartWorker) -> None:
    worker = await start_worker(enable_metrics=True)
    worker.scheduler.script = answer_with(worker.ids("the"))
    response = await create(worker)
    metrics = (await worker.http.get("/metrics")).text
    assert (
        f'sglang:prompt_tokens_total{{model_name="tiny"}} {response.usage.input_tokens}' in metrics
    )
    assert 'func_latency_seconds_count{name="openai_v1_responses"} 1.0' in metrics


# ===== what is stored =====


async def test_a_response_is_retrieved_as_it_was_answered(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("the"))
    answered = await create(worker)
    retrieved = await worker.openai().responses.retrieve(answered.id)
    assert retrieved == answered


async def test_what_is_not_to_be_stored_leaves_no_file(
    worker: RunningWorker, tmp_path: Path
) -> None:
    answered = await create(worker, store=False)
    assert list(tmp_path.rglob("*")) == []
    with pytest.raises(openai.NotFoundError) as caught:
        await worker.openai().responses.retrieve(answered.id)
    assert caught.value.code == "response_not_found"


async def test_a_conversation_goes_on_from_any_of_its_responses(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("one"))
    first = await create(worker, instructions="count")
    worker.scheduler.script = answer_with(worker.ids("two"))
    second = await create(worker, input="more", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    said = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
    assert prompt_of(worker) == (
        f"{said}<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"
    ), "instructions are not inherited"
    counted = await worker.openai().responses.input_tokens.count(
        model="any", input="more", previous_response_id=first.id
    )
    assert counted.input_tokens == second.usage.input_tokens
    await create(worker, input=None, previous_response_id=second.id, instructions="now")
    assert prompt_of(worker) == (
        f"<|im_start|>system\nnow<|im_end|>\n{said}<|im_start|>user\nmore<|im_end|>\n"
        "<|im_start|>assistant\ntwo<|im_end|>\n<|im_start|>assistant\n"
    )
    fork = await create(worker, input="other", previous_response_id=first.id)
    assert prompt_of(worker) == f"{said}<|im_start|>user\nother<|im_end|>\n<|im_start|>assistant\n"
    assert fork.id != second.id


async def test_a_streamed_response_can_be_continued(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("one"))
    async for event in await create(worker, stream=True):
        last = event
    await create(worker, input="more", previous_response_id=last.response.id)
    assert "assistant\none<|im_end|>\n<|im_start|>user\nmore" in prompt_of(worker)


async def test_items_are_referred_to_by_id(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("one"))
    first = await create(worker)
    listed = await worker.openai().responses.input_items.list(first.id)
    items = [
        {"id": listed.data[0].id},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "more"},
    ]
    await create(worker, input=items)
    assert prompt_of(worker) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
        "<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("arguments", "param", "code"),
    [
        (
            {"previous_response_id": "resp_no"},
            "previous_response_id",
            "previous_response_not_found",
        ),
        ({"input": [{"id": "msg_no", "type": "item_reference"}]}, "input[0]", "item_not_found"),
    ],
)
async def test_what_is_not_stored_is_not_found(
    worker: RunningWorker, arguments: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await create(worker, **arguments)
    assert (caught.value.param, caught.value.code) == (param, code)


async def test_input_items_come_in_pages(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("one"))
    first = await create(worker, input=[{"role": "user", "content": t} for t in "abc"])
    second = await create(worker, input="d", previous_response_id=first.id)
    items = worker.openai().responses.input_items
    listed = [item async for item in items.list(second.id, limit=2)]
    assert [(item.role, item.content[0].text) for item in listed] == [
        ("user", "d"),
        ("assistant", "one"),
        ("user", "c"),
        ("user", "b"),
        ("user", "a"),
    ]
    assert len({item.id for item in listed}) == 5
    page = await items.list(second.id, limit=2, order="asc", after=listed[-1].id)
    assert [item.id for item in page.data] == [listed[3].id, listed[2].id]
    assert page.has_more
    for query, param in (
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "msg_no"}, "after"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"extra_query": {"before": "x"}}, "before"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await items.list(second.id, **query)
        assert caught.value.param == param


async def test_a_deleted_response_is_gone_but_not_from_later_ones(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("one"))
    client = worker.openai()
    first = await create(worker)
    second = await create(worker, input="more", previous_response_id=first.id)
    await client.responses.delete(first.id)
    for call in (
        lambda: client.responses.retrieve(first.id),
        lambda: client.responses.delete(first.id),
        lambda: client.responses.cancel(first.id),
        lambda: client.responses.input_items.list(first.id),
        lambda: create(worker, previous_response_id=first.id),
        lambda: create(worker, input=[{"id": first.output[0].id, "type": "item_reference"}]),
    ):
        with pytest.raises(openai.NotFoundError):
            await call()
    await create(worker, input="still", previous_response_id=second.id)
    assert prompt_of(worker).startswith(
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\none"
    )


async def test_only_what_runs_in_the_background_could_be_cancelled(worker: RunningWorker) -> None:
    response = await create(worker)
    with pytest.raises(openai.BadRequestError, match="in the background"):
        await worker.openai().responses.cancel(response.id)


@pytest.mark.parametrize(
    "query",
    [{"stream": True}, {"starting_after": 3}, {"include": ["a"]}, {"extra_query": {"x": 1}}],
)
async def test_a_response_is_retrieved_whole_or_not_at_all(
    worker: RunningWorker, query: dict[str, Any]
) -> None:
    response = await create(worker)
    with pytest.raises(openai.BadRequestError) as caught:
        await worker.openai().responses.retrieve(response.id, **query)
    assert caught.value.param == next(iter(query.get("extra_query", query)))
    plain = await worker.openai().responses.retrieve(response.id, stream=False)
    assert plain == response


async def test_workers_of_one_folder_share_responses(start_worker: StartWorker) -> None:
    one, two = await start_worker(), await start_worker()
    response = await create(one)
    assert await two.openai().responses.retrieve(response.id) == response
    await create(two, input="more", previous_response_id=response.id)
    await two.openai().responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await one.openai().responses.retrieve(response.id)


def test_a_worker_that_is_killed_loses_no_response(tiny_folder: Path, tmp_path: Path) -> None:
    program = [str(Path(__file__).with_name("fake_worker.py"))]
    arguments = ["--model-path", str(tiny_folder), "--file-storage-pth", str(tmp_path)]
    answers = []
    for method in ("POST", "GET"):
        with closing(WorkerProcess(program, arguments)) as worker:
            url = f"{worker.event('ready')['url']}/v1/responses"
            body = {"input": "hi", "stop": "E"} if method == "POST" else None
            path = "" if method == "POST" else f"/{answers[0]['id']}"
            with httpx.Client(trust_env=False, timeout=30) as http:
                answers.append(http.request(method, url + path, json=body).json())
            worker.process.kill()
    assert answers[0]["output"][0]["content"][0]["text"] == "BCD"
    assert answers[1] == answers[0]


async def test_an_answer_that_cannot_be_stored_says_so(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    worker = await start_worker(file_storage_path=str(tmp_path / "file" / "below"))
    worker.scheduler.script = answer_with(worker.ids("one"))
    response = await create(worker)
    assert response.output_text == "one"
    assert response.to_dict()["store"] is False
    with pytest.raises(openai.InternalServerError, match="log says why"):
        await worker.openai().responses.retrieve(response.id)


# ===== what does not fit =====


async def test_truncation_drops_the_oldest_turns(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with(worker.ids("ok"))
    previous = None
    for turn in range(5):
        text = str(turn) * 75
        response = await create(worker, input=text, previous_response_id=previous)
        previous = response.id
        if turn == 3:
            fitting = previous
    arguments = {"previous_response_id": previous, "input": "last", "instructions": "be brief"}
    with pytest.raises(openai.BadRequestError) as caught:
        await create(worker, **arguments)
    assert caught.value.code == "context_length_exceeded"
    await create(worker, **arguments, truncation="auto", max_output_tokens=100)
    prompt = prompt_of(worker)
    assert prompt.startswith(
        f"<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n{'2' * 75}"
    )
    assert len(sent(worker).input_ids) + 100 <= 512
    await create(worker, **arguments, truncation="auto")
    assert len(sent(worker).input_ids) <= 256, "without a limit, half of all is left for the answer"
    assert prompt_of(worker).endswith("<|im_start|>user\nlast<|im_end|>\n<|im_start|>assistant\n")
    await create(worker, **{**arguments, "previous_response_id": fitting}, truncation="auto")
    assert "0" * 75 in prompt_of(worker), "what fits is left whole"
