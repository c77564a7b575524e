"""Logs of the HTTP process: one line an event on stderr, with the id of its request."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

# Of a logged text, half of this at its beginning, and half at its end.
_LOGGED_CHARACTERS = 2048

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def abridged(text: str) -> str:
    """`text` as a literal of one line; a long one without its middle."""
    left_out = len(text) - _LOGGED_CHARACTERS
    if left_out <= 0:
        return repr(text)
    half = _LOGGED_CHARACTERS // 2
    return f"{text[:half]!r} ... {left_out} characters ... {text[-half:]!r}"


class _RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        current = request_id.get()
        record.request = f" request_id={current}" if current else ""
        return True


def configure_logs(level: str, http_level: str | None) -> None:
    """`level` is for the project, `http_level` for the HTTP server (default: warning)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_RequestIdFilter())
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(name)s%(request)s %(message)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("worker").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel((http_level or "warning").upper())
