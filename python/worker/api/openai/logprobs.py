"""Log-probabilities in the two shapes of the OpenAI API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...messages import TokenLogprobs
from ...tokenization.detokenizer import IncrementalDetokenizer
from ...tokenization.native_answer import finite
from ...tokenization.text_output import TextOutput, TextRequest
from ...tokenization.token_bytes import TokenBytes

_Likeliest = list[tuple[int, float]]


def chat_logprobs(output: TextOutput, places: range, token_bytes: TokenBytes) -> dict[str, Any]:
    """`logprobs` of a chat's choice, for these places of its answer.

    A token that is no UTF-8 by itself is written with escapes: `\\xf0\\x9f`. `bytes` are what it
    adds to the text; null for a special token that is not shown.
    """

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        shown = token_bytes.of(token_id, output.request.skip_special_tokens)
        return {
            "token": _escaped(token_bytes.of(token_id, skip_special_tokens=False)),
            "logprob": finite(logprob),
            "bytes": list(shown) or None,
        }

    ids = output.output_ids[places.start : places.stop]
    content = [
        entry(token_id, value) | {"top_logprobs": [entry(*each) for each in likeliest]}
        for token_id, (value, likeliest) in zip(ids, _rows(output.logprobs, places), strict=True)
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    output: TextOutput,
    places: range,
    token_bytes: TokenBytes,
    *,
    echo: str = "",
    with_prompt: bool = False,
) -> dict[str, Any]:
    """`logprobs` of a completion's choice, for these places of its answer, which follows `echo`.

    `with_prompt`, those of the prompt's tokens come first. The likeliest tokens are joined by the
    one that stands there. One that is no UTF-8 by itself is written as `bytes:\\xf0\\x9f`.
    """
    ids = output.output_ids[places.start : places.stop]
    rows: list[tuple[float | None, _Likeliest]] = list(_rows(output.logprobs, places))
    # A stop string, which is cut off, may have tokens of its own: they stand at the text's end.
    limit = len(echo) + output.text_length
    offsets = [
        min(len(echo) + offset, limit) for offset in output.text_offsets[places.start : places.stop]
    ]
    prompt = output.prompt_logprobs
    if with_prompt and prompt is not None:
        ids = output.request.input_ids + ids
        rows = [(None, []), *_rows(prompt, range(len(prompt.chosen))), *rows]
        offsets = _prompt_offsets(output.request, echo, token_bytes) + offsets

    def name(token_id: int) -> str:
        return _named(token_bytes.of(token_id, skip_special_tokens=False))

    def at_place(token_id: int, value: float | None, likeliest: _Likeliest) -> Any:
        if value is None:
            return None
        shown: dict[str, float] = {}
        for other, each in [*likeliest, (token_id, value)]:
            shown.setdefault(name(other), finite(each))  # of one name, the likelier
        return shown

    return {
        "tokens": [name(token_id) for token_id in ids],
        "token_logprobs": [None if value is None else finite(value) for value, _ in rows],
        "top_logprobs": [at_place(token_id, *row) for token_id, row in zip(ids, rows, strict=True)],
        "text_offset": offsets,
    }


def _rows(logprobs: TokenLogprobs, places: range) -> Iterator[tuple[float, _Likeliest]]:
    """At each of these places the value there, and the likeliest tokens, if any were asked for."""
    asked = slice(places.start, places.stop)
    likeliest: list[_Likeliest] = logprobs.top[asked] or [[]] * len(places)
    return zip(logprobs.chosen[asked], likeliest, strict=True)


def _prompt_offsets(request: TextRequest, echo: str, token_bytes: TokenBytes) -> list[int]:
    """Where in `echo` the text of each token of the prompt begins.

    The ends of both are the same: a tokenizer may put tokens or a space first, and a prompt that
    was too long has lost its beginning.
    """
    detokenizer = IncrementalDetokenizer(token_bytes, request.skip_special_tokens)
    offsets = []
    length = 0
    for token_id in request.input_ids:
        offsets.append(length)
        length += len(detokenizer.push(token_id))
    shift = len(echo) - length - len(detokenizer.flush())
    return [min(max(offset + shift, 0), len(echo)) for offset in offsets]


def _escaped(token: bytes) -> str:
    return token.decode("utf-8", "backslashreplace")


def _named(token: bytes) -> str:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return f"bytes:{_escaped(token)}"
