"""What scripted embedding models answer with, and the tokens that their texts are made of."""

from __future__ import annotations

import math

from worker.messages import EmbeddingInfo, EmbedRequest

EMBEDS = EmbeddingInfo("embedding", 4, normalized=True)
CROSS_ENCODER = EmbeddingInfo("classification", 1, pairs=True)
REWARDS = EmbeddingInfo("classification", 1)
CLASSIFIES = EmbeddingInfo("classification", 3, labels=("no", "maybe", "yes"))

# Of the WordPiece tokenizer of the tests.
CLS, SEP, THE, CAT, DOG, CAR = 2, 3, 5, 6, 7, 8


def animals(request: EmbedRequest) -> list[float]:
    """A point of length 1: how many cats, dogs and cars a text has, and a little of something."""
    counts = [request.input_ids.count(each) for each in (CAT, DOG, CAR)]
    length = math.sqrt(sum(count * count for count in counts) + 0.01)
    return [*(count / length for count in counts), 0.1 / length]
