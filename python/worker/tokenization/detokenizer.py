"""Incremental detokenization: token ids in, text out, never half a character."""

from __future__ import annotations

import codecs

from .token_bytes import TokenBytes

_Utf8Decoder = codecs.getincrementaldecoder("utf-8")


class IncrementalDetokenizer:
    """The text of one answer as it grows.

    The texts that `push` and the last `flush` return, joined, are the same for any division of the
    tokens into pushes. Bytes that are not UTF-8 become U+FFFD as soon as it is known that they are
    not. Where special tokens are skipped, `shown_tokens` are not.
    """

    def __init__(
        self,
        token_bytes: TokenBytes,
        skip_special_tokens: bool = True,
        shown_tokens: frozenset[int] = frozenset(),
    ) -> None:
        self._token_bytes = token_bytes
        self._skip_special_tokens = skip_special_tokens
        self._shown_tokens = shown_tokens
        self._utf8 = _Utf8Decoder(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes; often none of a character of several bytes."""
        skip = self._skip_special_tokens and token_id not in self._shown_tokens
        return self._utf8.decode(self._token_bytes.of(token_id, skip))

    def flush(self) -> str:
        """What is left of a character that never ended."""
        return self._utf8.decode(b"", final=True)
