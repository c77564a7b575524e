"""Pages of objects, as OpenAI's API lists them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def list_of(objects: Sequence[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """One page; the next one follows `after` its last id, if it `has_more`."""
    return {
        "object": "list",
        "data": objects,
        "first_id": objects[0]["id"] if objects else None,
        "last_id": objects[-1]["id"] if objects else None,
        "has_more": has_more,
    }
