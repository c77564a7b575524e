"""A text for a model that embeds or classifies, on its way through the scheduler."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..messages import Embedding, EmbedRequest, SamplingParams
from .request import Request


@dataclass(eq=False)
class EmbeddingRequest(Request):
    """A prompt without an answer, which ends with its vector.

    `token_type_ids` [prompt_length] int32 may be None: all 0. `values` are float32 numbers.
    """

    token_type_ids: np.ndarray | None = None
    values: bytes = b""

    @classmethod
    def of(cls, message: EmbedRequest, arrival: int, token_types: int) -> EmbeddingRequest:
        """`token_types` is how many token types the model tells apart."""
        request = cls.create(
            message.rid,
            message.input_ids,
            SamplingParams(max_new_tokens=0),
            eos_token_ids=(),
            arrival=arrival,
            seed=0,
            stream_interval=0,
        )
        if message.token_type_ids and token_types > 1:
            request.token_type_ids = np.array(message.token_type_ids, dtype=np.int32)
        return request

    def take_vector(self, vector: np.ndarray) -> None:
        """vector: [size] float32"""
        self.values = vector.tobytes()

    def take_chunk(self) -> Embedding:
        assert self.finish is not None, "a vector comes as a whole"
        failure = self.finish if self.finish.kind == "abort" else None
        return Embedding(self.rid, self.values, self.cached_tokens, failure)
