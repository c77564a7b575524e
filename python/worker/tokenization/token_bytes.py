"""What bytes a token stands for: the table under detokenization.

In the Llama family a token is a byte string, and a text is the concatenation of its tokens' bytes,
read as UTF-8. Working on bytes makes incremental detokenization exact and O(new tokens): no window
of tokens is decoded again and again.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

from .gguf_tokenizer import UnsupportedTokenizerError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Bytes of each token id of one tokenizer, looked up once a token and kept.

    WordPiece, which forgets where spaces were, gets one before each word. Raises
    UnsupportedTokenizerError if the tokenizer's decoder is of another kind than these.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._to_bytes = _TO_BYTES[_kind(tokenizer)]
        self._known: dict[int, bytes] = {}
        self._special = frozenset(
            index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special
        )

    def of(self, token_id: int, skip_special_tokens: bool) -> bytes:
        """Empty for ids that the tokenizer does not have: models pad their vocabulary."""
        if skip_special_tokens and token_id in self._special:
            return b""
        known = self._known.get(token_id)
        if known is None:
            token = self._tokenizer.id_to_token(token_id)
            known = self._known[token_id] = b"" if token is None else self._to_bytes(token)
        return known


def _gpt2_alphabet() -> dict[str, int]:
    """How byte-level BPE writes the 256 bytes: printable characters stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


_ALPHABET = _gpt2_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_ALPHABET[character] for character in token)
    except KeyError:  # an added token, which is written as it is
        return token.encode()


def _sentencepiece(token: str) -> bytes:
    single = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(single[1], 16)]) if single else token.replace("▁", " ").encode()


def _wordpiece(token: str) -> bytes:
    return (token[2:] if token.startswith("##") else f" {token}").encode()


_TO_BYTES = {"byte-level": _byte_level, "SentencePiece": _sentencepiece, "WordPiece": _wordpiece}


def _kind(tokenizer: Tokenizer) -> str:
    """One of _TO_BYTES.

    SentencePiece's stripping of the first space is for whole texts, not answers.
    """
    state = tokenizer.decoder and json.loads(tokenizer.decoder.__getstate__())
    steps = _steps(state) if state else []
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        return "byte-level"
    if kinds == {"WordPiece"}:
        return "WordPiece"
    replaced = [step for step in steps if step["type"] == "Replace"]
    spaces = all(step["pattern"] == {"String": "▁"} and step["content"] == " " for step in replaced)
    if kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"} and spaces:
        return "SentencePiece"
    found = ", ".join(sorted(kinds)) or "none"
    raise UnsupportedTokenizerError(
        f"the tokenizer's decoder ({found}) is not supported: {', '.join(_TO_BYTES)} ones are"
    )


def _steps(state: dict[str, Any]) -> list[dict[str, Any]]:
    if state["type"] == "Sequence":
        return [step for inner in state["decoders"] for step in _steps(inner)]
    return [state]
