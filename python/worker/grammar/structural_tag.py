"""Structural tags: free text, and in it structures that are held to JSON schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from ..messages import OTHERWISE
from .base import GrammarError, Vocabulary, shown

# Text, or a special token.
Part = str | int


class Structure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`begin`, a value of `schema`, `end`."""

    begin: str
    schema: dict[str, Any] | bool
    end: str

    @property
    def name(self) -> str:
        """For messages."""
        return f"structure {shown(self.begin)}"

    def written(self, write_schema: Callable[[str], str]) -> str:
        """The schema as a grammar. Raises GrammarError."""
        return _written(json.dumps(self.schema, ensure_ascii=False), write_schema, f"{self.name}: ")


class StructuralTag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Free text until one of `triggers` comes in it, which must go on as a structure that begins
    so; then free text again.

    With `stop_after_first` the text ends behind the first structure. With `separators` there is no
    free text: one structure or more, and behind each of them one of these, or nothing; or instead,
    if it is given, a value of the JSON schema `otherwise`, whose text is as its author wrote it.
    """

    structures: list[Structure]
    triggers: list[str]
    stop_after_first: bool = False
    separators: list[str] | None = None
    otherwise: str | None = None
    type: Literal["structural_tag"] = "structural_tag"

    @classmethod
    def of(cls, text: str) -> StructuralTag:
        """Raises GrammarError."""
        try:
            tag = msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            raise GrammarError(f"it is no structural tag: {error}") from error
        tag._check()
        return tag

    def _check(self) -> None:
        if not self.structures:
            raise GrammarError("structures is empty")
        for i, trigger in enumerate(self.triggers):
            if not trigger:
                raise GrammarError("a trigger is empty")
            if not any(each.begin.startswith(trigger) for each in self.structures):
                raise GrammarError(f"trigger {shown(trigger)}: no structure begins with it")
            for other in self.triggers[:i]:
                if trigger in other or other in trigger:
                    raise GrammarError(
                        f"triggers {shown(other)} and {shown(trigger)}: one is part of the other"
                    )
        for structure in self.structures:
            if not any(map(structure.begin.startswith, self.triggers)):
                raise GrammarError(f"{structure.name}: it begins with none of the triggers")
        if self.otherwise is not None and self.separators is None:
            raise GrammarError("otherwise is for texts without free text")

    def written(self, write_schema: Callable[[str], str]) -> list[str]:
        """The grammar of each structure's schema. Raises GrammarError."""
        return [structure.written(write_schema) for structure in self.structures]

    def otherwise_written(self, write_schema: Callable[[str], str]) -> str | None:
        """The grammar of `otherwise`, if there is one. Raises GrammarError."""
        return None if self.otherwise is None else _written(self.otherwise, write_schema, OTHERWISE)

    def begun(self, trigger: str, special: SpecialTokens) -> list[tuple[int, list[Part]]]:
        """The numbers of the structures that `trigger` begins, and what is missing of `begin`."""
        return [
            (i, special.parts_after(trigger, structure.begin))
            for i, structure in enumerate(self.structures)
            if structure.begin.startswith(trigger)
        ]

    def begins(self, vocabulary: Vocabulary) -> Iterator[list[int]]:
        """What a text may begin with: each structure in tokens, each as long as can be."""
        special = SpecialTokens(vocabulary)
        tokens = {text: token for token, text in enumerate(vocabulary.tokens) if text}
        for structure in self.structures:
            begin: list[int] = []
            for part in special.parts(structure.begin):
                begin += [part] if isinstance(part, int) else _longest_first(part.encode(), tokens)
            yield begin
        if self.otherwise is not None:
            yield []


def _written(schema: str, write_schema: Callable[[str], str], place: str) -> str:
    """A schema as a grammar. Raises GrammarError, with the `place` before what is wrong."""
    try:
        return write_schema(schema)
    except GrammarError as error:
        raise GrammarError(f"{place}{error}") from error


def _longest_first(text: bytes, tokens: Mapping[bytes, int]) -> Iterator[int]:
    """As far as there are tokens for it."""
    longest = max(map(len, tokens), default=0)
    while text:
        pieces = (text[:end] for end in range(min(longest, len(text)), 0, -1))
        piece = next((piece for piece in pieces if piece in tokens), None)
        if piece is None:
            return
        yield tokens[piece]
        text = text.removeprefix(piece)


class SpecialTokens:
    """Those of a vocabulary, which stand in structures wherever their text does."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.texts = {
            token: text.decode(errors="replace") for token, text in vocabulary.special.items()
        }
        self._tokens = {text: token for token, text in self.texts.items()}
        longest_first = sorted(map(re.escape, self._tokens), key=len, reverse=True)
        self._pattern = re.compile("|".join(longest_first) or "(?!)")

    def parts(self, text: str) -> list[Part]:
        """`text`, divided where special tokens are; none of the parts is empty."""
        parts: list[Part] = []
        after = 0
        for found in self._pattern.finditer(text):
            parts += [text[after : found.start()], self._tokens[found[0]]]
            after = found.end()
        return [part for part in [*parts, text[after:]] if part != ""]

    def parts_after(self, trigger: str, begin: str) -> list[Part]:
        """What is missing of `begin` behind `trigger`. Raises GrammarError."""
        first, *others = self.parts(begin)
        text = self.texts[first] if isinstance(first, int) else first
        if len(trigger) > len(text):
            raise GrammarError(
                f"trigger {shown(trigger)}: it must not go beyond {shown(text)}, with which a "
                "special token ends or begins"
            )
        return [part for part in [text[len(trigger) :], *others] if part != ""]

    def without(self, texts: list[str]) -> list[int]:
        """Those that have none of `texts` in theirs."""
        return [i for i, own in self.texts.items() if not any(text in own for text in texts)]
