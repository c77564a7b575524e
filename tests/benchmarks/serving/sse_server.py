"""A server that answers with given bytes, in given pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
HANG = b""
"""A piece after which nothing more comes."""


def event(content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def whole(status: str, body: bytes) -> list[bytes]:
    """An answer that is not a stream."""
    return [f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body]


@dataclass
class SseServer:
    """Sends `pieces` to whoever asks; with `turns` each waits for a turn after the one before."""

    pieces: Sequence[bytes] = ()
    turns: asyncio.Semaphore | None = None
    asked: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    """Path, headers and body of each request."""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.asked.append((head[0].split()[1], headers, json.loads(body or b"null")))
        for piece in self.pieces:
            if piece == HANG:
                await reader.read()
            writer.write(piece)
            await writer.drain()
            if self.turns is not None and piece != STREAM:
                await self.turns.acquire()
        writer.close()


@asynccontextmanager
async def serving(server: SseServer) -> AsyncIterator[str]:
    """Its URL, as long as the block runs."""
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
