"""Tool calls in what a model writes: what all formats share."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar

from .call_tags import CallTag, Tools
from .deltas import CallDelta, TextDelta, joined
from .text_reader import Give, Malformed, Steps, TextReader, Words


class _Enough(Exception):
    """A call too many begins."""


class ToolCallParser(ABC):
    """Takes an answer as it comes and gives it back as text and calls.

    `tools` are the schemas of the parameters of each tool, after its name. A call begins when the
    name of one of them and the beginning of its arguments are there. What was taken for the
    beginning of a call, and is none, is text; so is what follows where arguments break off. White
    space between text and calls is left out. With `limit`, all is left out from the beginning of
    a call that is one too many. With `calls_first` there are none behind words.

    Joined, deltas are the same for any division of the text into pushes.

    A format has `markers`, before any of which there can be no call, but at the very beginning
    (see `calls_at_start`), and `special_tokens`: those that it reads, which must be in the text.
    One whose arguments are JSON has `tags`, `triggers`, with one of which each of them begins, and
    `separators`: what may come behind one. `calls_are_json`: a whole answer may be both calls and
    a JSON object.
    """

    markers: ClassVar[tuple[str, ...]]
    special_tokens: ClassVar[tuple[str, ...]] = ()
    triggers: ClassVar[tuple[str, ...]] = ()
    separators: ClassVar[tuple[str, ...]] = ()
    calls_are_json: ClassVar[bool] = False

    def __init__(
        self, tools: Tools, limit: int | None = None, *, calls_first: bool = False
    ) -> None:
        self.reader = TextReader()
        self.tools = tools
        self._limit = limit
        self._calls_first = calls_first
        self._count = 0
        self._after_call = False
        self._has_said = False
        self._words = Words()
        self._deltas: list[TextDelta | CallDelta] = []
        self._steps = self._read()

    def push(self, text: str) -> list[TextDelta | CallDelta]:
        """What `text` adds, as far as is known."""
        self.reader.feed(text)
        return self._go_on()

    def end(self) -> list[TextDelta | CallDelta]:
        """What is left when the answer has ended."""
        self.reader.end()
        return self._go_on()

    # ===== for formats =====

    @abstractmethod
    def calls(self) -> Steps[None]:
        """Read calls from a marker on. Raises Malformed where there are none, or no more."""

    @classmethod
    def tags(cls, tools: Tools, limit: int | None) -> list[CallTag]:
        """How calls of `tools` are written, up to `limit` where one tag has several."""
        return []

    def calls_at_start(self) -> Steps[None]:
        """The same for calls that an answer begins with, without a marker."""
        yield from ()

    def new_id(self) -> str:
        """An id for a call that has none."""
        return f"call_{uuid.uuid4().hex[:24]}"

    def begin(self, name: str, call_id: str | None = None) -> Give:
        """A call begins; what was read was its beginning. Returns what takes its arguments.

        Raises Malformed if there is no such tool.
        """
        if name not in self.tools:
            raise Malformed
        if self._count == self._limit:
            raise _Enough
        self.reader.commit()
        self._words.spaces = ""
        self._after_call = True
        index, self._count = self._count, self._count + 1
        self._deltas.append(CallDelta(index, "", call_id or self.new_id(), name))
        return partial(self._argue, index)

    def arguments(self, name: str, call_id: str | None = None) -> Steps[None]:
        """Read a JSON object: the arguments of a call that begins with it."""
        head = yield from self.reader.object_head()
        give = self.begin(name, call_id)
        give(head)
        yield from self.reader.brackets("}", give)

    # ===== inside =====

    def _go_on(self) -> list[TextDelta | CallDelta]:
        next(self._steps, None)
        deltas, self._deltas = self._deltas, []
        return joined(deltas)

    def _read(self) -> Steps[None]:
        try:
            yield from self._try(self.calls_at_start())
            markers = self.markers
            while (yield from self.reader.copy_until(markers, self._say)):
                if self._calls_first and self._has_said:
                    markers = ()
                else:
                    yield from self._try(self.calls())
        except _Enough:
            return
        if not self._after_call and self._words.spaces:
            self._deltas.append(TextDelta(self._words.spaces))

    def _try(self, calls: Steps[None]) -> Steps[None]:
        try:
            yield from calls
            self.reader.commit()
        except Malformed:
            self._say(self.reader.commit())

    def _say(self, text: str) -> None:
        if words := self._words.push(text):
            self._has_said = True
            self._deltas.append(TextDelta(words.lstrip() if self._after_call else words))
            self._after_call = False

    def _argue(self, index: int, piece: str) -> None:
        self._deltas.append(CallDelta(index, piece))
