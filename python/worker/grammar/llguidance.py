"""llguidance: derivatives of regular expressions under an Earley parser; masks as they come."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import llguidance
import numpy as np
from llguidance.gbnf_to_lark import gbnf_to_lark

from ..messages import GrammarSpec
from .base import CompiledGrammar, GrammarBackend, GrammarError, GrammarMatcher, Vocabulary
from .gbnf import canonical_grammar, one_line_rules
from .json_schema import canonical_schema
from .pattern import bounded_pattern, canonical_pattern
from .structural_tag import Part, SpecialTokens, StructuralTag

# JSON as `json.dumps` writes it.
_JSON_OPTIONS: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
# Beyond it floats do not know all integers.
_LARGEST_INTEGER = 2**53

# What special tokens begin with, to the library.
_MARK = b"\xff"


class LLGuidance(GrammarBackend):
    """The library's stop token is one behind the vocabulary: when a text may end is asked apart.

    What is compiled is the library's own form of a grammar, which it has checked; the rest it does
    as texts need it, within limits of its own.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._special = SpecialTokens(vocabulary)

    @cached_property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(self._vocabulary)))

    def compile(self, spec: GrammarSpec) -> bytes:
        try:
            match spec.kind:
                case "json_schema":
                    grammar = llguidance.LLMatcher.grammar_from_json_schema(
                        _schema(spec.text), overrides=_JSON_OPTIONS
                    )
                case "regex":
                    pattern = canonical_pattern(spec.text)
                    grammar = llguidance.LLMatcher.grammar_from_regex(pattern)
                case "ebnf":
                    rules = one_line_rules(canonical_grammar(spec.text))
                    grammar = llguidance.LLMatcher.grammar_from_lark(gbnf_to_lark(rules))
                case "structural_tag":
                    grammar = _tag_grammar(StructuralTag.of(spec.text), self._special)
        except (GrammarError, RecursionError, UnicodeEncodeError):
            raise
        except Exception as error:  # the converter's are of many kinds
            raise GrammarError(_line(str(error))) from error
        reason = llguidance.LLMatcher.validate_grammar(grammar, self._tokenizer)
        if reason:
            raise GrammarError(_line(reason))
        return grammar.encode()

    def load(self, compiled: bytes) -> CompiledGrammar:
        return _Compiled(self._tokenizer, compiled.decode())


def _schema(text: str) -> str:
    return canonical_schema(text, bounded_pattern, _enum)


def _enum(values: list[Any]) -> dict[str, Any]:
    """The library reads large integers as floats."""
    large = [each for each in values if type(each) is int and abs(each) > _LARGEST_INTEGER]
    if large:
        raise GrammarError(f"{large[0]} in enum or const is too large; use a string")
    return {"enum": values}


def _tag_grammar(tag: StructuralTag, special: SpecialTokens) -> str:
    """A structural tag, with a grammar of its own for each schema.

    Free text ends with a trigger or a special token, which may be one that structures begin with.
    """
    schemas = [json.loads(schema) for schema in tag.written(_schema)]
    otherwise = tag.otherwise_written(_schema)
    ends = [_lark(special.parts(structure.end)) for structure in tag.structures]

    def one_of(begins: Iterable[tuple[int, list[Part]]]) -> str:
        return " | ".join(f"{_lark(begin)} @schema{i} {ends[i]}" for i, begin in begins)

    begins = [(i, special.parts(structure.begin)) for i, structure in enumerate(tag.structures)]
    with_token = [(i, parts) for i, parts in begins if isinstance(parts[0], int)]
    triggers = list(enumerate(tag.triggers))
    tagged = [f"trigger{i} ({one_of(tag.begun(each, special))})" for i, each in triggers]
    if with_token:
        tagged.append(f"TEXT ({one_of(with_token)})")
    others = special.without(tag.triggers)
    text = f"(TEXT <[{','.join(map(str, others))}]>)*" if others else ""
    if tag.separators is not None:
        separators = [f"({_lark(special.parts(each))})?" for each in tag.separators]
        between = " | ".join(separators) or '""'
        start = (
            f"({one_of(begins)})" if tag.stop_after_first else f"(({one_of(begins)}) ({between}))+"
        )
        if otherwise is not None:
            start += " | @otherwise"
    elif tag.stop_after_first:
        start = f"{text} (tagged | TEXT)"
    else:
        start = f"{text} (tagged {text})* TEXT"
    rules = [
        f"start: {start}",
        f"tagged: {' | '.join(tagged)}",
        *(f"trigger{i}[lazy]: TEXT {_lark([each])}" for i, each in triggers),
        "TEXT: /(?s:.*)/",
    ]
    grammars: list[dict[str, Any]] = [{"lark_grammar": "\n".join(rules)}]
    named = {f"schema{i}": schema for i, schema in enumerate(schemas)}
    if otherwise is not None:
        named["otherwise"] = json.loads(otherwise)
    for name, schema in named.items():
        with_options = {**schema, "x-guidance": _JSON_OPTIONS}
        grammars.append({"name": name, "json_schema": with_options})
    return json.dumps({"grammars": grammars})


def _lark(parts: list[Part]) -> str:
    return " ".join(f"<[{part}]>" if isinstance(part, int) else json.dumps(part) for part in parts)


def _line(reason: str) -> str:
    return reason.strip().split("\n", 1)[0]


class _Tokens:
    """The vocabulary as the library wants it: special tokens have bytes that begin with 0xFF."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        tokens = vocabulary.tokens
        self.eos_token_id = len(tokens)
        self.special_token_ids = [i for i, text in enumerate(tokens) if not text]
        self.special_token_ids.append(self.eos_token_id)
        self.tokens = [
            *(text or _MARK + b"<%d>" % i for i, text in enumerate(tokens)),
            _MARK + b"<end>",
        ]
        self._ids = {text: i for i, text in enumerate(tokens) if text}

    def __call__(self, text: bytes | str) -> list[int]:
        """Tokens of single bytes: nothing depends on how the library's own texts are cut."""
        data = text.encode() if isinstance(text, str) else text
        return [self._ids[byte] for i in range(len(data)) if (byte := data[i : i + 1]) in self._ids]


class _Compiled(CompiledGrammar):
    def __init__(self, tokenizer: llguidance.LLTokenizer, grammar: str) -> None:
        self._matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0)

    def matcher(self) -> GrammarMatcher:
        return _Matcher(self._matcher.deep_copy())


class _Matcher(GrammarMatcher):
    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def accept(self, token: int) -> bool:
        return self._matcher.try_consume_tokens([token]) == 1

    def fill_mask(self, mask: np.ndarray) -> None:
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)

    @property
    def is_complete(self) -> bool:
        return self._matcher.is_accepting()

    @property
    def failure(self) -> str | None:
        reason = _line(self._matcher.get_error())
        return f"it is too complex for llguidance: {reason}" if ": " in reason else None

    def forced_text(self) -> bytes:
        text, _, _ = self._matcher.compute_ff_bytes().partition(_MARK)
        return text

    def rollback(self, count: int) -> None:
        self._matcher.rollback(count)
