"""Prompts that are given as embeddings: from numbers to what the engine takes."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np

from ..messages import InputEmbeds

_Rows = list[msgspec.Raw]
_decode_row = msgspec.json.Decoder(list[float]).decode


def pack_embeddings(rows: np.ndarray) -> InputEmbeds:
    """`rows` [tokens, hidden size] of any number type, one for each token of a prompt.

    Raises ValueError for a number that is not finite as float32.
    """
    with np.errstate(over="ignore"):  # what is too large becomes inf
        packed = np.ascontiguousarray(rows, dtype=np.float32)
    finite = np.isfinite(packed).all(axis=1)
    if not finite.all():
        raise ValueError(f"row {int(finite.argmin())} has a number that is not finite as float32")
    size = InputEmbeds.DIGEST_BYTES
    digests = (hashlib.blake2b(row.data, digest_size=size).digest() for row in packed)
    return InputEmbeds(packed.tobytes(), b"".join(digests))


def parse_embeddings(given: msgspec.Raw, hidden_size: int) -> tuple[list[InputEmbeds], bool]:
    """The prompts of a JSON array of rows, or of a list of such; and whether it is a list.

    Numbers are read row by row, so that a thread that does it leaves the interpreter to others in
    between. Raises ValueError for anything else than rows of `hidden_size` numbers.
    """
    outer = msgspec.json.decode(given, type=_Rows)
    is_list = bool(outer) and bytes(outer[0])[1:].lstrip()[:1] == b"["
    prompts = [msgspec.json.decode(each, type=_Rows) for each in outer] if is_list else [outer]
    return [_parse_rows(rows, hidden_size) for rows in prompts], is_list


def _parse_rows(rows: _Rows, hidden_size: int) -> InputEmbeds:
    if not rows:
        raise ValueError("the prompt has no tokens")
    numbers = np.empty((len(rows), hidden_size))
    for place, (row, into) in enumerate(zip(rows, numbers, strict=True)):
        values = _decode_row(row)
        if len(values) != hidden_size:
            raise ValueError(
                f"row {place} has {len(values)} numbers, and the model's hidden size is "
                f"{hidden_size}"
            )
        into[:] = values
    return pack_embeddings(numbers)
