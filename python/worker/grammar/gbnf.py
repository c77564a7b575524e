"""Grammars in GBNF, with what every backend reads in the same way.

Classes become explicit ranges of characters, as a backend's own reading of `[^a]` may take in bytes
that are no UTF-8, and characters come as themselves where they were escaped.
"""

from __future__ import annotations

import re
import sys

from .pattern import canonical_pattern

_TOKEN = re.compile(
    r'"(?:[^"\\\n]|\\.)*"|\[(?:[^\]\\\n]|\\.)+\]|#[^\n]*|[^\W\d][\w.-]*[ \t]*::=|.', re.DOTALL
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)


def canonical_grammar(text: str) -> str:
    """The same grammar, on the same lines. Raises GrammarError."""
    return "".join(_canonical(token) for token in _TOKEN.findall(text))


def one_line_rules(text: str) -> str:
    """A canonical grammar with each rule on a line, without comments, and with short escapes."""
    return "".join(_in_line(token) for token in _TOKEN.findall(text))


def _in_line(token: str) -> str:
    if token[0] in "\r\n#":
        return " "
    if token[0] in '"[':
        return _ESCAPE.sub(lambda escape: escape[0].replace("u00", "x", 1), token)
    return f"\n{token}" if token.endswith("::=") else token


def _canonical(token: str) -> str:
    if len(token) > 1 and token[0] == "[":
        return canonical_pattern(token)
    if token[0] == '"':
        return _ESCAPE.sub(_unescaped, token)
    return token


def _unescaped(escape: re.Match[str]) -> str:
    *hexadecimal, other = escape.groups()
    if other is not None:
        return escape[0]
    code = int(next(filter(None, hexadecimal)), 16)
    return chr(code) if 0x7F < code <= sys.maxunicode else f"\\u{code:04x}"
