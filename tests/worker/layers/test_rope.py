"""Rope frequencies and the rotation against Hugging Face's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from worker.layers.rope import RotaryEmbedding, inverse_frequencies, rotate
from worker.layers.rope_config import RopeConfig

HEAD_DIM, MAX_POSITIONS = 32, 512

SCALINGS: dict[str, tuple[dict[str, Any], RopeConfig]] = {
    "default": ({}, RopeConfig(10000.0)),
    "dynamic": ({"factor": 4.0}, RopeConfig(10000.0, "dynamic")),
    "linear": ({"factor": 4.0}, RopeConfig(10000.0, "linear", 4.0)),
    "llama3": (
        {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
        RopeConfig(10000.0, "llama3", 8.0, 128, low_freq_factor=1.0, high_freq_factor=4.0),
    ),
    "yarn": (
        {"factor": 4.0, "original_max_position_embeddings": 128},
        RopeConfig(10000.0, "yarn", 4.0, 128),
    ),
    "yarn, all settings": (
        {
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 1.2,
            "mscale_all_dim": 0.8,
            "truncate": False,
        },
        RopeConfig(
            10000.0,
            "yarn",
            4.0,
            128,
            beta_fast=16.0,
            beta_slow=2.0,
            mscale=1.2,
            mscale_all_dim=0.8,
            truncate=False,
        ),
    ),
    "yarn, attention factor": (
        {"factor": 4.0, "original_max_position_embeddings": 128, "attention_factor": 1.5},
        RopeConfig(10000.0, "yarn", 4.0, 128, attention_factor=1.5),
    ),
}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_equals_hugging_face(name: str, dtype: torch.dtype) -> None:
    scaling, config = SCALINGS[name]
    parameters = {"rope_type": config.kind, "rope_theta": config.theta, **scaling}
    reference = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=HEAD_DIM * 4,
            num_attention_heads=4,
            max_position_embeddings=MAX_POSITIONS,
            rope_parameters=parameters,
        )
    )
    positions = torch.tensor([0, 1, 2, 100, 127, 128, MAX_POSITIONS - 1])
    x = torch.randn(7, 4, HEAD_DIM, generator=torch.Generator().manual_seed(0)).to(dtype)
    cos, sin = reference(x, positions[None])
    expected, _ = apply_rotary_pos_emb(x[None], x[None], cos, sin, unsqueeze_dim=2)

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        rope = RotaryEmbedding(config, HEAD_DIM, MAX_POSITIONS)
    finally:
        torch.set_default_dtype(before)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05  # bfloat16: two units in the last place
    torch.testing.assert_close(rotate(x, rope(positions)), expected[0], atol=tolerance, rtol=0)


def test_llama3_scaling_keeps_short_wavelengths_and_stretches_long_ones() -> None:
    plain, _ = inverse_frequencies(RopeConfig(500000.0), 128)
    config = RopeConfig(500000.0, "llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
    scaled, amplitude = inverse_frequencies(config, 128)
    assert amplitude == 1.0
    assert scaled[0] == plain[0]
    torch.testing.assert_close(scaled[-1], plain[-1] / 8)
    assert ((scaled <= plain) & (scaled >= plain / 8 - 1e-12)).all()


def test_frequency_factors_divide_one_by_one() -> None:
    plain, _ = inverse_frequencies(RopeConfig(10000.0), 8)
    factors = (1.0, 2.0, 4.0, 8.0)
    scaled, _ = inverse_frequencies(RopeConfig(10000.0, "factors", frequency_factors=factors), 8)
    torch.testing.assert_close(scaled, plain / torch.tensor(factors))


def test_rotating_leaves_its_input_alone_and_position_zero_unturned() -> None:
    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    rope = RotaryEmbedding(RopeConfig(10000.0), 8, 4)
    turned = rotate(x, rope(torch.tensor([0, 3])))
    torch.testing.assert_close(x, kept, atol=0, rtol=0)
    torch.testing.assert_close(turned[0], x[0], atol=0, rtol=0)
    assert not torch.allclose(turned[1], x[1])


def test_unknown_scaling_is_refused() -> None:
    with pytest.raises(ValueError, match="longrope"):
        inverse_frequencies(RopeConfig(10000.0, "longrope"), 8)
