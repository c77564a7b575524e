"""The address that HTTP listens on, taken before anything costly is done."""

from __future__ import annotations

import socket

from .scheduler_process import StartError


def bind(host: str, port: int) -> socket.socket:
    """Take the address, without listening yet: early clients are refused instead of kept waiting.

    Raises StartError, with one clear line, if it is taken or is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY on the connections of a socket that names its protocol, and on no
    # others: without it a token waits for the client's acknowledgement of the one before, 40 ms.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise _cannot_listen(host, port, error) from error
    return bound


def listen(bound: socket.socket) -> None:
    """Raises StartError if another process has come to listen there since `bind`."""
    try:
        bound.listen(2048)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: OSError) -> StartError:
    return StartError(f"cannot listen on {host} port {port}: {error.strerror or error}")
