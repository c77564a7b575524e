"""A SentencePiece vocabulary with byte fallback, as GGUF files of Llama 2 hold one."""

from __future__ import annotations

import functools
from typing import Any

from tokenizers import Tokenizer

from worker.tokenization.gguf_tokenizer import tokenizer_from_gguf

_UNKNOWN, _CONTROL, _BYTE, _NORMAL = 2, 3, 6, 1
# Pieces with their scores: higher ones are joined first.
_PIECES = {
    "▁": -10.0,
    "t": -11.0,
    "h": -12.0,
    "e": -13.0,
    "he": -1.0,
    "▁t": -2.0,
    "▁the": -3.0,
    "th": -4.0,
    "the": -5.0,
    "a": -20.0,
    "b": -21.0,
    "c": -22.0,
    "ab": -7.0,
    "bc": -6.0,
}


@functools.cache
def sentencepiece_tokenizer() -> Tokenizer:
    return tokenizer_from_gguf(sentencepiece_metadata(add_bos=False))


def sentencepiece_metadata(*, add_bos: bool | None) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *_PIECES]
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *[_BYTE] * 256, *[_NORMAL] * len(_PIECES)]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + list(_PIECES.values()),
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    if add_bos is not None:
        metadata["tokenizer.ggml.add_bos_token"] = add_bos
    return metadata
