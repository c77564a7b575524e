"""Batches as tests make them: lines in, the lines of both result files out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import openai
from openai.types import Batch

from .conftest import RunningWorker, eventually

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"

Line = dict[str, Any]


def chat_line(custom_id: str, **body: Any) -> Line:
    given = {"model": "any", "messages": [{"role": "user", "content": custom_id}], **body}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": given}


def text_line(custom_id: str, **body: Any) -> Line:
    given = {"model": "any", "prompt": custom_id, **body}
    return {"custom_id": custom_id, "method": "POST", "url": TEXT, "body": given}


def as_jsonl(lines: Sequence[Line | str]) -> bytes:
    written = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    return "\n".join(written).encode() + b"\n"


async def start_batch(
    client: openai.AsyncOpenAI, lines: Sequence[Line | str], endpoint: str = CHAT, **more: Any
) -> Batch:
    file = await client.files.create(file=("in.jsonl", as_jsonl(lines)), purpose="batch")
    return await client.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,  # pyright: ignore[reportArgumentType]
        completion_window="24h",
        **more,
    )


async def ended(client: openai.AsyncOpenAI, batch: Batch) -> Batch:
    """The batch when nothing more happens to it."""

    async def has_ended() -> bool:
        nonlocal batch
        batch = await client.batches.retrieve(batch.id)
        return batch.status in ("completed", "failed", "expired", "cancelled")

    await eventually(has_ended, f"the end of {batch.id}")
    return batch


async def lines_of(client: openai.AsyncOpenAI, file_id: str | None) -> list[Line]:
    """Of a result file; none if there is no such file."""
    if file_id is None:
        return []
    content = (await client.files.content(file_id)).read()
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


async def results(client: openai.AsyncOpenAI, batch: Batch) -> tuple[list[Line], list[Line]]:
    """Lines of the output file and of the error file."""
    return (
        await lines_of(client, batch.output_file_id),
        await lines_of(client, batch.error_file_id),
    )


def ids(lines: Sequence[Line]) -> list[str]:
    return [line["custom_id"] for line in lines]


def is_free(worker: RunningWorker) -> RunningWorker:
    """With a scheduler where nothing waits, so that lines may start."""
    worker.scheduler.waiting_requests = 0
    return worker
