"""A batch as its row in the index has it, and as clients see it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

COMPLETION_WINDOW = "24h"
WINDOW_SECONDS = 24 * 3600

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
# As SQL writes a list.
UNENDED = "('validating', 'in_progress', 'finalizing', 'cancelling')"


@dataclass(frozen=True)
class BatchRecord:
    """Times are seconds since 1970; `metadata` and `errors` are JSON.

    `output_seconds` is how long its files are kept, `worker` who validates or ends it.
    """

    id: str
    endpoint: str
    input_file_id: str
    model: str
    metadata: str | None
    output_seconds: int | None
    status: Status
    worker: str | None
    errors: str | None
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    total: int
    completed: int
    failed: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int

    def shown(self) -> dict[str, Any]:
        """OpenAI's Batch object."""
        errors = None if self.errors is None else json.loads(self.errors)
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "model": self.model,
            "errors": errors and {"object": "list", "data": errors},
            "input_file_id": self.input_file_id,
            "completion_window": COMPLETION_WINDOW,
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.created_at,
            "in_progress_at": self.in_progress_at,
            "expires_at": self.expires_at,
            "finalizing_at": self.finalizing_at,
            "completed_at": self.completed_at,
            "failed_at": self.failed_at,
            "expired_at": self.expired_at,
            "cancelling_at": self.cancelling_at,
            "cancelled_at": self.cancelled_at,
            "request_counts": {
                "total": self.total,
                "completed": self.completed,
                "failed": self.failed,
            },
            "usage": {
                "input_tokens": self.input_tokens,
                "input_tokens_details": {"cached_tokens": self.cached_tokens},
                "output_tokens": self.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": self.input_tokens + self.output_tokens,
            },
            "metadata": None if self.metadata is None else json.loads(self.metadata),
        }
