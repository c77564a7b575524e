"""The reasoning at the beginning of an answer, apart from what is to be read."""

from __future__ import annotations

from dataclasses import dataclass

from .deltas import ReasoningDelta, TextDelta
from .text_reader import Steps, TextReader, Words


@dataclass(frozen=True)
class ReasoningFormat:
    """The tags of a family of models. `begins_open`: answers begin inside of the reasoning."""

    start: str
    end: str
    begins_open: bool = False

    def is_open_after(self, prompt: str) -> bool:
        """Whether an answer begins inside of the reasoning: prompts can open it, or close it."""
        opened = self.begins_open and not self.is_over_after(prompt)
        return opened or prompt.rstrip().endswith(self.start)

    def is_over_after(self, prompt: str) -> bool:
        """Whether an answer begins behind the reasoning: it is turned off."""
        return prompt.rstrip().endswith(self.end)


class ReasoningParser:
    """Takes an answer as it comes and gives it back as reasoning and text.

    The reasoning begins with its tag, or without it where the answer is inside already
    (`is_open`), and ends with the other tag; after that all is text. White space around the
    reasoning is left out. Joined, deltas are the same for any division of the text into pushes.
    """

    def __init__(self, form: ReasoningFormat, is_open: bool) -> None:
        self._form = form
        self._is_open = is_open
        self._reader = TextReader()
        self._words = Words()
        self._reasoning = ""
        self._text = ""
        self._steps = self._read()

    def push(self, text: str) -> list[ReasoningDelta | TextDelta]:
        """What `text` adds, as far as is known."""
        self._reader.feed(text)
        return self._go_on()

    def end(self) -> list[ReasoningDelta | TextDelta]:
        """What is left when the answer has ended."""
        self._reader.end()
        return self._go_on()

    def _go_on(self) -> list[ReasoningDelta | TextDelta]:
        next(self._steps, None)
        deltas: list[ReasoningDelta | TextDelta] = []
        if self._reasoning:
            deltas.append(ReasoningDelta(self._reasoning))
        if self._text:
            deltas.append(TextDelta(self._text))
        self._reasoning = self._text = ""
        return deltas

    def _read(self) -> Steps[None]:
        reader, form = self._reader, self._form
        yield from reader.spaces()
        if (yield from reader.take(form.start)) or self._is_open:
            yield from reader.spaces()
            if (yield from reader.copy_until((form.end,), self._reason)):
                yield from reader.expect(form.end)
                yield from reader.spaces()
        else:
            self._say(reader.commit())
        yield from reader.copy_until((), self._say)

    def _reason(self, text: str) -> None:
        self._reasoning += self._words.push(text)

    def _say(self, text: str) -> None:
        self._text += text
