"""The servers that several files of tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..serving import FLEET, WORKER
from .clients import MODEL, Clients, clients_of


@pytest.fixture(scope="session", params=[WORKER, FLEET], ids=["worker", "fleet"])
def clients(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Clients]:
    """The same tests run over a worker, and over a fleet of two."""
    flags = ["--model-path", MODEL, "--max-total-tokens", "20000", "--dtype", "float32"]
    flags += ["--enable-cache-report", "--enable-metrics", "--chat-template", "hermes"]
    flags += ["--tool-call-parser", "qwen25", "--reasoning-parser", "qwen3"]
    yield from clients_of(request.param, tmp_path_factory.mktemp("storage"), *flags)
