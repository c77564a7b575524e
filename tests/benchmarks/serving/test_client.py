"""What is sent, what is noted of an answer, and how each way to fail is named."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace

import pytest
from benchmarks.serving.backends import BACKENDS, Answer, FailedError
from benchmarks.serving.client import Client
from benchmarks.serving.workloads import Request
from tests.benchmarks.serving.sse_server import HANG, STREAM, SseServer, event, serving, whole

from benchmarks.serving import client as client_module

REQUEST = Request("a question", input_length=4, output_length=3)
DONE = b"data: [DONE]\n\n"
USAGE = {
    "choices": [],
    "usage": {
        "prompt_tokens": 9,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 5},
    },
}


@pytest.fixture
def paced(monkeypatch) -> SseServer:
    """A server whose pieces arrive one by one, at 101, 102, ... seconds; what it is asked is sent
    at 100.
    """
    server = SseServer(turns=asyncio.Semaphore(0))
    seconds = itertools.count(100.0)

    def look_at_clock() -> float:
        now = next(seconds)
        if now > 100 and server.turns is not None:
            server.turns.release()
        return now

    monkeypatch.setattr(client_module, "time", SimpleNamespace(perf_counter=look_at_clock))
    return server


async def ask(
    *pieces: bytes,
    backend: str = "openai",
    limit: float = 20.0,
    server: SseServer | None = None,
    origin: float = 90.0,
) -> Answer:
    server = server or SseServer()
    server.pieces = pieces
    chosen = BACKENDS[backend]("tiny", extra={"top_k": 7})
    async with serving(server) as url, Client(url, limit, "secret") as client:
        return await client.send(chosen, REQUEST, 8.0, origin)


def text(value: str, finish_reason: str | None = None) -> bytes:
    return event({"choices": [{"text": value, "finish_reason": finish_reason}]})


def chat(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    return event({"choices": [{"delta": delta, "finish_reason": finish_reason}]})


def native(tokens: int, finish_reason: object = None) -> bytes:
    counts = {"prompt_tokens": 9, "completion_tokens": tokens, "cached_tokens": 5}
    return event({"text": "a" * tokens, "meta_info": {**counts, "finish_reason": finish_reason}})


# ===== what is sent =====


@pytest.mark.parametrize(
    ("backend", "path", "expected"),
    [
        (
            "sglang",
            "/generate",
            {
                "text": "a question",
                "sampling_params": {"temperature": 0, "max_new_tokens": 3, "ignore_eos": True},
                "stream": True,
                "top_k": 7,
            },
        ),
        (
            "openai",
            "/v1/completions",
            {
                "prompt": "a question",
                "model": "tiny",
                "max_tokens": 3,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                "ignore_eos": True,
                "top_k": 7,
            },
        ),
    ],
)
async def test_the_body_of_each_api(backend, path, expected):
    server = SseServer()
    await ask(backend=backend, server=server)
    ((asked_path, headers, body),) = server.asked
    assert asked_path == path
    assert body == expected
    assert headers["authorization"] == "bearer secret"


async def test_a_chat_is_one_message_of_the_user():
    server = SseServer()
    await ask(backend="openai-chat", server=server)
    path, _, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "a question"}]
    assert "prompt" not in body


def test_more_can_be_asked_in_every_body():
    extra = {"sampling_params": {"top_p": 0.9}, "rid": "a"}
    asked = BACKENDS["sglang"]("tiny", extra=extra).body(REQUEST)
    assert asked["rid"] == "a"
    assert asked["sampling_params"]["top_p"] == 0.9
    assert asked["sampling_params"]["max_new_tokens"] == 3


def test_eos_is_only_ignored_where_wanted():
    for name in BACKENDS:
        assert "ignore_eos" not in str(BACKENDS[name]("tiny", ignore_eos=False).body(REQUEST))


# ===== what is noted =====


async def test_completions(paced):
    answer = await ask(
        STREAM, text("a"), text("b"), text("c", "length"), event(USAGE), DONE, server=paced
    )
    assert answer.failure is None
    assert (answer.due, answer.sent) == (8.0, 10.0)
    assert answer.chunk_times == [11.0, 12.0, 13.0]
    assert answer.chunk_tokens == [1, 1, 1]
    assert (answer.prompt_tokens, answer.output_tokens, answer.cached_tokens) == (9, 3, 5)


async def test_a_chat_begins_with_its_first_text(paced):
    answer = await ask(
        STREAM,
        chat({"role": "assistant", "content": ""}),
        chat({"content": "a"}),
        chat({"reasoning_content": "b"}),
        chat({}, "stop"),
        event(USAGE),
        DONE,
        backend="openai-chat",
        server=paced,
    )
    assert answer.failure is None
    assert answer.chunk_times == [12.0, 13.0]
    assert answer.output_tokens == 3


async def test_the_native_api_says_how_many_tokens_a_chunk_has(paced):
    end = {"type": "length", "length": 6}
    answer = await ask(
        STREAM,
        native(2),
        native(2),
        native(5),
        native(6, end),
        DONE,
        backend="sglang",
        server=paced,
    )
    assert answer.failure is None
    assert answer.chunk_times == [11.0, 13.0, 14.0]
    assert answer.chunk_tokens == [2, 3, 1]
    assert (answer.prompt_tokens, answer.output_tokens, answer.cached_tokens) == (9, 6, 5)


async def test_events_that_are_cut_anywhere_count_when_they_are_whole(paced):
    first, second = text("a"), text("b", "stop")
    answer = await ask(
        STREAM, first[:9], first[9:-2], b"\n\n" + second + b": a comment\n\n", DONE, server=paced
    )
    assert answer.failure is None
    assert answer.chunk_times == [13.0, 13.0]


async def test_lines_may_end_as_in_http(paced):
    answer = await ask(STREAM, text("a", "stop").replace(b"\n", b"\r\n"), server=paced)
    assert answer.failure is None
    assert answer.chunk_times == [11.0]


async def test_an_answer_of_special_tokens_alone_ends_with_its_first_chunk(paced):
    answer = await ask(STREAM, text(""), text("", "length"), event(USAGE), DONE, server=paced)
    assert answer.failure is None
    assert answer.chunk_times == [12.0]


async def test_a_connection_is_used_again():
    server = SseServer()
    async with serving(server) as url, Client(url, 20) as client:
        server.pieces = whole("200 OK", b'{"data": [{"id": "tiny"}]}')
        assert [await client.first_model() for _ in range(3)] == ["tiny"] * 3
        assert len(client._all) == 1


# ===== failures =====


@pytest.mark.parametrize(
    ("pieces", "failure"),
    [
        (
            whole("503 Busy", b'{"error": {"message": "the queue is full"}}'),
            "HTTP 503: the queue is full",
        ),
        (whole("400 Bad", b'{"detail": "no\\n such model"}'), "HTTP 400: no such model"),
        (whole("400 Bad", b'{"error": "wrong"}'), "HTTP 400: wrong"),
        (whole("502 Bad Gateway", b"<html>"), "HTTP 502: <html>"),
        (whole("500 Oh", b""), "HTTP 500"),
        ([STREAM, text("a"), text("b")], "the answer broke off before its end"),
        ([STREAM, DONE], "the answer has no tokens"),
        (
            [STREAM, text("a"), event({"error": {"message": "a worker died"}}), DONE],
            "in mid-stream: a worker died",
        ),
    ],
)
async def test_every_failure_has_its_reason(pieces, failure):
    assert (await ask(*pieces)).failure == failure


async def test_strange_events_are_failures():
    for piece in (b"data: no json\n\n", event([1]), event({"choices": [3]}), event({"usage": [1]})):
        failure = (await ask(STREAM, piece, DONE)).failure
        assert failure is not None
        assert failure.startswith("an event that /v1/completions does not have")
    failure = (await ask(STREAM, text("a"), DONE, backend="sglang")).failure
    assert failure == "an event that /generate does not have: KeyError('meta_info')"


async def test_a_server_that_hangs_or_is_not_there():
    assert (await ask(STREAM, text("a"), HANG, limit=0.1)).failure == "no whole answer in 0.1 s"
    async with serving(SseServer()) as url:
        pass
    async with Client(url, 20) as client:
        answer = await client.send(BACKENDS["sglang"]("tiny"), REQUEST)
        assert answer.failure is not None
        assert answer.failure.startswith("ConnectError")
        with pytest.raises(FailedError, match="ConnectError"):
            await client.ask("POST", "/flush_cache")


async def test_questions_about_the_server_fail_with_a_reason():
    server = SseServer(whole("404 Not Found", b'{"detail": "Not Found"}'))
    async with serving(server) as url, Client(url, 20) as client:
        with pytest.raises(FailedError, match="/flush_cache: HTTP 404: Not Found"):
            await client.ask("POST", "/flush_cache")
        server.pieces = whole("200 OK", b'{"data": []}')
        with pytest.raises(FailedError, match="/v1/models names no model"):
            await client.first_model()
