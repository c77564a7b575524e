"""Clients that speak broken HTTP, slow HTTP, or too much of it; and those that vanish."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from worker.api import http_exchange, http_server

from .conftest import RunningWorker
from .fake_scheduler import answer_with
from .tiny_worker import assert_nothing_is_held, idle_state, tiny_worker

HEAD = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
CHUNKED = b"POST /generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
BODY = b'{"text": "hi", "sampling_params": {"max_new_tokens": 4, "temperature": 0}}'
PATIENCE_SECONDS = 20


def post(body: bytes, path: str = "/generate") -> bytes:
    return HEAD.replace(b"/generate", path.encode()) % len(body) + body


@contextlib.asynccontextmanager
async def connection(
    url: str,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def last_words(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the worker closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while part := await reader.read(65536):
                received += part
    return received


def assert_refused(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["code"] == code


# ===== slow and large heads and bodies =====


@pytest.mark.parametrize("sent", [b"P", HEAD[:30], HEAD[:-2] % 1])
async def test_a_head_that_does_not_end_is_refused(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(http_server, "_HEAD_SECONDS", 0.1)
    async with connection(worker.url) as (reader, writer):
        writer.write(sent)
        assert_refused(await last_words(reader), 408, "request_timeout")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("path", "begun"), [("/generate", b'{"te'), ("/v1/files", b"--b\r")])
async def test_a_body_that_does_not_go_on_is_refused(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch, path: str, begun: bytes, chunked: bool
) -> None:
    monkeypatch.setattr(http_exchange, "BODY_PAUSE_SECONDS", 0.1)
    sent = CHUNKED + b"4\r\n" + begun + b"\r\n" if chunked else HEAD % 100 + begun
    form = b"content-type: multipart/form-data; boundary=b\r\nhost"
    async with connection(worker.url) as (reader, writer):
        writer.write(sent.replace(b"/generate", path.encode()).replace(b"host", form))
        assert_refused(await last_words(reader), 408, "request_timeout")


async def test_a_slow_client_is_served(worker: RunningWorker) -> None:
    worker.scheduler.script = answer_with([40])
    request = post(BODY).replace(b"host", b"connection: close\r\nhost")
    async with connection(worker.url) as (reader, writer):
        for start in range(0, len(request), 20):
            writer.write(request[start : start + 20])
            await writer.drain()
            await asyncio.sleep(0.01)
        assert (await last_words(reader)).startswith(b"HTTP/1.1 200 ")


async def test_a_connection_serves_many_requests_and_its_heads_are_counted_apart(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_MOST_HEAD_BYTES", 150)
    head = b"GET /get_load HTTP/1.1\r\nx-long: " + b"a" * 60 + b"\r\n\r\n"
    async with connection(worker.url) as (reader, writer):
        for _ in range(5):
            for part in (head[:50], head[50:]):
                writer.write(part)
                await asyncio.sleep(0.01)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("header", [b"x-long: ", b"x: y\r\n"], ids=["one", "many"])
async def test_a_head_that_is_too_large_is_refused(worker: RunningWorker, header: bytes) -> None:
    async with connection(worker.url) as (reader, writer):
        writer.write(HEAD[:25] + header * (200_000 // len(header)))
        assert_refused(await last_words(reader), 431, "request_too_large")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    worker: RunningWorker, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr(http_exchange, "MAX_BODY_BYTES", 1000)
    async with connection(worker.url) as (reader, writer):
        writer.write(CHUNKED + b"bb8\r\n" + b"a" * 3000 if chunked else HEAD % 10**9 + b"a" * 3000)
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")


async def test_what_is_no_http_is_refused_in_the_shape_of_all_errors(
    worker: RunningWorker,
) -> None:
    for sent in (b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
        async with connection(worker.url) as (reader, writer):
            writer.write(sent)
            assert_refused(await last_words(reader), 400, "invalid_value")


# ===== all of it at once, and then the engine is as before =====


def broken_requests() -> list[bytes]:
    chance = random.Random(5)
    deep = b"[" * 100_000 + b"]" * 100_000
    ids = json.dumps([chance.randrange(3, 250) for _ in range(300_000)]).encode()
    stream = BODY.replace(b"}}", b'}, "stream": true}')
    return [
        b"",
        bytes(chance.randrange(256) for _ in range(1000)),
        b"GET / HTTP/9.9\r\n\r\n",
        b"BREW /generate HTTP/1.1\r\n\r\n",
        b"DELETE /generate HTTP/1.1\r\n\r\n",
        b"GET /%00%ff%fe/../.. HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nx-request-id: \xff\xfe\r\nauthorization: \x80\r\n\r\n",
        HEAD % 50 + b'{"text": "half',
        HEAD % 5 + BODY,
        HEAD % (len(BODY) + 10) + BODY,
        HEAD.replace(b"%d", b"-1") + BODY,
        HEAD.replace(b"%d", b"1\r\ntransfer-encoding: chunked") + BODY,
        CHUNKED + b"zz\r\n" + BODY,
        CHUNKED + b"ffffffffffffffffffff\r\n" + BODY,
        post(BODY) + b"\x00\x01garbage\r\n\r\n",
        post(stream) + post(stream) + b"garbage" * 100,
        post(b"\xff\xfe" + BODY),
        post(b'{"text": "\xc3\x28"}'),
        post(b'{"text": "\\ud800"}'),
        post(b'{"text": "a\x00b"}'),
        post(deep),
        post(b'{"text": "hi", "sampling_params": ' + deep + b"}"),
        post(b'{"model": "m", "messages": ' + deep + b"}", "/v1/chat/completions"),
        post(b'{"input": ' + b'[{"content": ' * 5000, "/v1/responses"),
        post(b'{"text": "' + b"in the end " * 500_000 + b'"}'),
        post(b'{"input_ids": ' + ids + b"}"),
        post(b'{"input_ids": [' + b"9" * 100_000 + b"]}"),
        post(b'{"text": "hi", "rid": "' + b"r" * 1_000_000 + b'"}'),
        post(b'{"prompt": ' + json.dumps(["x"] * 100_000).encode() + b"}", "/v1/tokenize"),
        post(b'{"capacity_of_str_len": 1' + b"0" * 4000 + b"}", "/open_session"),
        post(b"--b\r\n" * 1000, "/v1/files").replace(
            b"host", b"content-type: multipart/form-data; boundary=b\r\nhost"
        ),
    ]


async def test_a_storm_of_broken_requests_leaves_the_worker_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(7)
    answers: list[bytes] = []

    async def send(url: str, request: bytes, reads: bool) -> None:
        """And wait a moment for an answer, or vanish."""
        async with connection(url) as (reader, writer):
            with contextlib.suppress(ConnectionError):
                writer.write(request)
                await writer.drain()
                if reads:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(2):
                            answers.append(await reader.read(1000))

    async def vanish(http: httpx.AsyncClient, index: int) -> None:
        sampling = {"max_new_tokens": 200, "ignore_eos": True, "n": 1 + index % 3}
        body = {"text": "in the " * (1 + index), "sampling_params": sampling, "stream": True}
        async with http.stream("POST", "/generate", json=body) as stream:
            async for _ in stream.aiter_bytes():
                if chance.random() < 0.3:
                    return

    with tiny_worker(tmp_path, "--log-level", "error") as worker:
        async with httpx.AsyncClient(base_url=worker.url, timeout=120, trust_env=False) as http:
            before = (await http.post("/generate", content=BODY)).json()["text"]
            requests = broken_requests()
            storm = [send(worker.url, each, reads) for each in requests for reads in (True, False)]
            await asyncio.gather(*storm, *(vanish(http, index) for index in range(24)))
            assert (await http.post("/generate", content=BODY)).json()["text"] == before
            assert_nothing_is_held(await idle_state(http))
            assert (await http.post("/flush_cache")).status_code == 200
            assert_nothing_is_held(await idle_state(http))
        assert worker.process.poll() is None
    assert "Traceback" not in capfd.readouterr().err
    statuses = {int(answer.split()[1]) for answer in answers if answer}
    assert 400 in statuses
    assert statuses <= {200, 400, 404, 405}
