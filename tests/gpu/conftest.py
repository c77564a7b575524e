"""These tests need an NVIDIA GPU; elsewhere they are skipped. They need no HTTP library.

SmolLM2's file is looked for where `radixfleet pull` puts it (RADIXFLEET_CACHE names another place).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worker.embedded_models import EMBEDDED_MODELS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    model = EMBEDDED_MODELS["smollm2-135m"]
    if not model.is_pulled():
        pytest.skip(f"{model.path} is not there: radixfleet pull smollm2-135m")
    return model.path
