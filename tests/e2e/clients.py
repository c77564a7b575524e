"""Clients of one server, and what they ask: for one worker, and for the router of a fleet."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai

from ..serving import FLEET, serving

MODEL = "smollm2-135m"
KEY = "open-sesame"
FRANCE = "The capital of France is"
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0}
PATIENCE_SECONDS = 100


class Clients:
    """Of one server: OpenAI's, and one for everything else."""

    def __init__(self, url: str, behind_router: bool) -> None:
        self.behind_router = behind_router
        self.openai = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
        headers = {"authorization": f"Bearer {KEY}"}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)

    def post(self, path: str, **body: Any) -> Any:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None

    def batch(
        self, endpoint: Any, bodies: list[dict[str, Any]]
    ) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
        """A batch that has ended, with its results and its errors."""
        lines = [
            {"custom_id": f"line {i}", "method": "POST", "url": endpoint, "body": body}
            for i, body in enumerate(bodies)
        ]
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        file = self.openai.files.create(file=("lines.jsonl", content), purpose="batch")
        batch = self.openai.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h"
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while batch.status in ("validating", "in_progress", "finalizing"):
            assert time.monotonic() < deadline, batch
            time.sleep(0.1)
            batch = self.openai.batches.retrieve(batch.id)
        return batch, self._lines(batch.output_file_id), self._lines(batch.error_file_id)

    def _lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        return [json.loads(line) for line in self.openai.files.content(file_id).read().splitlines()]


def clients_of(module: str, folder: Any, *flags: str) -> Iterator[Clients]:
    arguments = ["--file-storage-path", str(folder), "--api-key", KEY, "--log-level", "error"]
    arguments += ["--num-threads", "1"]
    if module == FLEET:
        arguments += ["--dp-size", "2", "--router-prometheus-port", "0"]
    with serving(module, *arguments, *flags) as server:
        yield Clients(server.url, module == FLEET)
