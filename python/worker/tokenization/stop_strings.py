"""Watching a growing text for stop strings, which must never go out, not even in part."""

from __future__ import annotations

from collections.abc import Sequence


class StopWatcher:
    """Lets text through that can belong to no stop string, and holds back what could begin one.

    Of several matches the one that begins first counts, and of those the shortest. At most one
    character less than the longest stop string is held. Stop strings are not empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._first_characters = {stop[0] for stop in self._stops}
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """What may go out now. After a match (see `matched`) nothing more does."""
        if not self._stops or not text:
            return text
        if self.matched is not None:
            return ""
        seen = self._held + text
        begin = self._find_match(seen)
        if self.matched is not None:
            self._held = ""
            return seen[:begin]
        begin = self._find_beginning(seen)
        self._held = seen[begin:]
        return seen[:begin]

    def flush(self) -> str:
        """The text held back, when the answer has ended without a match."""
        held, self._held = self._held, ""
        return held

    def _find_match(self, text: str) -> int:
        found = [(text.find(stop), len(stop), stop) for stop in self._stops if stop in text]
        if not found:
            return len(text)
        begin, _, self.matched = min(found)
        return begin

    def _find_beginning(self, text: str) -> int:
        """Where the longest tail that begins a stop string starts; the end if there is none."""
        first = max(0, len(text) - self._longest + 1)
        for begin in range(first, len(text)):
            if text[begin] not in self._first_characters:
                continue
            tail = text[begin:]
            if any(stop.startswith(tail) for stop in self._stops):
                return begin
        return len(text)
