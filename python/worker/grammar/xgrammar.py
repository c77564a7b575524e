"""XGrammar: pushdown automata, with masks that are mostly computed before."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import xgrammar

from ..messages import GrammarSpec
from .base import CompiledGrammar, GrammarBackend, GrammarError, GrammarMatcher, Vocabulary
from .gbnf import canonical_grammar
from .json_schema import canonical_schema
from .pattern import canonical_pattern, string_rule
from .structural_tag import Part, SpecialTokens, StructuralTag

_Format = dict[str, Any]  # of the library's structural tags


_MARK = b"\xff"


class XGrammar(GrammarBackend):
    """The library's stop token is one behind the vocabulary: when a text may end is asked apart.

    Special tokens begin with a byte that is in no text: free text, which may have any bytes, can
    have them, and a trigger is found in them; other grammars have no such byte.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._stop_token = len(vocabulary.tokens)
        self._special = SpecialTokens(vocabulary)
        tokens = [text if _MARK not in text else b"" for text in vocabulary.tokens]
        for token, text in vocabulary.special.items():
            tokens[token] = _MARK + text
        self._info = xgrammar.TokenizerInfo(
            [*tokens, b""],
            xgrammar.VocabType.RAW,
            vocab_size=self._stop_token + 1,
            stop_token_ids=[self._stop_token],
        )

    def compile(self, spec: GrammarSpec) -> bytes:
        compiler = xgrammar.GrammarCompiler(self._info, max_threads=1, cache_enabled=False)
        try:
            match spec.kind:
                case "json_schema":
                    compiled = compiler.compile_grammar(_schema_grammar(spec.text))
                case "regex":
                    compiled = compiler.compile_regex(canonical_pattern(spec.text))
                case "ebnf":
                    compiled = compiler.compile_grammar(canonical_grammar(spec.text))
                case "structural_tag":
                    tag = _tag_format(StructuralTag.of(spec.text), self._special)
                    compiled = compiler.compile_structural_tag(
                        {"type": "structural_tag", "format": tag}
                    )
        except RecursionError:
            raise
        except RuntimeError as error:
            if "bad_alloc" in str(error):
                raise MemoryError from error
            raise GrammarError(_reason(error)) from error
        return compiled.serialize_json().encode()

    def load(self, compiled: bytes) -> CompiledGrammar:
        grammar = xgrammar.CompiledGrammar.deserialize_json(compiled.decode(), self._info)
        return _Compiled(grammar)


_STRING_RULE = re.compile(r'(\w+) ::= Regex\("(\w+)", json_string=true\)\n')
# The library's characters and escapes of strings take in halves of surrogate pairs, and escapes
# that hide a name which is excluded; ours are what `json.dumps` writes.
_CHARACTERS = (r"[^\0-\x1f\"\\\r\n]", r"[ !#-\[\]-\ud7ff\ue000-\U0010ffff]")
_ESCAPES = (
    r'([\"\\/bfnrt]) | ("u" [A-Fa-f0-9] [A-Fa-f0-9] [A-Fa-f0-9] [A-Fa-f0-9])',
    r"[\"\\bfnrt]",
)


def _schema_grammar(text: str) -> str:
    """A JSON schema as EBNF.

    The library's masks for patterns take milliseconds where a length is bounded, as the quote that
    ends the string is no part of their rules. So our own rules are put between the quotes. Values
    of an enum are written by us, too, as the library rounds numbers and leaves out spaces.
    """
    names: dict[str, str] = {}  # of our own rules, in place of patterns

    def pattern_name(pattern: str, least: int, most: int | None) -> str:
        rule = f'"\\"" ({string_rule(pattern, least, most)}) "\\""'
        return names.setdefault(rule, f"own{len(names)}")

    def values_name(values: list[Any]) -> dict[str, Any]:
        rule = f"({' | '.join(_literal(value) for value in values)})"
        return {"type": "string", "pattern": names.setdefault(rule, f"own{len(names)}")}

    schema = canonical_schema(text, pattern_name, values_name)
    grammar = str(xgrammar.Grammar.from_json_schema(schema, any_whitespace=False))
    grammar = grammar.replace(*_CHARACTERS).replace(*_ESCAPES)
    own = {name: rule for rule, name in names.items()}
    rules = {rule: own[name] for rule, name in _STRING_RULE.findall(grammar)}
    grammar = _STRING_RULE.sub("", grammar)
    return re.sub(r'"\\"" (\w+) "\\""', lambda found: rules.get(found[1], found[0]), grammar)


def _literal(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'


def _tag_format(tag: StructuralTag, special: SpecialTokens) -> _Format:
    """A structural tag as the library has it, with our own grammars for schemas."""
    rest = [
        [
            {"type": "grammar", "grammar": grammar},
            *_part_formats(special.parts(structure.end)),
        ]
        for structure, grammar in zip(tag.structures, tag.written(_schema_grammar), strict=True)
    ]

    def one_of(begins: Iterable[tuple[int, list[Part]]]) -> _Format:
        wholes = [[*_part_formats(begin), *rest[i]] for i, begin in begins]
        return {"type": "or", "elements": [_sequence(whole) for whole in wholes]}

    if tag.separators is None:
        return {
            "type": "dispatch",
            "rules": [[each, one_of(tag.begun(each, special))] for each in tag.triggers],
            "loop": not tag.stop_after_first,
        }
    whole = one_of(enumerate(special.parts(each.begin) for each in tag.structures))
    if not tag.stop_after_first:
        separators = [_sequence(_part_formats(special.parts(each))) for each in tag.separators]
        if separators:
            separator = {"type": "optional", "content": {"type": "or", "elements": separators}}
            whole = _sequence([whole, separator])
        whole = {"type": "plus", "content": whole}
    otherwise = tag.otherwise_written(_schema_grammar)
    if otherwise is None:
        return whole
    return {"type": "or", "elements": [whole, {"type": "grammar", "grammar": otherwise}]}


def _sequence(elements: list[_Format]) -> _Format:
    return {"type": "sequence", "elements": elements}


def _part_formats(parts: list[Part]) -> list[_Format]:
    return [
        {"type": "token", "token": part}
        if isinstance(part, int)
        else {"type": "const_string", "value": part}
        for part in parts
    ]


def _reason(error: Exception) -> str:
    """The library's message without the place in its source, which is in brackets before it."""
    message = str(error).strip().split("\n", 1)[0]
    _, _, reason = message.partition("] ")
    _, _, reason = reason.partition(": ")
    return reason.removeprefix("Check failed: ") or message or "XGrammar does not say why not."


class _Compiled(CompiledGrammar):
    def __init__(self, grammar: xgrammar.CompiledGrammar) -> None:
        self._grammar = grammar

    def matcher(self) -> GrammarMatcher:
        return _Matcher(xgrammar.GrammarMatcher(self._grammar))


class _Matcher(GrammarMatcher):
    def __init__(self, matcher: xgrammar.GrammarMatcher) -> None:
        self._matcher = matcher

    def accept(self, token: int) -> bool:
        return self._matcher.accept_token(token)

    def fill_mask(self, mask: np.ndarray) -> None:
        self._matcher.fill_next_token_bitmask(mask[None])

    @property
    def is_complete(self) -> bool:
        return self._matcher.is_completed()

    def forced_text(self) -> bytes:
        try:
            return self._matcher.find_jump_forward_string().encode()
        except UnicodeDecodeError as error:  # of a text that ends inside a character
            return error.object

    def rollback(self, count: int) -> None:
        self._matcher.rollback(count)
