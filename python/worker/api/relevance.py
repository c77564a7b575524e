"""How well two texts fit each other: a cross-encoder's score, or the cosine of two embeddings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..tokenization.tokenizer import ModelInput
from .embedding import EmbeddedText, Numbers, embed, fitting, info_of, new_rids
from .errors import bad_request
from .service import WorkerService


@dataclass(frozen=True)
class NamedText:
    """A text and the field that it came from."""

    text: str
    field: str


async def relevance(
    service: WorkerService, pairs: Sequence[tuple[NamedText, NamedText]], kind: str
) -> tuple[list[float], list[EmbeddedText]]:
    """A score for each pair, and the texts that were computed for them.

    With an embedding model each text is computed once, and a score lies between -1 and 1. With a
    classification model of one score it is the sigmoid of it, and the texts are joined as the
    tokenizer joins pairs. `kind` begins the request ids. Raises ApiError.
    """
    info = info_of(service)
    if info.kind == "embedding":
        return await _cosines(service, pairs, kind)
    if info.size != 1:
        raise bad_request(
            f"The model {service.model_name} gives {info.size} scores for a text, not one for a "
            "pair of texts: ask /classify",
            "model",
            "unsupported_model",
        )
    texts = [(first.text, second.text) for first, second in pairs]
    inputs = await service.encode_inputs(texts)
    if not info.pairs:
        inputs = [ModelInput(each.input_ids) for each in inputs]
    inputs = fitting(service, inputs, [second.field for _, second in pairs])
    answers = await embed(service, inputs, new_rids(kind, len(inputs)))
    return [_sigmoid(float(answer.values[0])) for answer in answers], answers


async def _cosines(
    service: WorkerService, pairs: Sequence[tuple[NamedText, NamedText]], kind: str
) -> tuple[list[float], list[EmbeddedText]]:
    fields: dict[str, str] = {}
    for each in itertools.chain.from_iterable(pairs):
        fields.setdefault(each.text, each.field)
    texts = list(fields)
    inputs = fitting(service, await service.encode_inputs(texts), list(fields.values()))
    answers = await embed(service, inputs, new_rids(kind, len(inputs)))
    points = {
        text: _of_length_one(answer.values) for text, answer in zip(texts, answers, strict=True)
    }
    cosines = (float(points[first.text] @ points[second.text]) for first, second in pairs)
    return [max(-1.0, min(each, 1.0)) for each in cosines], answers  # rounding goes beyond 1


def _of_length_one(values: Numbers) -> Numbers:
    length = float(np.linalg.norm(values))
    return values / length if length > 0 else values


def _sigmoid(value: float) -> float:
    """Of numbers of any size: the exponent is never positive."""
    tail = math.exp(-abs(value))
    return 1 / (1 + tail) if value >= 0 else tail / (1 + tail)
