"""Reading a text that is still being written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

_T = TypeVar("_T")
Steps = Generator[None, None, _T]
Give = Callable[[str], object]

SPACES = re.compile(r"\s+")
_IN_STRING = re.compile(r'[^"\\]+')
_SCALAR = re.compile(r'[^\s,:"{}\[\]]+')
_JSON_MARKS = re.compile(r'\\.?|["{}\[\]]', re.DOTALL)
_PYTHON_MARKS = re.compile(r"""\\.?|["'(){}\[\]]""", re.DOTALL)
_CLOSERS = {"(": ")", "{": "}", "[": "]"}


class Malformed(Exception):
    """The text is not what it was taken for."""


class Words:
    """Text as it comes, without the white space at its end: that waits for more."""

    def __init__(self) -> None:
        self.spaces = ""

    def push(self, text: str) -> str:
        """With what had waited, up to the last word."""
        whole = self.spaces + text
        words = whole.rstrip()
        self.spaces = whole[len(words) :]
        return words


class TextReader:
    """A text that is read from its beginning while it grows at its end.

    What may have to wait for more text is a generator that yields then: a format is written as if
    all text were there, with `yield from`. Nothing is read twice, so the time is linear.
    """

    def __init__(self) -> None:
        self._text = ""
        self._committed = 0  # what is before this place is forgotten
        self._at = 0
        self._ended = False

    def feed(self, text: str) -> None:
        """More has been written."""
        self._text += text

    def end(self) -> None:
        """Nothing more will be."""
        self._ended = True

    def commit(self) -> str:
        """What was read since the last commit. Places in the text are others after it."""
        read = self._text[self._committed : self._at]
        if 2 * self._at > len(self._text):  # seldom enough for the time to stay linear
            self._text, self._at = self._text[self._at :], 0
        self._committed = self._at
        return read

    def peek(self) -> Steps[str]:
        """The next character; none at the end."""
        while self._at == len(self._text):
            if self._ended:
                return ""
            yield
        return self._text[self._at]

    def take(self, literal: str) -> Steps[bool]:
        """Read `literal`, if it comes next."""
        while True:
            there = self._text[self._at : self._at + len(literal)]
            if there == literal:
                self._at += len(literal)
                return True
            if self._ended or not literal.startswith(there):
                return False
            yield

    def expect(self, literal: str) -> Steps[None]:
        """Read `literal`. Raises Malformed if something else comes next."""
        if not (yield from self.take(literal)):
            raise Malformed

    def run(self, characters: re.Pattern[str]) -> Steps[str]:
        """Read all that comes of the kind that `characters` matches one or more of."""
        start = self._at
        while True:
            if found := characters.match(self._text, self._at):
                self._at = found.end()
            if self._ended or self._at < len(self._text):
                return self._text[start : self._at]
            yield

    def spaces(self) -> Steps[None]:
        """Read white space, if any comes."""
        yield from self.run(SPACES)

    def copy_until(self, markers: Sequence[str], give: Give) -> Steps[str | None]:
        """Give and commit all that comes before the first of `markers`, which is not read.

        What may be the beginning of one waits. None at the end of the text.
        """
        self.commit()
        pattern = re.compile("|".join(map(re.escape, markers)) or "(?!)")
        while True:
            found = pattern.search(self._text, self._at)
            if found is not None:
                self._read_to(found.start(), give)
                return found.group()
            end = len(self._text) if self._ended else _beginning(self._text, self._at, markers)
            self._read_to(end, give)
            if self._ended:
                return None
            yield

    # ===== JSON and Python =====

    def string(self) -> Steps[str]:
        """Read a JSON string. Raises Malformed if there is none."""
        yield from self.expect('"')
        start = self._at - 1
        while True:
            yield from self.run(_IN_STRING)
            if (yield from self._next()) == '"':
                break
            yield from self._next()  # what a backslash stands before
        try:
            return json.loads(self._text[start : self._at], strict=False)
        except ValueError:
            raise Malformed from None

    def _next(self) -> Steps[str]:
        character = yield from self.peek()
        if not character:
            raise Malformed
        self._at += 1
        return character

    def value(self) -> Steps[None]:
        """Read a JSON value, whatever it is."""
        match (yield from self.peek()):
            case '"':
                yield from self.string()
            case "{" | "[":
                yield from self.brackets("")
            case _:
                if not (yield from self.run(_SCALAR)):
                    raise Malformed

    def object_head(self) -> Steps[str]:
        """Read the brace of a JSON object up to its first key or its end; returns what was read.

        Raises Malformed if none begins here.
        """
        start = self._at
        yield from self.expect("{")
        yield from self.spaces()
        head = self._text[start : self._at]
        if (yield from self.peek()) not in ('"', "}"):
            raise Malformed
        return head

    def object(self) -> Steps[str]:
        """Read a JSON object. Raises Malformed if there is none."""
        start = self._at
        yield from self.object_head()
        yield from self.brackets("}")
        return self._text[start : self._at]

    def brackets(
        self,
        closers: str,
        give: Give | None = None,
        marks: re.Pattern[str] = _JSON_MARKS,
    ) -> Steps[None]:
        """Read up to the bracket that closes what is open: `closers`, or what begins here.

        With `give`, all is given and committed as it comes. Only brackets and strings are looked
        at. Raises Malformed at a bracket that closes something else, and at the end.
        """
        quote, awaited = "", list(closers)
        while True:
            end = len(self._text)
            for found in marks.finditer(self._text, self._at):
                mark = found.group()
                if mark == "\\" and not self._ended:  # what it stands before is not there yet
                    end = found.start()
                elif mark[0] == "\\" or (quote and mark != quote):
                    continue
                elif mark in ('"', "'"):
                    quote = "" if quote else mark
                elif mark in _CLOSERS:
                    awaited.append(_CLOSERS[mark])
                elif [mark] != awaited[-1:]:
                    self._read_to(found.start(), give)
                    raise Malformed
                else:
                    awaited.pop()
                    if not awaited:
                        self._read_to(found.end(), give)
                        return
            self._read_to(end, give)
            if self._ended:
                raise Malformed
            yield

    def python_arguments(self) -> Steps[str]:
        """Read up to the parenthesis that closes a call in Python, and past it."""
        start = self._at
        yield from self.brackets(")", marks=_PYTHON_MARKS)
        return self._text[start : self._at - 1]

    def _read_to(self, at: int, give: Give | None) -> None:
        self._at = at
        if give is not None and at > self._committed:
            give(self.commit())


def _beginning(text: str, start: int, markers: Sequence[str]) -> int:
    """Where after `start` the longest tail that one of `markers` begins with starts, or the end."""
    longest = max(map(len, markers), default=1)
    for at in range(max(start, len(text) - longest + 1), len(text)):
        if any(marker.startswith(text[at:]) for marker in markers):
            return at
    return len(text)
