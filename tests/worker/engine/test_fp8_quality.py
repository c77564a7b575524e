"""What FP8 costs the real model in quality, over a text that it has surely seen."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer

from worker.embedded_models import resolve_model_path
from worker.runtime.model_runner import ModelRunner

from ..runtime.texts import Texts

LICENSE = Path(__file__).parents[3] / "LICENSE"
TOKENS, CHUNK = 256, 64


@pytest.fixture(scope="module")
def prompt() -> list[int]:
    model = resolve_model_path("smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(model.parent, gguf_file=model.name)
    return tokenizer(LICENSE.read_text())["input_ids"][:TOKENS]


def logits(prompt: list[int], **options) -> torch.Tensor:
    """[TOKENS, vocab] float32, computed in chunks, so that most keys come from the cache."""
    runner = ModelRunner(
        resolve_model_path("smollm2-135m"),
        dtype="float32",
        device="cpu",
        max_total_tokens=TOKENS,
        **options,
    )
    texts = Texts(runner, [prompt])
    return torch.cat([texts.compute([(0, n, n + CHUNK)]) for n in range(0, TOKENS, CHUNK)])


@pytest.fixture(scope="module")
def exact(prompt) -> torch.Tensor:
    return logits(prompt)


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"quantization": "fp8"}, 0.08),
        ({"kv_cache_dtype": "fp8_e4m3"}, 0.006),
        ({"kv_cache_dtype": "fp8_e5m2"}, 0.015),
    ],
    ids=str,
)
def test_the_next_token_s_distribution_hardly_moves(prompt, exact, options, most):
    """Kullback-Leibler divergence in nats, the mean over all tokens."""
    found = logits(prompt, **options).log_softmax(-1)
    divergence = F.kl_div(found, exact.log_softmax(-1), reduction="batchmean", log_target=True)
    assert 0.0 < divergence < most
