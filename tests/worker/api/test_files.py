"""/v1/files, through the `openai` client where it can say it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import httpx
import openai
import pytest

from worker.api.batch import upload

from .conftest import RunningWorker, StartWorker

HOUR = 3600


def content_folder(tmp_path: Path) -> Path:
    return tmp_path / "storage" / "files"


async def test_a_file_is_kept_shown_and_deleted(worker: RunningWorker, tmp_path: Path) -> None:
    files = worker.openai().files
    content = bytes(range(256)) * 20_000  # of several writes and reads
    made = await files.create(file=("données.bin", content), purpose="user_data")
    assert (made.object, made.status, made.purpose) == ("file", "processed", "user_data")
    assert (made.filename, made.bytes) == ("données.bin", len(content))
    assert made.expires_at is None
    assert abs(made.created_at - time.time()) < 60
    assert await files.retrieve(made.id) == made
    download = await files.content(made.id)
    assert download.read() == content
    assert "attachment" in download.response.headers["content-disposition"]
    assert [each.id async for each in files.list()] == [made.id]
    deleted = await files.delete(made.id)
    assert (deleted.id, deleted.deleted) == (made.id, True)
    for gone in (files.retrieve, files.content, files.delete):
        with pytest.raises(openai.NotFoundError) as error:
            await gone(made.id)
        assert error.value.code == "file_not_found"
    assert list(content_folder(tmp_path).iterdir()) == []


async def test_empty_files_are_files(worker: RunningWorker) -> None:
    made = await worker.openai().files.create(file=("a", b""), purpose="batch")
    assert made.bytes == 0
    assert (await worker.openai().files.content(made.id)).read() == b""


async def test_files_expire_when_asked_and_those_of_batches_by_themselves(
    worker: RunningWorker,
) -> None:
    files = worker.openai().files
    for_batch = await files.create(file=b"x", purpose="batch")
    assert for_batch.expires_at == for_batch.created_at + 30 * 24 * HOUR
    expiry = openai.types.file_create_params.ExpiresAfter(anchor="created_at", seconds=HOUR)
    short = await files.create(file=b"x", purpose="batch", expires_after=expiry)
    assert short.expires_at == short.created_at + HOUR


async def test_an_expired_file_is_gone_and_its_bytes_at_the_next_sweep(
    worker: RunningWorker, tmp_path: Path
) -> None:
    files = worker.openai().files
    expired, other = [await files.create(file=b"x", purpose="vision") for _ in range(2)]
    await worker.service.storage.database.write(
        lambda db: db.execute("UPDATE file SET expires_at = 1 WHERE id = ?", (expired.id,))
    )
    assert [each.id async for each in files.list()] == [other.id]
    with pytest.raises(openai.NotFoundError):
        await files.retrieve(expired.id)
    abandoned = content_folder(tmp_path) / "file-abandoned"
    in_the_making = content_folder(tmp_path) / "file-in-the-making"
    for path in (abandoned, in_the_making):
        path.write_bytes(b"x")
    os.utime(abandoned, (1, 1))
    await worker.service.storage.sweep()
    left = {path.name for path in content_folder(tmp_path).iterdir()}
    assert left == {other.id, in_the_making.name}


async def test_lists_have_pages_in_both_orders(worker: RunningWorker) -> None:
    files = worker.openai().files
    made = [
        (await files.create(file=b"x", purpose="batch" if i % 2 else "vision")).id for i in range(5)
    ]
    assert [each.id async for each in files.list(limit=2)] == made[::-1]
    assert [each.id async for each in files.list(limit=2, order="asc")] == made
    assert [each.id async for each in files.list(limit=1, purpose="batch")] == [made[3], made[1]]
    page = (await worker.http.get("/v1/files", params={"limit": 3, "order": "asc"})).json()
    assert (page["object"], page["has_more"]) == ("list", True)
    assert (page["first_id"], page["last_id"]) == (made[0], made[2])
    # A client that deletes what it has seen gets all the same.
    seen = []
    async for each in files.list(limit=2, order="asc"):
        seen.append(each.id)
        await files.delete(each.id)
    assert seen == made


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "10001"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"order": "up"}, "order"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_wrong_queries_are_refused(
    worker: RunningWorker, query: dict[str, str], param: str
) -> None:
    response = await worker.http.get("/v1/files", params=query)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\secret\\a.jsonl", "a.jsonl"),
        ("a\u200b\u202eb.jsonl", "ab.jsonl"),
        ("n" * 300, "n" * 255),
    ],
)
async def test_names_are_harmless(worker: RunningWorker, name: str, kept: str) -> None:
    made = await worker.openai().files.create(file=(name, b"x"), purpose="batch")
    assert made.filename == kept


FILE = ("a.jsonl", b"x")


@pytest.mark.parametrize(
    ("fields", "file", "param"),
    [
        ({}, FILE, "purpose"),
        ({"purpose": "evil"}, FILE, "purpose"),
        ({"purpose": "batch", "colour": "red"}, FILE, "colour"),
        ({"purpose": "batch", "colour[x]": "red"}, FILE, "colour"),
        ({"purpose": "batch", "purpose[x]": "red"}, FILE, "purpose[x]"),
        ({"purpose": "batch", "expires_after[seconds]": "7200"}, FILE, "expires_after.anchor"),
        (
            {
                "purpose": "batch",
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": "1",
            },
            FILE,
            "expires_after.seconds",
        ),
        ({"purpose": "batch"}, None, "file"),
        ({"purpose": "batch", "file": "text"}, None, "file"),
        ({"purpose": "x" * 70_000}, FILE, "purpose"),
        ({"purpose": "batch", "file": "text"}, FILE, "file"),
        ({str(i): "x" for i in range(17)}, FILE, None),
    ],
)
async def test_wrong_uploads_are_refused_and_leave_nothing(
    worker: RunningWorker,
    tmp_path: Path,
    fields: dict[str, str],
    file: tuple[str, bytes] | None,
    param: str | None,
) -> None:
    parts = [(name, (None, value)) for name, value in fields.items()]
    if file is not None:
        parts.append(("file", file))
    response = await worker.http.post("/v1/files", files=parts or [("x", (None, "y"))])
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert list(content_folder(tmp_path).iterdir()) == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--x\r\n"),
        (f"multipart/form-data; boundary={'b' * 300}", b"--b\r\n"),
        ("multipart/form-data; boundary=x", b"no boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\ncontent-disposition: form-data; name=a\r\n"),
        ("multipart/form-data; boundary=x", b""),
    ],
)
async def test_bodies_that_are_no_forms_are_refused(
    worker: RunningWorker, content_type: str, body: bytes
) -> None:
    headers = {"content-type": content_type}
    response = await worker.http.post("/v1/files", content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_the_file_may_come_before_its_purpose(worker: RunningWorker) -> None:
    parts = [("file", ("a", b"x")), ("purpose", (None, "batch"))]
    assert (await worker.http.post("/v1/files", files=parts)).status_code == 200


async def test_a_file_that_is_too_large_is_refused_and_leaves_nothing(
    worker: RunningWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "MAX_FILE_BYTES", 3_000_000)
    files = worker.openai().files
    assert (await files.create(file=bytes(3_000_000), purpose="batch")).bytes == 3_000_000
    with pytest.raises(openai.APIStatusError) as error:
        await files.create(file=bytes(3_000_001), purpose="batch")
    assert (error.value.status_code, error.value.code) == (413, "request_too_large")
    assert len(list(content_folder(tmp_path).iterdir())) == 1


async def test_a_client_that_leaves_its_upload_leaves_nothing(
    worker: RunningWorker, tmp_path: Path
) -> None:
    begun = asyncio.Event()

    async def body():
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield bytes(2_000_000)
        begun.set()
        await asyncio.sleep(60)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    async with httpx.AsyncClient(base_url=worker.url, trust_env=False) as http:
        sending = asyncio.ensure_future(
            http.post("/v1/files", content=body(), headers=headers, timeout=60)
        )
        await begun.wait()
        while not any(path.stat().st_size for path in content_folder(tmp_path).glob("*")):
            await asyncio.sleep(0.01)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    while list(content_folder(tmp_path).iterdir()):
        await asyncio.sleep(0.01)
    assert [each async for each in worker.openai().files.list()] == []


async def test_a_folder_that_cannot_be_written_is_an_error_that_says_so(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    worker = await start_worker(file_storage_path=str(tmp_path / "taken"))
    response = await worker.http.get("/v1/files")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "storage_failed"


async def test_two_workers_share_a_folder(start_worker: StartWorker) -> None:
    first, second = await start_worker(), await start_worker()
    made = await first.openai().files.create(file=b"shared", purpose="batch")
    assert await second.openai().files.retrieve(made.id) == made
    assert (await second.openai().files.content(made.id)).read() == b"shared"
    await second.openai().files.delete(made.id)
    assert [each async for each in first.openai().files.list()] == []
