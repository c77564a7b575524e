"""The listening socket."""

from __future__ import annotations

import asyncio
import socket

from worker.api.http_address import bind, listen


async def test_connections_send_small_answers_at_once() -> None:
    """TCP_NODELAY, which asyncio sets where the protocol of the listening socket is named."""
    bound = bind("127.0.0.1", 0)
    listen(bound)
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def on_connection(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async with await asyncio.start_server(on_connection, sock=bound):
        _, writer = await asyncio.open_connection(*bound.getsockname())
        assert await accepted == 1
        writer.close()
