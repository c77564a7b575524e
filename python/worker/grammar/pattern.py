"""Regular expressions, written anew with what every backend reads in the same way.

A backend's own reading of `.`, `\\W` or `[^a]` may take in more than is meant: line ends, control
characters, bytes that are no UTF-8. So a pattern is parsed with Python's parser, and comes out as
classes of explicit ranges, groups and repetitions. Where Python's reading and ECMA 262's differ,
what both match is left.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from re import _constants as sre  # pyright: ignore
from re import _parser as parser  # pyright: ignore
from typing import Any

from .base import GrammarError, shown

# Sorted, disjoint ranges of code points, both ends included.
_Ranges = list[tuple[int, int]]

_UNICODE: _Ranges = [(0, 0xD7FF), (0xE000, sys.maxunicode)]
_DIGITS: _Ranges = [(0x30, 0x39)]
_LETTERS: _Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACES: _Ranges = [(0x09, 0x0D), (0x20, 0x20)]
_CARET = 0x5E
# What is escaped inside a JSON string, and how; other control characters are left out.
_JSON_ESCAPES = {ord(c): e for c, e in zip('"\\\b\f\n\r\t', '"\\bfnrt', strict=True)}
_JSON_PLAIN: _Ranges = [(0x20, 0x21), (0x23, 0x5B), (0x5D, 0xD7FF), (0xE000, sys.maxunicode)]

_REFUSED = {
    sre.ASSERT: "a look-around",
    sre.ASSERT_NOT: "a look-around",
    sre.GROUPREF: "a back-reference",
    sre.GROUPREF_EXISTS: "a condition",
    sre.ATOMIC_GROUP: "an atomic group",
    sre.POSSESSIVE_REPEAT: "a possessive repetition",
}
_REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT)
_STARTS = (sre.AT_BEGINNING, sre.AT_BEGINNING_STRING)
_ENDS = (sre.AT_END, sre.AT_END_STRING)


def canonical_pattern(pattern: str) -> str:
    """What matches a whole text that `pattern` matches as a whole. Raises GrammarError."""
    return _Writer(_plain_class, empty="").sequence(list(_parsed(pattern)), starts=True, ends=True)


def string_rule(pattern: str, least: int = 0, most: int | None = None) -> str:
    """In EBNF, the inside of a JSON string, escapes and all, whose text `pattern` matches as a
    whole, and which has from `least` to `most` characters. Raises GrammarError.
    """
    return _bounded(_Writer(_json_class, empty='""'), pattern, least, most)


def bounded_pattern(pattern: str, least: int, most: int | None) -> str:
    """The same for backends that write the escapes themselves, anchored."""
    return f"^({_bounded(_Writer(_unescaped_class, empty=''), pattern, least, most)})$"


def json_pattern(pattern: str, least: int, most: int | None) -> str:
    """The same as a regular expression with the escapes."""
    return _bounded(_Writer(_json_regex_class, empty=""), pattern, least, most)


def plain_characters() -> str:
    """Those that stand for themselves in a JSON string."""
    return _class(_JSON_PLAIN)


def literal(text: str) -> str:
    """What matches `text` alone."""
    return "".join(map(_escaped, map(ord, text)))


def _bounded(writer: _Writer, pattern: str, least: int, most: int | None) -> str:
    parsed = _parsed(pattern)
    items = [item for item in parsed if item[0] is not sre.AT]
    if len(items) == 1 and items[0][0] in _REPEATS:
        (kind, (low, high, inner)) = items[0]
        if inner.getwidth() == (1, 1):
            high = high if most is None else min(high, most)
            items = [(kind, (max(low, least), high, inner))]
            return writer.sequence(items, starts=False, ends=False)
    shortest, longest = parsed.getwidth()
    if shortest < least or (most is not None and longest > most):
        raise GrammarError("pattern and format go together with a length only where they have it")
    return writer.sequence(list(parsed), starts=True, ends=True)


def _parsed(pattern: str) -> Any:
    try:
        parsed = parser.parse(pattern)
    except (re.error, OverflowError) as error:
        raise GrammarError(f"{shown(pattern)} is no regular expression: {error}") from error
    if parsed.state.flags & ~re.UNICODE.value:
        raise GrammarError(f"{shown(pattern)} has flags, which are not supported")
    return parsed


class _Writer:
    """Writes parsed patterns; `write_class` writes a set of characters, `empty` is no text."""

    def __init__(self, write_class: Callable[[_Ranges], str], empty: str) -> None:
        self._write_class = write_class
        self._empty = empty

    def sequence(self, items: Sequence[Any], *, starts: bool, ends: bool) -> str:
        """`starts`, `ends`: the text starts or ends here, where an anchor may stand."""
        written = []
        for i, (kind, value) in enumerate(items):
            first = starts and all(each[0] is sre.AT for each in items[:i])
            last = ends and all(each[0] is sre.AT for each in items[i + 1 :])
            written.append(self._item(kind, value, starts=first, ends=last))
        return "".join(written) or self._empty

    def _item(self, kind: Any, value: Any, *, starts: bool, ends: bool) -> str:
        if kind in _REFUSED:
            raise GrammarError(f"{_REFUSED[kind]} is not supported in a regular expression")
        if kind is sre.AT:
            if (starts and value in _STARTS) or (ends and value in _ENDS):
                return ""
            raise GrammarError("an anchor or word boundary inside a regular expression")
        if kind is sre.BRANCH:
            parts = (self.sequence(part, starts=starts, ends=ends) for part in value[1])
            return f"({'|'.join(parts)})"
        if kind is sre.SUBPATTERN:
            _, added, removed, part = value
            if added or removed:
                raise GrammarError("flags in a regular expression are not supported")
            return f"({self.sequence(part, starts=starts, ends=ends)})"
        if kind in _REPEATS:
            least, most, part = value
            inner = self.sequence(part, starts=False, ends=False)
            is_one = len(part) == 1 and part[0][0] not in _REPEATS and inner[:1] in ("[", "(")
            inner = inner if is_one else f"({inner})"
            return inner + _count(least, None if most is sre.MAXREPEAT else most)
        return self._write_class(_ranges([(kind, value)], wide=False))


def _count(least: int, most: int | None) -> str:
    if most is not None and most < least:
        raise GrammarError("a repetition can have no length")
    if most is None and least < 2:
        return "*+"[least]
    return f"{{{least},{'' if most is None else most}}}"


# ===== sets of characters =====


def _ranges(items: Sequence[Any], *, wide: bool) -> _Ranges:
    """What single characters match; `wide`: in any reading of `\\d`, `\\w`, `\\s`, else in all."""
    found: _Ranges = []
    for kind, value in items:
        if kind is sre.NEGATE:
            return _without(_ranges(items[1:], wide=not wide))
        if kind is sre.IN:
            found += _ranges(value, wide=wide)
        elif kind is sre.LITERAL:
            found.append((value, value))
        elif kind is sre.NOT_LITERAL:
            found += _without([(value, value)])
        elif kind is sre.RANGE:
            found.append(value)
        elif kind is sre.ANY:
            found += _without([(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)])
        else:
            assert kind is sre.CATEGORY, kind
            found += _category(value, wide=wide)
    return found


def _category(name: Any, *, wide: bool) -> _Ranges:
    match name:
        case sre.CATEGORY_DIGIT:
            return _matched_by(str.isdecimal) if wide else _DIGITS
        case sre.CATEGORY_WORD:
            return [*_matched_by(str.isalnum), (0x5F, 0x5F)] if wide else _LETTERS
        case sre.CATEGORY_SPACE:
            return [*_matched_by(str.isspace), (0xFEFF, 0xFEFF)] if wide else _SPACES
        case sre.CATEGORY_NOT_DIGIT:
            return _without(_category(sre.CATEGORY_DIGIT, wide=not wide))
        case sre.CATEGORY_NOT_WORD:
            return _without(_category(sre.CATEGORY_WORD, wide=not wide))
    return _without(_category(sre.CATEGORY_SPACE, wide=not wide))


@functools.cache
def _matched_by(test: Callable[[str], bool]) -> _Ranges:
    return _joined((c, c) for c in range(sys.maxunicode + 1) if test(chr(c)))


def _joined(ranges: Iterable[tuple[int, int]]) -> _Ranges:
    joined: _Ranges = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def _without(ranges: Iterable[tuple[int, int]]) -> _Ranges:
    """All characters but these."""
    left, after = [], 0
    for first, last in _joined(ranges):
        left.append((after, first - 1))
        after = last + 1
    return [each for each in [*left, (after, sys.maxunicode)] if each[0] <= each[1]]


def _common(ranges: _Ranges, others: _Ranges) -> _Ranges:
    pairs = ((max(a, c), min(b, d)) for a, b in _joined(ranges) for c, d in others)
    return [each for each in pairs if each[0] <= each[1]]


def _plain_class(ranges: _Ranges) -> str:
    common = _common(ranges, _UNICODE)
    if not common:
        raise GrammarError("a class in a regular expression is empty")
    return r"\^" if common == [(_CARET, _CARET)] else _class(common)


def _unescaped_class(ranges: _Ranges) -> str:
    """As `_json_class` does it."""
    return _plain_class(_common(ranges, _JSON_PLAIN) or ranges)


def _json_class(ranges: _Ranges) -> str:
    """Without what JSON escapes, if anything else is left: a mixture makes slow automata."""
    plain = _common(ranges, _JSON_PLAIN)
    if plain:
        return '"^"' if plain == [(_CARET, _CARET)] else _class(plain)
    ranges = _joined(ranges)
    escapes = [e for c, e in _JSON_ESCAPES.items() if any(a <= c <= b for a, b in ranges)]
    if not escapes:
        raise GrammarError("a class in a regular expression matches nothing that JSON can say")
    return f"({_class([(0x5C, 0x5C)])}{_class([(ord(escape), ord(escape)) for escape in escapes])})"


def _json_regex_class(ranges: _Ranges) -> str:
    written = _json_class(ranges)
    return r"\^" if written == '"^"' else written


def _class(ranges: _Ranges) -> str:
    """A `^` is not the first in it: backends take that for a negation, however it is written."""
    if ranges[0][0] == _CARET:
        ranges = [(_CARET + 1, ranges[0][1]), *ranges[1:], (_CARET, _CARET)]
        ranges = [each for each in ranges if each[0] <= each[1]]
    return f"[{''.join(_range(*each) for each in ranges)}]"


def _range(first: int, last: int) -> str:
    return _escaped(first) if first == last else f"{_escaped(first)}-{_escaped(last)}"


def _escaped(code: int) -> str:
    """As it is written inside a class."""
    if code > 0x7F or chr(code).isalnum():
        return chr(code)
    return f"\\u{code:04x}"
