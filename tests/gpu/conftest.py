"""These tests need an NVIDIA GPU; elsewhere they are skipped. They need no HTTP library.

SmolLM2's file is looked for where `radixfleet pull` puts it (RADIXFLEET_CACHE names another place).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from worker.embedded_models import EMBEDDED_MODELS

from ..worker.checkpoints import hf_reference
from ..worker.engine.prompts import PARAGRAPHS, TEXTS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(autouse=True)
def memory_given_back() -> Iterator[None]:
    """An engine's memory is free when the next test begins, though cycles may hold it."""
    yield
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    model = EMBEDDED_MODELS["smollm2-135m"]
    if not model.is_pulled():
        pytest.skip(f"{model.path} is not there: radixfleet pull smollm2-135m")
    return model.path


@pytest.fixture(scope="session")
def tokenizer(smollm2) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)


@pytest.fixture(scope="session")
def prompts(tokenizer) -> list[list[int]]:
    """20, of a few words to a few paragraphs."""
    return [tokenizer(text)["input_ids"] for text in TEXTS + PARAGRAPHS]


@pytest.fixture(scope="session")
def reference(smollm2) -> PreTrainedModel:
    """SmolLM2 in bfloat16, by Hugging Face."""
    return hf_reference(smollm2, torch.bfloat16).to("cuda")


@pytest.fixture
def sharing_plans(monkeypatch) -> list[bool]:
    """Of every plan of a step that decodes, whether it shares prefixes; those for the capture of
    CUDA graphs come first.
    """
    from worker.attention.triton import TritonBackend

    plans: list[bool] = []
    plan_host = TritonBackend.plan_host

    def noted(self, *arguments, **named):
        plan = plan_host(self, *arguments, **named)
        if plan is not None:
            plans.append(plan.shares_prefixes)
        return plan

    monkeypatch.setattr(TritonBackend, "plan_host", noted)
    return plans
