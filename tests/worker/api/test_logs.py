"""Logs hold prompts and answers only when asked to."""

from __future__ import annotations

import logging

import pytest

from worker.api.logs import abridged

from .conftest import StartWorker
from .fake_scheduler import answer_with


@pytest.mark.parametrize("log_requests", [False, True])
async def test_texts_are_logged_only_when_asked_for(
    start_worker: StartWorker, caplog: pytest.LogCaptureFixture, log_requests: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    worker = await start_worker(log_requests=log_requests)
    worker.scheduler.script = answer_with(worker.ids("my answer"))
    headers = {"x-request-id": "id-of-mine"}
    body = {"text": "my prompt", "rid": "r1"}
    await worker.http.post("/generate", json=body, headers=headers)
    ours = [record for record in caplog.records if record.name.startswith("worker.")]
    text = "\n".join(record.getMessage() for record in ours)
    assert ("my prompt" in text) == ("my answer" in text) == log_requests
    assert "POST /generate status=200" in text
    assert "finished rid=r1 prompt_tokens=9" in text


def test_of_a_long_text_its_beginning_and_its_end_are_logged() -> None:
    assert abridged("a\nb") == r"'a\nb'"
    shown = abridged("begin" + "x" * 10_000 + "end")
    assert shown.startswith("'beginxx")
    assert shown.endswith("xxend'")
    assert "' ... 7960 characters ... '" in shown
    assert len(shown) < 2200


def test_lines_carry_the_id_of_their_request(capsys: pytest.CaptureFixture[str]) -> None:
    from worker.api.logs import configure_logs, request_id

    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {
        logger: logger.level for logger in map(logging.getLogger, (None, "worker", "uvicorn"))
    }
    try:
        configure_logs("info", None)
        token = request_id.set("abc")
        logging.getLogger("worker.test").info("with")
        request_id.reset(token)
        logging.getLogger("worker.test").info("without")
        logging.getLogger("uvicorn.error").info("quiet")
    finally:
        root.handlers = handlers
        for logger, level in levels.items():
            logger.setLevel(level)
    with_id, without_id = capsys.readouterr().err.splitlines()
    assert with_id.endswith("INFO worker.test request_id=abc with")
    assert without_id.endswith("INFO worker.test without")
